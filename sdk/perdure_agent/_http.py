"""Port to HTTP: one try of one request, over aiohttp or inside a test."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp

from perdure_agent._environment import Environment
from perdure_agent._payload import Payload, Sink
from perdure_agent._tls import context_for

_MIB = 1024 * 1024
#: Longest time for a connection to be established. Seconds.
CONNECT_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """A request that can be sent as often as needed."""

    method: str
    #: Absolute, without query.
    url: str
    headers: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict)
    #: Bytes are JSON; a payload names its own content type.
    body: bytes | Payload | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A response of any status. The body is empty if it went into a sink."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed. Raises ValueError."""
        return json.loads(self.body)


class NoAnswer(Exception):
    """The connection failed or timed out before the whole response had arrived."""


class HttpClient(Protocol):
    """Sends requests; a connection pool, as a rule."""

    async def send(self, request: HttpRequest, *, sink: Sink | None, timeout: float) -> Answer:
        """One try of `timeout` seconds. The body of a 2xx response goes into `sink`. Raises NoAnswer."""
        ...


class AiohttpClient:
    """Sends requests over the network."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def send(self, request: HttpRequest, *, sink: Sink | None, timeout: float) -> Answer:
        headers = dict(request.headers)
        body = request.body
        data: bytes | AsyncIterator[bytes] | None = None
        if isinstance(body, Payload):
            headers["Content-Type"] = body.content_type
            headers["Content-Length"] = str(body.size)
            # In pieces, between which heartbeats get through.
            data = body.data if body.size <= _MIB and body.data is not None else body.pieces()
        elif body is not None:
            headers["Content-Type"] = "application/json"
            data = body
        limits = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_TIMEOUT, timeout))
        try:
            async with self._session.request(
                request.method,
                request.url,
                data=data,
                params=request.params,
                headers=headers,
                timeout=limits,
            ) as response:
                if response.status < 300 and sink is not None:
                    content = b""
                    sink.begin()
                    async for piece in response.content.iter_any():
                        sink.write(piece)
                else:
                    content = await response.read()
        except TimeoutError as error:
            raise NoAnswer("the gateway did not answer in time") from error
        except aiohttp.ClientError as error:
            raise NoAnswer(f"the gateway cannot be reached ({error or type(error).__name__})") from error
        return Answer(response.status, response.headers, content)


@asynccontextmanager
async def open_client(environment: Environment) -> AsyncIterator[HttpClient]:
    """A connection pool for as long as the context is open. Raises ValueError for an unusable CA file."""
    tls = context_for(environment)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=True if tls is None else tls),
        headers={"User-Agent": "perdure-agent"},
        auto_decompress=False,
    ) as session:
        yield AiohttpClient(session)
