"""A second route family, defined in this file alone, next to the agents' family over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Final

import aiohttp
import pytest
from starlette.responses import Response
from starlette.routing import BaseRoute
from tests.unit.gateway.conftest import SMALL, SMALL_AGENT, Reply
from tests.unit.gateway.memory import MemoryLedger, MemoryVerifier

from perdure.domain.records import LedgerUnavailable
from perdure.gateway.agent_api.checkpoint_throttle import CheckpointThrottle
from perdure.gateway.agent_api.problems import AgentProblem
from perdure.gateway.agent_api.progress_throttle import ProgressThrottle
from perdure.gateway.agent_api.routes import AgentRoutes
from perdure.gateway.app import build_app
from perdure.gateway.authn import Owner
from perdure.gateway.http.endpoint import Call, Routes, Runtime, json_response
from perdure.gateway.http.problems import ErrorTable, HttpProblem, Problem, ProblemType
from perdure.gateway.http.request_body import parse_json
from perdure.gateway.http.server import open_listener, serve_app
from perdure.gateway.http.streaming import EventStream, event


@dataclass(frozen=True)
class Person:
    name: str


class PeopleProblem(ProblemType):
    UNKNOWN_PERSON = ("unknown-person", 401, "The person is not known")
    FORBIDDEN = ("forbidden", 403, "Not allowed")


class Forbidden(Exception):
    pass


class ForbiddenToday(Forbidden):
    pass


class PeopleAuthenticator:
    """Authenticator by a header with the person's name."""

    challenge: ClassVar[str] = 'Name realm="people"'

    def owner(self, identity: Person) -> Owner:
        return Owner("", identity.name)

    async def identify(self, headers: Mapping[bytes, bytes]) -> Person:
        name = headers.get(b"x-person")
        if name is None:
            raise Problem(PeopleProblem.UNKNOWN_PERSON, "X-Person: send your name")
        return Person(name.decode())


@dataclass
class PeopleRoutes:
    prefix: ClassVar[str] = "/people/v1"
    title: ClassVar[str] = "routes of people"
    errors: ClassVar[ErrorTable] = {
        Forbidden: lambda error: Problem(PeopleProblem.FORBIDDEN, f"person: {error}; ask an administrator")
    }
    #: Events that the stream sends, and the end of its producer.
    feed: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    def routes(self, runtime: Runtime) -> list[BaseRoute]:
        family = Routes(self.prefix, PeopleAuthenticator(), runtime)
        return [
            family.route("/greetings", POST=self.greet, GET=self.follow),
            family.route("/refused", GET=self.refuse),
            family.route("/defect", GET=self.fail),
            family.route("/ledger", GET=self.without_ledger),
        ]

    async def greet(self, call: Call[Person]) -> Response:
        said = parse_json(await call.read(100, what="body"), example="any JSON value")
        return json_response({"from": call.identity.name, "said": said}, status=201)

    async def follow(self, call: Call[Person]) -> Response:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                while True:
                    number = await self.feed.get()
                    if number < 0:
                        raise Forbidden("no negative numbers")
                    yield event({"for": call.identity.name, "number": number}, name="greeting")
            finally:
                self.closed.set()

        return EventStream(chunks)

    async def refuse(self, call: Call[Person]) -> Response:
        raise ForbiddenToday("not on a Monday")

    async def fail(self, call: Call[Person]) -> Response:
        raise ValueError("inside")

    async def without_ledger(self, call: Call[Person]) -> Response:
        raise LedgerUnavailable("postgresql://secret@host")


@dataclass
class Server:
    people: PeopleRoutes
    url: str
    stop: asyncio.Event
    client: aiohttp.ClientSession

    async def call(self, method: str, path: str, **options: object) -> Reply:
        async with self.client.request(method, self.url + path, **options) as response:  # type: ignore[arg-type]
            return Reply(
                response.status,
                {name.title(): value for name, value in response.headers.items()},
                await response.read(),
            )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    listener = open_listener("127.0.0.1", 0)
    stop = asyncio.Event()
    people = PeopleRoutes()
    ledger = MemoryLedger()

    def clock() -> datetime:
        return datetime.now(UTC)

    async def ready() -> None:
        return None

    async with (
        ProgressThrottle(ledger, clock=clock, interval=0.05) as throttle,
        CheckpointThrottle(ledger, clock=clock, interval=0.05, burst=1) as checkpoints,
        asyncio.TaskGroup() as group,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as client,
    ):
        agents = AgentRoutes(
            ledger,
            MemoryVerifier(),
            throttle=throttle,
            checkpoints=checkpoints,
            limits=SMALL_AGENT,
            clock=clock,
        )
        app = build_app([agents, people], ready=ready, stop=stop, limits=SMALL)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = group.create_task(serve_app(app, listener, stop=stop, limits=SMALL))
        yield Server(people, url, stop, client)
        stop.set()
        async with asyncio.timeout(10):
            await serving


ANNA: Final = {"X-Person": "anna"}
POD: Final = {"Authorization": "Bearer good-pod-1"}


async def test_each_family_has_its_own_identities(server: Server) -> None:
    greeted = await server.call("POST", "/people/v1/greetings", headers=ANNA, json="hello")
    assert (greeted.status, greeted.json()) == (201, {"from": "anna", "said": "hello"})
    saved = await server.call("PUT", "/agent/v1/checkpoints", headers=POD, data=b"x")
    assert (saved.status, saved.json()) == (201, {"sequence": 1})


async def test_each_family_refuses_unknown_callers_in_its_own_words(server: Server) -> None:
    person = await server.call("GET", "/people/v1/greetings", headers=POD)
    assert (person.status, person.kind, person.json()["title"], person.headers["Www-Authenticate"]) == (
        401,
        "unknown-person",
        "The person is not known",
        'Name realm="people"',
    )
    agent = await server.call("GET", "/agent/v1/task", headers=ANNA)
    assert (agent.status, agent.kind, agent.json()["title"], agent.headers["Www-Authenticate"]) == (
        401,
        "unauthenticated",
        "The token is missing or not valid",
        'Bearer realm="perdure"',
    )


async def test_limits_and_problems_of_http_hold_in_every_family(server: Server) -> None:
    path = "/people/v1/greetings"
    large = await server.call("POST", path, headers=ANNA, data=b"x" * 101)
    assert (large.status, large.kind, large.json()["limit"]) == (413, "too-large", 100)
    broken = await server.call("POST", path, headers=ANNA, data=b"{")
    assert (broken.status, broken.kind) == (400, "invalid-json")
    wrong = await server.call("DELETE", path, headers=ANNA)
    assert (wrong.status, wrong.kind, wrong.headers["Allow"]) == (
        405,
        "method-not-allowed",
        "GET, HEAD, POST",
    )


async def test_a_family_answers_its_own_errors_and_the_common_ones(server: Server) -> None:
    refused = await server.call("GET", "/people/v1/refused", headers=ANNA)
    assert (refused.status, refused.kind) == (403, "forbidden")
    assert refused.json()["detail"] == "person: not on a Monday; ask an administrator"
    away = await server.call("GET", "/people/v1/ledger", headers=ANNA)
    assert (away.status, away.kind, away.headers["Retry-After"]) == (503, "ledger-unavailable", "1")
    assert b"secret" not in away.body
    defect = await server.call("GET", "/people/v1/defect", headers=ANNA)
    assert (defect.status, defect.kind) == (500, "internal")
    assert b"inside" not in defect.body


async def test_an_unknown_path_is_answered_with_the_prefixes_of_all_families(server: Server) -> None:
    for path in ("/", "/people/v1", "/people/v1/", "/agent/v1", "/elsewhere"):
        reply = await server.call("GET", path, headers=ANNA)
        assert (reply.status, reply.kind) == (404, "not-found"), path
        assert reply.json()["detail"] == (
            f"{path}: no such route; agents' routes start with /agent/v1, "
            "routes of people start with /people/v1"
        )


async def test_events_arrive_one_by_one(server: Server) -> None:
    async with server.client.get(f"{server.url}/people/v1/greetings", headers=ANNA) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert "Content-Length" not in response.headers
        for number in range(3):
            server.people.feed.put_nowait(number)
            expected = b'event: greeting\ndata: {"for":"anna","number":%d}\n\n' % number
            assert await response.content.readexactly(len(expected)) == expected


async def test_a_stop_of_the_server_ends_a_stream_in_order(server: Server) -> None:
    async with server.client.get(f"{server.url}/people/v1/greetings", headers=ANNA) as response:
        server.stop.set()
        # A stream that was cut off would raise ClientPayloadError.
        assert await response.read() == b""
    async with asyncio.timeout(10):
        await server.people.closed.wait()


async def test_a_client_that_leaves_ends_its_stream(server: Server) -> None:
    async with server.client.get(f"{server.url}/people/v1/greetings", headers=ANNA) as response:
        response.close()
    async with asyncio.timeout(10):
        await server.people.closed.wait()
    assert not server.stop.is_set()


async def test_an_error_in_a_stream_cuts_the_stream_off(server: Server) -> None:
    async with server.client.get(f"{server.url}/people/v1/greetings", headers=ANNA) as response:
        server.people.feed.put_nowait(-1)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert server.people.closed.is_set()


def test_no_two_problems_share_a_type() -> None:
    kinds: list[ProblemType] = [*HttpProblem, *AgentProblem]
    assert len({kind.slug for kind in kinds}) == len(kinds)
    assert all(kind.transient == (kind.status == 503) for kind in kinds)
