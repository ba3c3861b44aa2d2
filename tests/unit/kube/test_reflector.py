"""The reflector against an API server that fails."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

import pytest
from aiohttp import web

from perdure.kube import reflector as module
from perdure.kube.client import KubeClient
from perdure.kube.connection import Connection
from perdure.kube.reflector import Selection, reflect

PODS = Selection("Pod", None, "a=b")
#: The original, which tests replace.
_sleep = asyncio.sleep


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "team", "resourceVersion": str(version)}}


def line(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def compact(kind: str, obj: dict[str, Any]) -> bytes:
    """A line in the form of the API server."""
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def error(code: int) -> bytes:
    return line("ERROR", {"kind": "Status", "code": code, "message": "so it is"})


class Server:
    """Server with scripted watches, each sent in pieces and then closed; the last one stays open."""

    def __init__(self) -> None:
        #: Pods and version of every list.
        self.pods: list[dict[str, Any]] = []
        self.version = 1
        #: Pieces of each watch in turn. A number is the status of a refused watch.
        self.watches: list[list[bytes] | int] = []
        self.lists = 0
        self.began: list[Mapping[str, str]] = []
        self.tokens: list[str | None] = []
        self.all_sent = asyncio.Event()
        self.closing = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        if "watch" not in request.query:
            self.lists += 1
            metadata = {"resourceVersion": str(self.version)}
            return web.json_response({"metadata": metadata, "items": self.pods})
        self.began.append(request.query)
        answer = self.watches.pop(0) if self.watches else []
        if isinstance(answer, int):
            return web.json_response({"kind": "Status", "code": answer, "message": "not now"}, status=answer)
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in answer:
            await response.write(piece)
            await asyncio.sleep(0)
        if not self.watches:
            self.all_sent.set()
            await self.closing.wait()
        return response


@pytest.fixture
async def server() -> Server:
    return Server()


@pytest.fixture
async def kube(server: Server) -> AsyncIterator[KubeClient]:
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()

    async def authorization(refresh: bool) -> str | None:
        return "renewed" if refresh else "first"

    async def connect() -> Connection:
        return Connection(host=f"http://127.0.0.1:{runner.addresses[0][1]}", authorization=authorization)

    async with KubeClient(connect) as client:
        yield client
    server.closing.set()
    await runner.cleanup()


class Listener:
    """Handler that keeps events: name, version, whether deleted."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, bool]] = []
        #: Events received until the end of each list.
        self.lists: list[int] = []

    def on_event(self, obj: Mapping[str, Any], deleted: bool) -> None:
        metadata = obj["metadata"]
        self.events.append((metadata["name"], int(metadata["resourceVersion"]), deleted))

    def on_list(self) -> None:
        self.lists.append(len(self.events))


async def follow(
    kube: KubeClient, until: Callable[[Listener], bool], *, ours: Collection[str] = (), version: str = ""
) -> Listener:
    """Reflect until the condition `until` holds."""
    listener = Listener()
    task = asyncio.create_task(
        reflect(
            kube,
            PODS,
            on_event=listener.on_event,
            on_list=listener.on_list,
            is_ours=ours.__contains__,
            version=version,
        )
    )
    async with asyncio.timeout(20):
        while not until(listener):
            assert not task.done()
            await _sleep(0.005)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    return listener


async def followed(server: Server, kube: KubeClient, *, count: int, ours: Collection[str] = ()) -> Listener:
    """Reflect until the last watch has sent all pieces and `count` events were received."""
    return await follow(
        kube, lambda listener: server.all_sent.is_set() and len(listener.events) >= count, ours=ours
    )


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.0)


async def test_objects_of_the_list_and_events_after_the_list_are_reported(
    server: Server, kube: KubeClient
) -> None:
    server.pods, server.version = [pod("a", 3), pod("b", 5)], 7
    server.watches = [
        [line("ADDED", pod("c", 8)), line("MODIFIED", pod("a", 9)), line("DELETED", pod("b", 10))]
    ]
    listener = await followed(server, kube, count=5)
    assert listener.events == [
        ("a", 3, False),
        ("b", 5, False),
        ("c", 8, False),
        ("a", 9, False),
        ("b", 10, True),
    ]
    assert listener.lists == [2]
    (query,) = server.began
    assert (query["resourceVersion"], query["labelSelector"]) == ("7", "a=b")
    assert query["allowWatchBookmarks"] == "true"
    assert module.WATCH_SECONDS <= int(query["timeoutSeconds"]) <= 2 * module.WATCH_SECONDS


async def test_a_watch_starts_at_the_version_of_an_earlier_list(server: Server, kube: KubeClient) -> None:
    server.pods, server.version = [pod("a", 3)], 7
    server.watches = [[line("DELETED", pod("a", 6))]]
    listener = await follow(kube, lambda listener: bool(listener.events), version="5")
    assert (listener.events, listener.lists, server.lists) == ([("a", 6, True)], [], 0)
    assert [query["resourceVersion"] for query in server.began] == ["5"]


async def test_an_earlier_list_that_is_too_old_is_repeated(server: Server, kube: KubeClient) -> None:
    server.pods, server.version = [pod("a", 6)], 7
    server.watches = [[error(410)], []]
    listener = await follow(kube, lambda listener: bool(listener.lists), version="5")
    assert (listener.events, listener.lists, server.lists) == ([("a", 6, False)], [1], 1)


async def test_an_own_create_is_skipped_and_the_watch_continues_after_its_version(
    server: Server, kube: KubeClient
) -> None:
    quoting = pod("quoting", 8)
    quoting["metadata"] = {"annotations": {"a": '"resourceVersion":"4"'}, **quoting["metadata"]}
    server.watches = [
        [
            compact("ADDED", pod("theirs", 3)),
            compact("ADDED", pod("ours", 4)),
            compact("MODIFIED", pod("ours", 5)),
            compact("ADDED", pod("ours, otherwise written", 6)).replace(b'{"type"', b'{ "type"'),
            compact("ADDED", quoting),
        ],
        [compact("ADDED", pod("ours", 9))],
        [compact("DELETED", pod("ours", 10))],
    ]
    listener = await followed(server, kube, count=5, ours={"4", "6", "9", "10"})
    assert listener.events == [
        ("theirs", 3, False),
        ("ours", 5, False),
        ("ours, otherwise written", 6, False),
        ("quoting", 8, False),
        ("ours", 10, True),
    ]
    assert [query["resourceVersion"] for query in server.began] == ["1", "8", "9"]


async def test_lines_are_assembled_from_pieces(server: Server, kube: KubeClient) -> None:
    """Pods larger than any buffer, and several lines in one piece."""
    large = pod("large", 2)
    large["metadata"]["annotations"] = {"a": "x" * 1_400_000}
    text = line("ADDED", large) + line("ADDED", pod("small", 3)) + b"\n" + line("ADDED", pod("last", 4))
    server.watches = [[text[:1], text[1:70_000], text[70_000:-3], text[-3:]]]
    listener = await followed(server, kube, count=3)
    assert [name for name, _, _ in listener.events] == ["large", "small", "last"]


async def test_a_watch_that_ends_continues_at_its_last_version(server: Server, kube: KubeClient) -> None:
    """The last version may be a bookmark's. An incomplete line is sent again by the next watch."""
    server.watches = [
        [line("ADDED", pod("a", 4))],
        [bookmark(9)],
        [line("ADDED", pod("b", 10)), line("ADDED", pod("c", 11))[:-9]],
        [line("ADDED", pod("c", 11))],
    ]
    listener = await followed(server, kube, count=3)
    assert [query["resourceVersion"] for query in server.began] == ["1", "4", "9", "10"]
    assert [name for name, _, _ in listener.events] == ["a", "b", "c"]
    assert server.lists == 1


@pytest.mark.parametrize("answer", [410, [line("ADDED", pod("a", 4)), error(410)]])
async def test_a_version_that_is_too_old_causes_a_relist(
    server: Server, kube: KubeClient, answer: list[bytes] | int
) -> None:
    server.watches = [answer, [line("ADDED", pod("b", 12))]]
    listener = await followed(server, kube, count=1 if answer == 410 else 2)
    assert server.lists == 2
    assert len(listener.lists) == 2
    assert ("b", 12, False) in listener.events


@pytest.mark.parametrize(
    "answer",
    [
        500,
        429,
        [error(500)],
        [b"<html>a proxy</html>\n"],
        [b'{"type": 1}\n'],
        [line("MODIFIED", {})],
        [line("MODIFIED", {"metadata": None})],
        [line("MODIFIED", {"metadata": {"name": "without a version"}})],
        [line("ERROR", {"code": "odd"})],
    ],
)
async def test_other_errors_cause_no_relist(
    server: Server, kube: KubeClient, answer: list[bytes] | int
) -> None:
    server.watches = [[line("ADDED", pod("a", 4))], answer, answer, answer, [line("ADDED", pod("b", 12))]]
    listener = await followed(server, kube, count=2)
    assert [name for name, _, _ in listener.events] == ["a", "b"]
    assert server.lists == 1
    assert {query["resourceVersion"] for query in server.began[1:]} == {"4"}


async def test_a_silent_watch_is_a_broken_connection(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.05)
    server.watches = [[line("ADDED", pod("a", 4))]]
    await follow(kube, lambda _: len(server.began) >= 3)
    assert [query["resourceVersion"] for query in server.began][:3] == ["1", "4", "4"]


async def test_a_renewed_token_is_read_after_a_401(server: Server, kube: KubeClient) -> None:
    server.watches = [401, [line("ADDED", pod("a", 4))]]
    listener = await followed(server, kube, count=1)
    assert server.tokens == ["first", "first", "renewed"]
    assert listener.events == [("a", 4, False)]


async def test_an_unavailable_api_server_is_retried_with_bounded_backoff(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries never end, and the backoff grows up to a limit."""
    monkeypatch.setattr(module, "LONGEST_PAUSE", 5.0)
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await _sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", note)
    server.watches = [*[503] * 40, [line("ADDED", pod("a", 4))]]
    await follow(kube, lambda listener: bool(listener.events))
    grown = [pause for pause in pauses if pause]
    assert len(grown) == 40
    assert grown[0] <= 0.1
    assert 2.5 <= grown[-1] <= 5.0
