"""HTTP client to a gateway in the same process: no socket, and timeouts on the virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlencode

from perdure_agent._environment import Environment
from perdure_agent._http import Answer, HttpClient, HttpRequest, NoAnswer
from perdure_agent._payload import Payload, Sink
from perdure_agent.testing._clock import Clock
from perdure_agent.testing._faults import Killed
from perdure_agent.testing._pod import Pod
from perdure_agent.testing._problems import Message, Response

Exchange = Callable[[Message, Pod], Awaitable[Response]]


class ConnectionLost(Exception):
    """The client gets no response."""


class InMemoryClient:
    """Sends one pod's requests to `exchange`."""

    def __init__(self, pod: Pod, *, exchange: Exchange, clock: Clock) -> None:
        self._pod = pod
        self._exchange = exchange
        self._clock = clock

    async def send(self, request: HttpRequest, *, sink: Sink | None, timeout: float) -> Answer:
        # A socket would suspend the caller here, and the agent's other coroutines would run.
        await asyncio.sleep(0)
        if self._pod.killed:
            raise Killed("this pod was killed")
        headers = {name.lower(): value for name, value in request.headers.items()}
        body = b""
        if isinstance(request.body, Payload):
            headers["content-type"] = request.body.content_type
            body = b"".join([piece async for piece in request.body.pieces()])
        elif request.body is not None:
            headers["content-type"] = "application/json"
            body = request.body
        message = Message(
            method=request.method,
            path=request.url.partition("/agent/v1")[2],
            query=urlencode(request.params),
            headers=headers,
            body=body,
        )
        try:
            async with self._clock.timeout(timeout):
                response = await self._exchange(message, self._pod)
        except TimeoutError:
            raise NoAnswer("the gateway did not answer in time") from None
        except ConnectionLost as error:
            raise NoAnswer(f"the gateway cannot be reached ({error})") from None
        if response.status >= 300 or sink is None:
            return Answer(response.status, response.headers, response.body)
        sink.begin()
        sink.write(response.body)
        return Answer(response.status, response.headers, b"")

    @asynccontextmanager
    async def opened(self, _: Environment) -> AsyncIterator[HttpClient]:
        """This client. Nothing has to be closed."""
        yield self
