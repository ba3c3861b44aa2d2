"""Thread with connections of its own that sends heartbeats while the event loop is busy.

The thread shares no object with the event loop but a few attributes that are read and written whole. It never
raises into the agent: an agent whose thread cannot be started, or whose heartbeats are refused, works on.
Computation that holds Python's global lock for minutes, as some C extensions do, stops this thread as well.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import urlsplit

from perdure_agent._backstop import Backstop, BackstopOrder, Beats
from perdure_agent._http import CONNECT_TIMEOUT, Answer, NoAnswer
from perdure_agent._tls import context_for
from perdure_agent._token import TokenFile

log = logging.getLogger("perdure_agent")

#: Largest answer that is read. Bytes.
_ANSWER: Final = 65_536
#: Longest wait for the thread when the agent ends. A thread that a name server holds up is left behind as a
#: daemon, which neither sends anything nor keeps the process from ending. Seconds.
_CLOSING: Final = 2.0
#: Longest delay of `os.fork` by a heartbeat that is being sent. Seconds.
_FORK_WAIT: Final = 1.0


class _ForkGuard:
    """Lock that keeps `os.fork` from happening in the middle of a heartbeat.

    A child of `fork` has the memory of all threads and runs one of them. Locks of the C library and of the
    TLS library that the thread of heartbeats held at that moment would never be released in the child.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: Whether a thread that forks holds the lock: several threads may fork at once.
        self._forking = threading.local()

    def before(self) -> None:
        """Take the lock, or go on without it after _FORK_WAIT seconds."""
        self._forking.holds = self.lock.acquire(timeout=_FORK_WAIT)

    def after_in_parent(self) -> None:
        """Give the lock back."""
        if self._forking.holds:
            self.lock.release()

    def after_in_child(self) -> None:
        """Have a lock of the child's own."""
        self.lock = threading.Lock()


_fork_guard: Final = _ForkGuard()
# Missing on Windows, which has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_fork_guard.before,
        after_in_parent=_fork_guard.after_in_parent,
        after_in_child=_fork_guard.after_in_child,
    )


class HeartbeatThread:
    """Backstop over the network, for as long as the context of `running` is open."""

    def __init__(self, order: BackstopOrder, loop: asyncio.AbstractEventLoop) -> None:
        url = urlsplit(f"{order.environment.gateway_url}/agent/v1/heartbeat")
        self._order = order
        self._loop = loop
        self._host = url.hostname or ""
        self._port = url.port
        self._path = url.path
        self._tls = context_for(order.environment)
        self._token = TokenFile(order.environment.token_file)
        self._beats = Beats(order, now=time.monotonic())
        self._pid = os.getpid()
        self._stopping = threading.Event()
        self._ended = asyncio.Event()
        self._connection: http.client.HTTPConnection | None = None
        self._thread = threading.Thread(target=self._run, name="perdure-heartbeats", daemon=True)

    def postpone(self) -> None:
        self._beats.postpone(now=time.monotonic())

    def start(self) -> bool:
        """True once the thread runs; False if the system has no thread to give."""
        try:
            self._thread.start()
        except RuntimeError as error:
            log.warning("no thread for heartbeats (%s): they stop while the agent computes", error)
            return False
        return True

    async def stop(self) -> None:
        """Return when the thread has ended, or after _CLOSING seconds."""
        # In a child of `fork` the thread does not exist, and its locks may be held for ever.
        if os.getpid() != self._pid:
            return
        self._stopping.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING):
                await self._ended.wait()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(max(0.0, self._beats.due() - time.monotonic())):
                # A loop that was closed without the end of its coroutines has no agent any more.
                if self._loop.is_closed():
                    return
                if self._beats.due() > time.monotonic():
                    continue
                superseded = self._beats.beat(self._exchange, now=time.monotonic())
                if superseded is not None:
                    self._pass_on(self._order.on_superseded, superseded)
                    return
        except Exception:
            log.warning("the thread of heartbeats failed; the event loop sends them alone", exc_info=True)
        finally:
            self._pass_on(self._ended.set)

    def _exchange(self) -> Answer:
        """One request on a connection of its own. Raises NoAnswer, AgentError."""
        headers = {"User-Agent": "perdure-agent", "Connection": "close", **self._token.authorization()}
        # Idle connections between heartbeats would outlive the gateway's keep-alive.
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_TIMEOUT)
            if self._tls is None
            else http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_TIMEOUT, context=self._tls
            )
        )
        with _fork_guard.lock:
            self._connection = connection
            try:
                connection.request("POST", self._path, headers=headers)
                response = connection.getresponse()
                named = {name.title(): value for name, value in response.headers.items()}
                return Answer(response.status, named, response.read(_ANSWER))
            except (OSError, http.client.HTTPException, ssl.SSLError) as error:
                raise NoAnswer(f"the gateway cannot be reached ({error or type(error).__name__})") from error
            finally:
                self._connection = None
                connection.close()

    def _pass_on(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the event loop, unless the loop was closed."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *arguments)


@asynccontextmanager
async def running(order: BackstopOrder) -> AsyncIterator[Backstop]:
    """A heartbeat thread for as long as the context is open."""
    thread = HeartbeatThread(order, asyncio.get_running_loop())
    started = thread.start()
    try:
        yield thread
    finally:
        if started:
            await thread.stop()
