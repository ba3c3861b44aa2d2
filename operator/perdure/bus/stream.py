"""The stream PERDURE: made when missing, kept to our settings, and marked once it has been filled.

JetStream is the delivery and the ledger is the truth, so a stream that vanished is simply made again. A mark
in its metadata says whether it has since been refilled; it is lost with the stream and survives us, so a
refill that was cut short by our death is taken up by whoever comes next.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import nats.errors
import orjson
import structlog

from perdure.bus import subjects
from perdure.bus.connection import REQUEST_TIMEOUT, Bus
from perdure.bus.errors import BusUnavailable
from perdure.settings import Settings

_log = structlog.get_logger(__name__)

STREAM = "PERDURE"
#: Seconds within which a message of the same id is dropped: longer than any retry of ours takes.
DUPLICATE_WINDOW = 600.0
_FILLED = "perdure.dev/filled"
_NANOSECONDS = 1_000_000_000
_NOT_FOUND = 10059
_NAME_IN_USE = 10058
#: Servers from this version on can store many messages all or none.
_ATOMIC_SINCE = (2, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """What the stream may keep; the oldest is discarded first."""

    #: Seconds.
    max_age: float = 7 * 24 * 3600.0
    #: Bytes; reserved on the server when the stream is made.
    max_bytes: int = 512 * 1024 * 1024
    #: Servers that hold a copy, when the stream is made. Later changes are the administrator's.
    replicas: int = 1

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits that this process was told."""
        return cls(
            max_age=settings.stream_max_age,
            max_bytes=settings.stream_max_bytes,
            replicas=settings.stream_replicas,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """What we have to know of the stream."""

    #: When it was made: tells it from another one of the same name.
    created: str
    messages: int
    first_sequence: int
    last_sequence: int
    #: True once all that the ledger held when the stream was made has been published into it.
    filled: bool
    #: True if it takes atomic batches.
    atomic: bool


class StreamRefused(BusUnavailable):
    """JetStream refused a request; `code` is its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def ensure(bus: Bus, limits: StreamLimits) -> StreamState:
    """Make the stream, or bring it to our settings, and say how it is. Raises BusUnavailable.

    What an administrator set beyond our settings (replicas, placement, mirrors …) stays as it is.
    """
    wanted = _wanted(bus, limits)
    try:
        info = await _info(bus)
    except StreamRefused as error:
        if error.code != _NOT_FOUND:
            raise
        info = await _create(bus, wanted, limits)
    config = info["config"]
    if any(config.get(name) != value for name, value in wanted.items()):
        try:
            info = await _request(bus, "UPDATE", config | wanted)
            _log.info("stream_updated", stream=STREAM)
        except StreamRefused as error:
            # A stream with other limits than ours still delivers; that is no reason to stop.
            _log.warning("stream_settings_refused", stream=STREAM, error=str(error))
    return _state(info)


async def mark(bus: Bus, state: StreamState, *, filled: bool) -> None:
    """Note in the stream whether it holds what the ledger holds. Raises BusUnavailable.

    The mark is the time at which the stream was made, so it says nothing of another stream that took its
    place between our look and this. Servers before 2.10 keep no marks.
    """
    config = (await _info(bus))["config"]
    metadata = {**(config.get("metadata") or {}), _FILLED: state.created if filled else ""}
    await _request(bus, "UPDATE", {**config, "metadata": metadata})


async def _create(bus: Bus, wanted: dict[str, Any], limits: StreamLimits) -> dict[str, Any]:
    config = {
        **wanted,
        "name": STREAM,
        "description": "Events of Perdure's runs; the ledger can fill it again",
        "storage": "file",
        "retention": "limits",
        "num_replicas": limits.replicas,
    }
    try:
        info = await _request(bus, "CREATE", config)
        _log.info("stream_created", stream=STREAM)
        return info
    except StreamRefused as error:
        # Another replica was quicker, with other limits.
        if error.code == _NAME_IN_USE:
            return await _info(bus)
        raise


def _wanted(bus: Bus, limits: StreamLimits) -> dict[str, Any]:
    wanted: dict[str, Any] = {
        "subjects": [subjects.ALL],
        "discard": "old",
        "max_age": int(limits.max_age * _NANOSECONDS),
        "max_bytes": limits.max_bytes,
        "duplicate_window": int(DUPLICATE_WINDOW * _NANOSECONDS),
        "allow_direct": True,
    }
    version = bus.client.connected_server_version
    if (version.major, version.minor) >= _ATOMIC_SINCE:
        wanted["allow_atomic"] = True
    return wanted


def _state(info: dict[str, Any]) -> StreamState:
    state, config = info["state"], info["config"]
    return StreamState(
        created=info["created"],
        messages=state["messages"],
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        filled=(config.get("metadata") or {}).get(_FILLED) == info["created"],
        atomic=bool(config.get("allow_atomic")),
    )


async def _info(bus: Bus) -> dict[str, Any]:
    return await _request(bus, "INFO", None)


async def _request(bus: Bus, verb: str, body: dict[str, Any] | None) -> dict[str, Any]:
    # Plain JSON instead of the library's classes, which drop settings that they do not know: an update would
    # then reset what an administrator has set.
    payload = b"" if body is None else orjson.dumps(body)
    try:
        request = bus.client.request(f"$JS.API.STREAM.{verb}.{STREAM}", payload, timeout=REQUEST_TIMEOUT)
        answer = await bus.unless_lost(request)
    except nats.errors.NoRespondersError as error:
        raise BusUnavailable("JetStream does not answer: is it enabled on the NATS server?") from error
    except (nats.errors.Error, OSError) as error:
        raise BusUnavailable(f"JetStream did not answer: {error!r}") from error
    result: dict[str, Any] = orjson.loads(answer.data)
    failure = result.get("error")
    if failure is not None:
        code = failure.get("err_code", 0)
        raise StreamRefused(code, f"JetStream refused: {failure.get('description', failure)} ({code})")
    return result
