"""Following pods, beside an API server that does whatever it likes."""

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
#: As it is before a test replaces it.
_sleep = asyncio.sleep


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "team", "resourceVersion": str(version)}}


def line(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def compact(kind: str, obj: dict[str, Any]) -> bytes:
    """As the API server writes it."""
    return json.dumps({"type": kind, "object": obj}, separators=(",", ":")).encode() + b"\n"


def bookmark(version: int) -> bytes:
    return line("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


def error(code: int) -> bytes:
    return line("ERROR", {"kind": "Status", "code": code, "message": "so it is"})


class Server:
    """Each watch says what it was told to, in these pieces, and then ends; the last one stays open."""

    def __init__(self) -> None:
        #: What a list gives: pods, and its version.
        self.pods: list[dict[str, Any]] = []
        self.version = 1
        #: What watches say, one after the other. A number instead is the status of a refusal.
        self.watches: list[list[bytes] | int] = []
        self.lists = 0
        self.began: list[Mapping[str, str]] = []
        self.tokens: list[str | None] = []
        self.all_said = asyncio.Event()
        self.closing = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.tokens.append(request.headers.get("Authorization"))
        if "watch" not in request.query:
            self.lists += 1
            metadata = {"resourceVersion": str(self.version)}
            return web.json_response({"metadata": metadata, "items": self.pods})
        self.began.append(request.query)
        said = self.watches.pop(0) if self.watches else []
        if isinstance(said, int):
            return web.json_response({"kind": "Status", "code": said, "message": "not now"}, status=said)
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in said:
            await response.write(piece)
            await asyncio.sleep(0)
        if not self.watches:
            self.all_said.set()
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
    def __init__(self) -> None:
        self.heard: list[tuple[str, int, bool]] = []
        #: How many had been heard at the end of each list.
        self.lists: list[int] = []

    def on_event(self, obj: Mapping[str, Any], deleted: bool) -> None:
        metadata = obj["metadata"]
        self.heard.append((metadata["name"], int(metadata["resourceVersion"]), deleted))

    def on_list(self) -> None:
        self.lists.append(len(self.heard))


async def follow(
    kube: KubeClient, until: Callable[[Listener], bool], *, ours: Collection[str] = (), version: str = ""
) -> Listener:
    """Follow until that holds."""
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


async def followed(server: Server, kube: KubeClient, *, heard: int, ours: Collection[str] = ()) -> Listener:
    """Follow until the last watch has said all and so much was heard."""
    return await follow(
        kube, lambda listener: server.all_said.is_set() and len(listener.heard) >= heard, ours=ours
    )


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_PAUSE", 0.0)


async def test_a_list_and_what_comes_after_it(server: Server, kube: KubeClient) -> None:
    server.pods, server.version = [pod("a", 3), pod("b", 5)], 7
    server.watches = [
        [line("ADDED", pod("c", 8)), line("MODIFIED", pod("a", 9)), line("DELETED", pod("b", 10))]
    ]
    listener = await followed(server, kube, heard=5)
    assert listener.heard == [
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


async def test_what_is_known_from_another_list_is_not_listed_again(server: Server, kube: KubeClient) -> None:
    server.pods, server.version = [pod("a", 3)], 7
    server.watches = [[line("DELETED", pod("a", 6))]]
    listener = await follow(kube, lambda listener: bool(listener.heard), version="5")
    assert (listener.heard, listener.lists, server.lists) == ([("a", 6, True)], [], 0)
    assert [query["resourceVersion"] for query in server.began] == ["5"]


async def test_another_list_that_is_too_old_is_made_anew(server: Server, kube: KubeClient) -> None:
    server.pods, server.version = [pod("a", 6)], 7
    server.watches = [[error(410)], []]
    listener = await follow(kube, lambda listener: bool(listener.lists), version="5")
    assert (listener.heard, listener.lists, server.lists) == ([("a", 6, False)], [1], 1)


async def test_what_we_made_is_not_told_again_and_the_watch_goes_on_behind_it(
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
    listener = await followed(server, kube, heard=5, ours={"4", "6", "9", "10"})
    assert listener.heard == [
        ("theirs", 3, False),
        ("ours", 5, False),
        ("ours, otherwise written", 6, False),
        ("quoting", 8, False),
        ("ours", 10, True),
    ]
    assert [query["resourceVersion"] for query in server.began] == ["1", "8", "9"]


async def test_lines_are_put_together(server: Server, kube: KubeClient) -> None:
    """Pods larger than any buffer, and several lines in one piece."""
    large = pod("large", 2)
    large["metadata"]["annotations"] = {"a": "x" * 1_400_000}
    text = line("ADDED", large) + line("ADDED", pod("small", 3)) + b"\n" + line("ADDED", pod("last", 4))
    server.watches = [[text[:1], text[1:70_000], text[70_000:-3], text[-3:]]]
    listener = await followed(server, kube, heard=3)
    assert [name for name, _, _ in listener.heard] == ["large", "small", "last"]


async def test_a_watch_that_ends_goes_on_from_where_it_was(server: Server, kube: KubeClient) -> None:
    """Also from a bookmark, and a line that broke off comes again."""
    server.watches = [
        [line("ADDED", pod("a", 4))],
        [bookmark(9)],
        [line("ADDED", pod("b", 10)), line("ADDED", pod("c", 11))[:-9]],
        [line("ADDED", pod("c", 11))],
    ]
    listener = await followed(server, kube, heard=3)
    assert [query["resourceVersion"] for query in server.began] == ["1", "4", "9", "10"]
    assert [name for name, _, _ in listener.heard] == ["a", "b", "c"]
    assert server.lists == 1


@pytest.mark.parametrize("said", [410, [line("ADDED", pod("a", 4)), error(410)]])
async def test_what_is_too_old_is_listed_anew(
    server: Server, kube: KubeClient, said: list[bytes] | int
) -> None:
    server.watches = [said, [line("ADDED", pod("b", 12))]]
    listener = await followed(server, kube, heard=1 if said == 410 else 2)
    assert server.lists == 2
    assert len(listener.lists) == 2
    assert ("b", 12, False) in listener.heard


@pytest.mark.parametrize(
    "said",
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
async def test_other_faults_are_no_reason_to_list(
    server: Server, kube: KubeClient, said: list[bytes] | int
) -> None:
    server.watches = [[line("ADDED", pod("a", 4))], said, said, said, [line("ADDED", pod("b", 12))]]
    listener = await followed(server, kube, heard=2)
    assert [name for name, _, _ in listener.heard] == ["a", "b"]
    assert server.lists == 1
    assert {query["resourceVersion"] for query in server.began[1:]} == {"4"}


async def test_silence_is_a_broken_connection(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE", 0.05)
    server.watches = [[line("ADDED", pod("a", 4))]]
    await follow(kube, lambda _: len(server.began) >= 3)
    assert [query["resourceVersion"] for query in server.began][:3] == ["1", "4", "4"]


async def test_a_token_that_was_renewed_is_read_anew(server: Server, kube: KubeClient) -> None:
    server.watches = [401, [line("ADDED", pod("a", 4))]]
    listener = await followed(server, kube, heard=1)
    assert server.tokens == ["first", "first", "renewed"]
    assert listener.heard == [("a", 4, False)]


async def test_an_api_server_that_is_away_is_waited_for(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never given up, and pauses grow up to a limit."""
    monkeypatch.setattr(module, "LONGEST_PAUSE", 5.0)
    pauses: list[float] = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        await _sleep(0)

    monkeypatch.setattr(module.asyncio, "sleep", note)
    server.watches = [*[503] * 40, [line("ADDED", pod("a", 4))]]
    await follow(kube, lambda listener: bool(listener.heard))
    grown = [pause for pause in pauses if pause]
    assert len(grown) == 40
    assert grown[0] <= 0.1
    assert 2.5 <= grown[-1] <= 5.0
