"""Sessions of Postgres: the limits that live in the server, and the end of a session that is given up.

A limit on the client's side only makes the client stop waiting: the statement, and its locks, live on in
the server. A peer that vanishes without a FIN would keep its locks for hours. So every session carries limits
that the server enforces, and a statement that is given up is cancelled in the server.
"""

from __future__ import annotations

import socket
from typing import Any, Final

import asyncpg
import orjson

#: Name of our sessions in `pg_stat_activity`; `end_stuck` ends no others.
APPLICATION: Final = "perdure"
#: Seconds that a statement waits for one lock (`lock_timeout`).
LOCK_TIMEOUT: Final = 2.0
#: Part of the client's time for a statement after which the server ends it (`statement_timeout`): the answer
#: of the server says that the statement was rolled back, while a timeout of the client leaves that unknown.
SERVER_SHARE: Final = 0.9
#: Seconds that a session may leave a transaction without a statement (`idle_in_transaction_session_timeout`).
IDLE_TIMEOUT: Final = 5.0
#: Seconds that a session may keep a batch of statements unfinished before another session, which waits for
#: its locks, ends it: between the statements of one batch no timeout of Postgres runs.
STUCK_AFTER: Final = 5.0
#: Seconds for the cancellation of a statement that is given up, and for the end of its connection.
CANCEL_TIMEOUT: Final = 1.0
#: Seconds of silence before TCP probes the peer, between probes, and the number of probes without an answer
#: after which the connection is dead. Both ends have them: a lost node closes no connection.
KEEPALIVE_IDLE: Final = 5
KEEPALIVE_INTERVAL: Final = 2
KEEPALIVE_COUNT: Final = 3
#: Seconds in which the peer must acknowledge what was sent (`tcp_user_timeout`).
UNACKNOWLEDGED: Final = 10
#: Seconds between checks of a running statement whether its client is still connected
#: (`client_connection_check_interval`).
CHECK_INTERVAL: Final = 2

#: Set after connecting, not as parameters of the start-up packet, which poolers refuse.
_SET: Final = """
select set_config(s.name, s.setting, $3) from unnest($1::text[], $2::text[]) as s (name, setting)
"""
_CHECKED: Final = "client_connection_check_interval"


class Session(asyncpg.Connection):  # type: ignore[misc] # the driver has no types
    """A connection whose socket notices a peer that is gone."""

    __slots__ = ()

    def __init__(self, protocol: Any, transport: Any, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        _watch_peer(transport.get_extra_info("socket"))


def settings(*, timeout: float, lock_timeout: float = LOCK_TIMEOUT) -> dict[str, str]:
    """The settings of a session. `timeout`: the client's seconds for one statement."""
    return {
        "application_name": APPLICATION,
        "lock_timeout": milliseconds(lock_timeout),
        "statement_timeout": milliseconds(timeout * SERVER_SHARE),
        "idle_in_transaction_session_timeout": milliseconds(IDLE_TIMEOUT),
        "tcp_keepalives_idle": str(KEEPALIVE_IDLE),
        "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL),
        "tcp_keepalives_count": str(KEEPALIVE_COUNT),
        "tcp_user_timeout": milliseconds(UNACKNOWLEDGED),
        _CHECKED: milliseconds(CHECK_INTERVAL),
    }


def milliseconds(seconds: float) -> str:
    """A duration as Postgres reads it; never 0, which would mean no limit."""
    return f"{max(1, round(seconds * 1000))}ms"


async def prepare(connection: Any, wanted: dict[str, str]) -> None:
    """Make a new connection ready: codecs and the settings of `settings`."""
    # Parameters are JSON bytes already (see `parameters.dumps`), results are decoded. Binary format keeps
    # both free of a copy through str.
    await connection.set_type_codec(
        "json", schema="pg_catalog", encoder=bytes, decoder=orjson.loads, format="binary"
    )
    try:
        await connection.fetch(_SET, list(wanted), list(wanted.values()), False)
    except asyncpg.InvalidParameterValueError:
        # A server whose operating system cannot check refuses the setting, and with it all others.
        rest = {name: setting for name, setting in wanted.items() if name != _CHECKED}
        await connection.fetch(_SET, list(rest), list(rest.values()), False)


async def set_local(connection: Any, **seconds: float) -> None:
    """Set limits, by their names in Postgres, until the end of the transaction."""
    await connection.fetch(_SET, list(seconds), [milliseconds(value) for value in seconds.values()], True)


async def abandon(connection: Any) -> None:
    """Cancel in the server what a connection runs, and close the connection, within CANCEL_TIMEOUT.

    The driver's `terminate()` would cancel the task that sends the CancelRequest, so the statement would go
    on in the server, with its locks.
    """
    try:
        await connection.close(timeout=CANCEL_TIMEOUT)
    except Exception:
        # The server does not answer. Its own limits end the session.
        connection.terminate()


def _watch_peer(sock: socket.socket | None) -> None:
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED * 1000),
    ):
        # Not every platform has all of them.
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def lock_wait_ended(error: BaseException) -> bool:
    """True if the server gave up a statement that waited for a lock or took too long; it is rolled back."""
    return isinstance(error, asyncpg.LockNotAvailableError | asyncpg.QueryCanceledError)
