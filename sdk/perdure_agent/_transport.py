"""Calls to the gateway that outlast its absence.

The gateway may restart, move or lose its database at any time; an agent with hours of work behind it must
not notice. Every call here may be repeated safely: a repeated checkpoint or result is acknowledged as the
first one was.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from perdure_agent._checkpoints import LIMIT
from perdure_agent._options import Retries
from perdure_agent._payload import Payload, Sink
from perdure_agent.errors import AgentError, GatewayError, GatewayUnavailable, Superseded

log = logging.getLogger("perdure_agent")

_MIB = 1024 * 1024
_CONNECT_TIMEOUT = 5.0
#: A Retry-After beyond this is not obeyed: an agent that sleeps looks dead.
_LONGEST_OBEYED = 60.0
#: Server errors that repeating cannot heal.
_LASTING = frozenset({"checkpoint-corrupt"})
#: How often what was damaged on its way is sent again: a cause that lasts is somebody's defect.
_DAMAGED_TRIES = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful response: 2xx. Without body if that went into a sink."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class _TryAgain(Exception):
    """This try failed in a way that time may heal."""

    def __init__(self, cause: str, *, after: float = 0.0) -> None:
        super().__init__(cause)
        self.after = after


@dataclass(frozen=True, slots=True)
class _Request:
    """What is sent, as often as it must be."""

    method: str
    path: str
    body: bytes | Payload | None
    headers: Mapping[str, str]
    params: Mapping[str, str] | None
    sink: Sink | None


class Transport:
    """One connection pool to the gateway, authenticated by the pod's projected token."""

    def __init__(
        self, session: aiohttp.ClientSession, *, url: str, token_file: Path | None, retries: Retries
    ) -> None:
        self._session = session
        self._url = url + "/agent/v1"
        self._token_file = token_file
        self._retries = retries
        self._token = ""
        #: Which file the token is from; None to read it again whatever it looks like.
        self._token_version: tuple[int, int, int] | None = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | Payload | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        sink: Sink | None = None,
        patience: float | None,
        hurry: bool = False,
    ) -> Answer:
        """One call, repeated until it is answered or `patience` seconds have passed (0: one try).

        A `sink` gets the answer's body. `hurry`: do not wait long for that try either. Raises Superseded
        (409), GatewayError for a refusal, GatewayUnavailable when patience ends.
        """
        loop = asyncio.get_running_loop()
        limit = self._retries.request_timeout
        if hurry:
            # Best effort must not hold the agent up behind a gateway that swallows packets.
            limit = min(limit, _CONNECT_TIMEOUT)
        deadline = None if patience is None else loop.time() + patience
        delay = self._retries.first_delay
        tries = damaged = 0
        retried_token = False
        request = _Request(method, path, body, headers or {}, params, sink)
        while True:
            tries += 1
            try:
                return await self._try(request, limit=limit)
            except _TryAgain as error:
                # Jitter spreads a thousand agents that all lost the same gateway at once.
                pause = max(delay * random.uniform(0.5, 1.0), error.after)
                if deadline is not None and loop.time() + pause >= deadline:
                    raise GatewayUnavailable(
                        f"{method} {path}: {error} (gave up after {tries} tries)"
                    ) from error.__cause__
                if tries == 1:
                    log.warning("%s %s: %s; trying again", method, path, error)
                await asyncio.sleep(pause)
                delay = min(delay * 2, self._retries.longest_delay)
            except GatewayError as error:
                if error.kind == "checksum-mismatch" and (damaged := damaged + 1) < _DAMAGED_TRIES:
                    continue
                # The kubelet replaces the token before it expires; ours may have expired between reading
                # and arriving, once.
                if error.status != 401 or retried_token:
                    raise
                retried_token = True
                self._token_version = None

    async def _try(self, request: _Request, *, limit: float) -> Answer:
        headers = {**self._authorization(), **request.headers}
        data: bytes | AsyncIterator[bytes] | None = None
        size = LIMIT if request.sink is not None else 0
        if isinstance(request.body, Payload):
            size = request.body.size
            headers["Content-Type"] = request.body.content_type
            headers["Content-Length"] = str(size)
            # In pieces, between which heartbeats get through.
            data = (
                request.body.data if size <= _MIB and request.body.data is not None else request.body.pieces()
            )
        elif request.body is not None:
            headers["Content-Type"] = "application/json"
            data = request.body
        timeout = aiohttp.ClientTimeout(total=limit + size / _MIB, sock_connect=min(_CONNECT_TIMEOUT, limit))
        try:
            async with self._session.request(
                request.method,
                self._url + request.path,
                data=data,
                params=request.params,
                headers=headers,
                timeout=timeout,
            ) as response:
                if response.status < 300 and request.sink is not None:
                    content = b""
                    request.sink.begin()
                    async for piece in response.content.iter_any():
                        request.sink.write(piece)
                else:
                    content = await response.read()
        except TimeoutError as error:
            raise _TryAgain("the gateway did not answer in time") from error
        except aiohttp.ClientError as error:
            raise _TryAgain(f"the gateway cannot be reached ({error or type(error).__name__})") from error
        if response.status < 300:
            return Answer(response.status, response.headers, content)
        raise _refusal(response.status, response.headers, content)

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        # Looked at for each call: the kubelet replaces the file long before the token in it expires.
        try:
            found = self._token_file.stat()
            version = (found.st_ino, found.st_mtime_ns, found.st_size)
            if version != self._token_version:
                self._token = self._token_file.read_text().strip()
                self._token_version = version
        except OSError as error:
            raise AgentError(
                f"cannot read the token at {self._token_file}: {error.strerror}; check PERDURE_TOKEN_FILE"
            ) from error
        return {"Authorization": f"Bearer {self._token}"}


def _refusal(status: int, headers: Mapping[str, str], content: bytes) -> Exception:
    """What an answer other than 2xx means."""
    try:
        problem = json.loads(content)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    kind = str(problem.get("type", "")).rpartition("/")[2]
    title = str(problem.get("title") or f"HTTP {status}")
    detail = str(problem.get("detail") or "")
    if status == 409 and kind == "superseded":
        return Superseded(detail or title)
    if kind not in _LASTING and (status >= 500 or status in (408, 425, 429)):
        return _TryAgain(f"{status} {title}", after=_retry_after(headers))
    return GatewayError(status, kind=kind, title=title, detail=detail, members=problem)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), _LONGEST_OBEYED) if value.isdecimal() else 0.0
