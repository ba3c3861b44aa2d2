"""The stream PERDURE: created when missing, kept to the settings, and marked once it is filled.

JetStream delivers and the ledger is the truth, so a stream that was lost is created again. A mark in its
metadata says whether the stream was refilled since. The mark is lost with the stream and survives the
process, so a refill that a crash cut short is taken up by the next leader.
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
#: Seconds within which a message of the same id is dropped: longer than any retry of the relay takes.
DUPLICATE_WINDOW = 600.0
_FILLED = "perdure.dev/filled"
_NANOSECONDS = 1_000_000_000
_NOT_FOUND = 10059
_NAME_IN_USE = 10058
#: Server version from which batches are atomic: all of their messages are stored, or none.
_ATOMIC_SINCE = (2, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How much the stream keeps; the oldest messages are discarded first."""

    #: Seconds.
    max_age: float = 7 * 24 * 3600.0
    #: Bytes; reserved on the server when the stream is created.
    max_bytes: int = 512 * 1024 * 1024
    #: Servers that hold a copy when the stream is created. Later changes are the administrator's.
    replicas: int = 1

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The limits of the settings."""
        return cls(
            max_age=settings.stream_max_age,
            max_bytes=settings.stream_max_bytes,
            replicas=settings.stream_replicas,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """The state of the stream, as far as publishing depends on it."""

    #: Creation time, which differs for another stream of the same name.
    created: str
    messages: int
    first_sequence: int
    last_sequence: int
    #: True once all events that the ledger held when the stream was created are in the stream.
    filled: bool
    #: True if the stream accepts atomic batches.
    atomic: bool


class StreamRefused(BusUnavailable):
    """JetStream refused a request; `code` is its error code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


async def ensure(bus: Bus, limits: StreamLimits) -> StreamState:
    """Create the stream, or update it to the settings; returns its state. Raises BusUnavailable.

    Options that an administrator set and the settings lack (replicas, placement, mirrors …) stay as they are.
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
            # A stream with other limits still delivers events.
            _log.warning("stream_settings_refused", stream=STREAM, error=str(error))
    return _state(info)


async def mark(bus: Bus, state: StreamState, *, filled: bool) -> None:
    """Record in the stream whether it holds all events of the ledger. Raises BusUnavailable.

    The mark is the stream's creation time, so it does not hold for another stream that replaced this one
    after `state` was read. Servers before 2.10 keep no marks.
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
        # Another replica created the stream first, with other limits.
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
    # Plain JSON instead of the library's classes, which drop options that they do not know: an update would
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
