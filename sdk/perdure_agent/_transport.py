"""Calls to the gateway that outlast its absence.

The gateway may restart, move or lose its database at any time, and an agent with hours of work behind it must
go on. Every call here may be repeated safely: the gateway acknowledges a repeated checkpoint or result as the
first one.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from math import inf
from pathlib import Path

from perdure_agent._checkpoints import LIMIT
from perdure_agent._clock import Clock
from perdure_agent._http import CONNECT_TIMEOUT, Answer, HttpClient, HttpRequest, NoAnswer
from perdure_agent._options import Retries
from perdure_agent._payload import Payload, Sink
from perdure_agent._token import TokenFile
from perdure_agent.errors import GatewayError, GatewayUnavailable, Superseded

log = logging.getLogger("perdure_agent")

_MIB = 1024 * 1024
#: Longest Retry-After that is obeyed: an agent that sleeps for longer seems dead. Seconds.
_LONGEST_OBEYED = 60.0
#: Longest wait of one call for the kubelet to renew an expired token, whatever the call's patience. A longer
#: absence is the node's: another pod, on another node, may get a token. Seconds.
TOKEN_PATIENCE = 3600.0
#: Server errors that a repetition cannot heal.
_LASTING = frozenset({"checkpoint-corrupt"})
#: Tries of a request that arrives damaged: a cause that lasts is a defect, which must come to light.
_DAMAGED_TRIES = 3


class TryAgain(Exception):
    """This try failed in a way that time may heal."""

    def __init__(self, cause: str, *, after: float = 0.0) -> None:
        super().__init__(cause)
        self.after = after


class ExpiredToken(TryAgain):
    """The token has expired, and the kubelet has not renewed the file yet.

    The kubelet cannot renew the file while the API server is away, which is no fault of the agent.
    """


class Transport:
    """Calls to one gateway, authenticated by the pod's projected token."""

    def __init__(
        self,
        client: HttpClient,
        *,
        url: str,
        token_file: Path | None,
        retries: Retries,
        clock: Clock,
    ) -> None:
        self._client = client
        self._url = url + "/agent/v1"
        self._retries = retries
        self._clock = clock
        self._token = TokenFile(token_file)

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
        """One call, repeated until the gateway answers or `patience` seconds have passed (0: one try).

        A `sink` receives the response's body. `hurry` shortens the wait for each try. Raises Superseded
        (409), GatewayError for a refusal, GatewayUnavailable when the patience ends, or when the token stays
        expired for TOKEN_PATIENCE.
        """
        limit = self._retries.request_timeout
        if hurry:
            # A best-effort call must not hold the agent up behind a gateway that swallows packets.
            limit = min(limit, CONNECT_TIMEOUT)
        deadline = inf if patience is None else self._clock.time() + patience
        delay = self._retries.first_delay
        tries = damaged = 0
        retried_token = False
        #: Time at which an expired token is no longer waited for.
        token_deadline = inf
        while True:
            tries += 1
            try:
                return await self._try(
                    HttpRequest(
                        method=method,
                        url=self._url + path,
                        headers={**self._token.authorization(), **(headers or {})},
                        params=params or {},
                        body=body,
                    ),
                    sink=sink,
                    limit=limit,
                )
            except TryAgain as error:
                now = self._clock.time()
                if not isinstance(error, ExpiredToken):
                    token_deadline = inf
                elif self._token.renewed():
                    continue
                else:
                    token_deadline = min(token_deadline, now + TOKEN_PATIENCE)
                pause = max(self._clock.jitter(delay), error.after)
                if now + pause >= min(deadline, token_deadline):
                    raise GatewayUnavailable(
                        f"{method} {path}: {error} (gave up after {tries} tries)"
                    ) from error.__cause__
                if tries == 1:
                    log.warning("%s %s: %s; trying again", method, path, error)
                await self._clock.sleep(pause)
                delay = min(delay * 2, self._retries.longest_delay)
            except GatewayError as error:
                if error.kind == "checksum-mismatch" and (damaged := damaged + 1) < _DAMAGED_TRIES:
                    continue
                # The kubelet replaces the token before it expires. A token can still expire between our
                # reading and the gateway's check, but only once: a second refusal has another cause.
                if error.status != 401 or retried_token:
                    raise
                retried_token = True
                self._token.renewed()

    async def _try(self, request: HttpRequest, *, sink: Sink | None, limit: float) -> Answer:
        # A large body adds a second for each MiB; the size of a checkpoint to come is not known beforehand.
        size = LIMIT if sink is not None else request.body.size if isinstance(request.body, Payload) else 0
        try:
            answer = await self._client.send(request, sink=sink, timeout=limit + size / _MIB)
        except NoAnswer as error:
            raise TryAgain(str(error)) from error.__cause__
        if answer.status < 300:
            return answer
        raise refusal(answer)


def refusal(answer: Answer) -> Exception:
    """The exception that stands for a response other than 2xx."""
    status = answer.status
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}
    kind = str(problem.get("type", "")).rpartition("/")[2]
    title = str(problem.get("title") or f"HTTP {status}")
    detail = str(problem.get("detail") or "")
    if status == 409 and kind == "superseded":
        return Superseded(detail or title)
    if status == 401 and kind == "token-expired":
        return ExpiredToken(f"{status} {title}", after=_retry_after(answer.headers))
    if kind not in _LASTING and (status >= 500 or status in (408, 425, 429)):
        return TryAgain(f"{status} {title}", after=_retry_after(answer.headers))
    return GatewayError(status, kind=kind, title=title, detail=detail, members=problem)


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("Retry-After", "")
    return min(float(value), _LONGEST_OBEYED) if value.isdecimal() else 0.0
