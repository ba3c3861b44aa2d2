"""The client over real HTTP against a server that fails."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from perdure import __version__
from perdure.kube import retries as module
from perdure.kube.client import KubeClient
from perdure.kube.connection import Connection, ConnectionConfigError
from perdure.kube.errors import ApiError, ErrorCause, ErrorDetails

Answer = (
    Callable[[web.Request], Awaitable[web.StreamResponse]] | tuple[int, Any] | tuple[int, Any, dict[str, str]]
)


class Server:
    """Server with scripted answers, in their order, and then an empty object."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.seen: list[web.Request] = []
        self.bodies: list[Any] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        raw = await request.read()
        self.bodies.append(json.loads(raw) if raw else None)
        answer = self.answers.pop(0) if self.answers else (200, {})
        if callable(answer):
            return await answer(request)
        status, body, *headers = answer
        if isinstance(body, str):
            return web.Response(status=status, text=body, headers=headers[0] if headers else None)
        return web.json_response(body, status=status, headers=headers[0] if headers else None)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    runner = web.ServerRunner(web.Server(server.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.0)


def client_of(url: str, *, deadline: float = 15.0, token: str | None = "first") -> KubeClient:
    async def authorization(refresh: bool) -> str | None:
        return "Bearer renewed" if refresh else f"Bearer {token}" if token else None

    async def connect() -> Connection:
        return Connection(host=url, authorization=authorization)

    return KubeClient(connect, deadline=deadline)


@pytest.fixture
async def kube(server: Server) -> AsyncIterator[KubeClient]:
    async with client_of(server.url) as client:
        yield client


def status(code: int, reason: str, message: str = "because") -> dict[str, Any]:
    return {"kind": "Status", "code": code, "reason": reason, "message": message}


async def test_requests_have_agent_token_and_media_types(server: Server, kube: KubeClient) -> None:
    await kube.patch("Pod", "team", "it", {"metadata": {"labels": {"a": None}}})
    (request,) = server.seen
    assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/team/pods/it")
    assert request.headers["User-Agent"] == f"perdure/{__version__}"
    assert request.headers["Authorization"] == "Bearer first"
    assert request.headers["Content-Type"] == "application/merge-patch+json"
    assert server.bodies == [{"metadata": {"labels": {"a": None}}}]


async def test_a_deletion_is_in_the_background_with_preconditions(server: Server, kube: KubeClient) -> None:
    await kube.delete("Pod", "team", "it", uid="u", grace_seconds=0)
    assert server.bodies == [
        {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": "u"},
            "gracePeriodSeconds": 0,
        }
    ]


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
async def test_transient_errors_are_retried(server: Server, kube: KubeClient, code: int) -> None:
    server.answers = [(code, status(code, "")), (code, "bad gateway"), (200, {"kind": "Pod"})]
    assert await kube.get("Pod", "team", "it") == {"kind": "Pod"}
    assert kube.requests == {("get", "Pod", code): 2, ("get", "Pod", 200): 1}


async def test_retries_end_after_four_tries(server: Server, kube: KubeClient) -> None:
    server.answers = [(503, status(503, "ServiceUnavailable", f"try {n}")) for n in range(1, 6)]
    with pytest.raises(ApiError) as caught:
        await kube.create("Lease", "team", {})
    assert (caught.value.status, caught.value.reason, caught.value.message) == (
        503,
        "ServiceUnavailable",
        "try 4",
    )
    assert caught.value.transient
    assert len(server.seen) == 4


@pytest.mark.parametrize("kind", ["AgentTask", "Job", "Pod", "Workflow"])
async def test_creates_of_runs_end_after_two_tries(server: Server, kube: KubeClient, kind: str) -> None:
    server.answers = [(500, status(500, "InternalError", f"try {n}")) for n in range(1, 4)]
    with pytest.raises(ApiError, match="try 2"):
        await kube.create(kind, "team", {})
    assert len(server.seen) == 2


async def test_details_of_an_error_are_read(server: Server, kube: KubeClient) -> None:
    cause = {"reason": "FieldValueRequired", "message": "Required value", "field": "spec.x"}
    body = status(422, "Invalid", "bad") | {"details": {"name": "p", "kind": "Pod", "causes": [cause]}}
    server.answers = [(422, body)]
    with pytest.raises(ApiError) as caught:
        await kube.create("Pod", "team", {})
    assert caught.value.details == ErrorDetails(name="p", kind="Pod", causes=(ErrorCause(**cause),))


@pytest.mark.parametrize("code", [400, 403, 404, 409, 410, 422])
async def test_permanent_errors_are_not_retried(server: Server, kube: KubeClient, code: int) -> None:
    for call in (kube.create("Pod", "team", {}), kube.replace("Pod", "team", "it", {})):
        server.answers = [(code, status(code, "Why", "the server's words"))]
        with pytest.raises(ApiError, match="the server's words") as caught:
            await call
        assert (caught.value.status, caught.value.reason) == (code, "Why")
        assert not caught.value.transient
    assert len(server.seen) == 2


async def test_retry_after_is_the_least_backoff(
    server: Server, kube: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    server.answers = [
        (429, status(429, "TooManyRequests"), {"Retry-After": "7"}),
        (503, status(503, "") | {"details": {"retryAfterSeconds": 2}}),
        (429, status(429, ""), {"Retry-After": "Wed, 21 Oct 2030 07:28:00 GMT"}),
    ]
    await kube.get("Pod", "team", "it")
    assert pauses == [7, 2, 0]


async def test_a_backoff_beyond_the_deadline_is_left_to_the_caller(server: Server, kube: KubeClient) -> None:
    server.answers = [(429, status(429, "TooManyRequests"), {"Retry-After": "60"})]
    with pytest.raises(ApiError) as caught:
        await kube.get("Pod", "team", "it")
    assert caught.value.retry_after == 60
    assert len(server.seen) == 1


async def test_a_connection_that_breaks_off_is_retried(server: Server, kube: KubeClient) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def break_within(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"kind":')
        assert request.transport is not None
        request.transport.abort()
        return response

    server.answers = [break_off, break_within, (201, {"kind": "Pod"})]
    assert await kube.create("Lease", "team", {}) == {"kind": "Pod"}
    assert kube.requests[("create", "Lease", 0)] == 2


async def test_a_refused_connection_is_an_error_of_status_0() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with client_of(f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            with pytest.raises(ApiError) as caught:
                await client.get("Pod", "team", "it")
    assert caught.value.status == 0
    assert caught.value.transient
    assert "GET /api/v1/namespaces/team/pods/it" in caught.value.message
    assert client.requests == {("get", "Pod", 0): 4}


async def test_a_server_that_does_not_answer_meets_the_deadline(server: Server) -> None:
    release = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await release.wait()
        return web.Response()

    server.answers = [hang]
    async with client_of(server.url, deadline=0.05) as client:
        with pytest.raises(ApiError, match="no answer in time") as caught:
            await client.get("Pod", "team", "it")
    assert caught.value.status == 0
    release.set()


async def test_a_caller_can_give_up_at_any_time(server: Server, kube: KubeClient) -> None:
    arrived, release = asyncio.Event(), asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        arrived.set()
        await release.wait()
        return web.Response()

    server.answers = [hang]
    task = asyncio.create_task(kube.get("Pod", "team", "it"))
    async with asyncio.timeout(5):
        await arrived.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        release.set()
        # The connection of the abandoned request must not answer the next one.
        server.answers = [(200, {"kind": "Lease"})]
        assert await kube.get("Lease", "team", "it") == {"kind": "Lease"}


async def test_an_answer_of_a_proxy_is_no_answer(server: Server, kube: KubeClient) -> None:
    server.answers = [(200, "<html>please log in</html>")] * 4
    with pytest.raises(ApiError, match="not JSON: <html>") as caught:
        await kube.get("Pod", "team", "it")
    assert caught.value.status == 0


async def test_redirects_are_not_followed(server: Server, kube: KubeClient) -> None:
    server.answers = [(302, "", {"Location": "http://198.51.100.1/"})]
    with pytest.raises(ApiError) as caught:
        await kube.get("Pod", "team", "it")
    assert caught.value.status == 302


async def test_a_refused_token_is_read_again_once(server: Server, kube: KubeClient) -> None:
    server.answers = [(401, status(401, "Unauthorized")), (200, {"kind": "Pod"})]
    assert await kube.get("Pod", "team", "it") == {"kind": "Pod"}
    assert [request.headers["Authorization"] for request in server.seen] == ["Bearer first", "Bearer renewed"]
    server.answers = [(401, status(401, "Unauthorized"))] * 2
    with pytest.raises(ApiError) as caught:
        await kube.get("Pod", "team", "it")
    assert caught.value.status == 401
    assert len(server.seen) == 4


async def test_unavailable_credentials_are_an_api_error() -> None:
    async def authorization(refresh: bool) -> str | None:
        raise ConnectionConfigError("the plugin gave no credentials")

    async def connect() -> Connection:
        return Connection(host="http://127.0.0.1:1", authorization=authorization)

    async with KubeClient(connect) as client:
        with pytest.raises(ApiError, match="the plugin gave no credentials"):
            await client.raw_get("/version")


def page(names: str, *, more: str = "", version: str = "5") -> tuple[int, Any]:
    metadata = {"resourceVersion": version} | ({"continue": more} if more else {})
    return 200, {"metadata": metadata, "items": [{"metadata": {"name": name}} for name in names]}


async def test_lists_are_read_in_pages(server: Server, kube: KubeClient) -> None:
    server.answers = [page("ab", more="t&1"), page("cd", more="t2"), page("e")]
    items, version = await kube.list("Pod", namespace="team", label_selector="a=b,c in (d,e)")
    assert [item["metadata"]["name"] for item in items] == list("abcde")
    assert version == "5"
    assert {(item["kind"], item["apiVersion"]) for item in items} == {("Pod", "v1")}
    assert [dict(request.query) for request in server.seen] == [
        {"labelSelector": "a=b,c in (d,e)", "limit": "500"},
        {"labelSelector": "a=b,c in (d,e)", "limit": "500", "continue": "t&1"},
        {"labelSelector": "a=b,c in (d,e)", "limit": "500", "continue": "t2"},
    ]


async def test_a_list_whose_snapshot_expired_is_restarted(server: Server, kube: KubeClient) -> None:
    gone = (410, status(410, "Expired", "the provided continue parameter is too old"))
    server.answers = [page("ab", more="t1"), gone, page("bcd", version="9")]
    items, version = await kube.list("Pod")
    assert [item["metadata"]["name"] for item in items] == list("bcd")
    assert version == "9"
    assert server.seen[-1].query_string == ""


async def test_410_without_a_continuation_is_an_error(server: Server, kube: KubeClient) -> None:
    server.answers = [(410, status(410, "Expired"))]
    with pytest.raises(ApiError) as caught:
        await kube.list("Pod")
    assert caught.value.status == 410


async def test_the_deletion_of_a_missing_object_is_no_error(server: Server, kube: KubeClient) -> None:
    server.answers = [(404, status(404, "NotFound"))]
    await kube.delete("Pod", "team", "it")


@pytest.mark.parametrize("found", [(404, status(404, "NotFound")), (200, {"metadata": {"uid": "another"}})])
async def test_a_deletion_that_finds_another_object_of_the_same_name_is_no_error(
    server: Server, kube: KubeClient, found: Any
) -> None:
    server.answers = [(409, status(409, "Conflict")), found]
    await kube.delete("Pod", "team", "it", uid="u")


async def test_another_conflict_does_not_count_as_a_deletion(server: Server, kube: KubeClient) -> None:
    server.answers = [(409, status(409, "Conflict")), (200, {"metadata": {"uid": "u"}})]
    with pytest.raises(ApiError):
        await kube.delete("Pod", "team", "it", uid="u")
    server.answers = [(409, status(409, "Conflict"))]
    with pytest.raises(ApiError):
        await kube.delete("Pod", "team", "it")


async def test_the_whole_collection_cannot_be_deleted_by_mistake(server: Server, kube: KubeClient) -> None:
    with pytest.raises(ValueError, match="does not name an object"):
        await kube.delete("Pod", "team", "")
    assert server.seen == []


async def test_connections_are_reused_and_limited(server: Server) -> None:
    ports: set[Any] = set()

    async def note(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))
        await asyncio.sleep(0)
        return web.json_response({})

    server.answers = [note] * 50
    async with KubeClient(client_of(server.url)._connect, limit=3) as client:
        await asyncio.gather(*(client.get("Pod", "team", f"p{number}") for number in range(50)))
    assert 1 <= len(ports) <= 3


async def test_the_wait_for_a_free_connection_is_not_a_connect_timeout(server: Server) -> None:
    connect_timeout = 0.25

    async def dawdle(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(connect_timeout + 0.1)
        return web.json_response({})

    server.answers = [dawdle]
    connect = client_of(server.url)._connect
    async with KubeClient(connect, limit=1, connect_timeout=connect_timeout) as client:
        await asyncio.gather(client.get("Pod", "team", "slow"), client.get("Pod", "team", "waiting"))
    assert client.requests == {("get", "Pod", 200): 2}


async def test_a_client_outside_its_context_raises() -> None:
    with pytest.raises(RuntimeError, match="context"):
        await client_of("http://127.0.0.1:1").raw_get("/version")


async def test_a_missing_object_is_found_to_be_none_and_any_other_error_is_raised(
    server: Server, kube: KubeClient
) -> None:
    server.answers = [(404, status(404, "NotFound")), (403, status(403, "Forbidden"))]
    assert await kube.find("Pod", "team", "a") is None
    with pytest.raises(ApiError):
        await kube.find("Pod", "team", "a")
