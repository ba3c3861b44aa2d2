"""`perdure operator` and `perdure gateway` as processes of their own, started as in a pod."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from tests.bench.apart import Product

#: Where a pod finds its account.
_ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)

#: $1: the files of an image, or nothing for this machine's. $2: the account's folder, or nothing. $3: the
#: sockets' folder. Hides /run behind an empty one, seen by this process only, with the account's files in it,
#: and lets the name that a cluster's DNS gives the API server mean this machine. An image gets what its
#: runtime would put into it, and the sockets.
_AS_IN_A_POD = f"""
root=$1 account=$2 sockets=$3; shift 3
mount -t tmpfs tmpfs "$root/run" && mkdir -p "$root{_ACCOUNT}" || exit 1
if [ -n "$account" ]; then cp "$account"/* "$root{_ACCOUNT}/" || exit 1; fi
cp /etc/hosts "$root/run/hosts" && echo "127.0.0.1 kubernetes.default.svc" >> "$root/run/hosts" &&
mount --bind "$root/run/hosts" "$root/etc/hosts" || exit 1
if [ -n "$root" ]; then
    for shared in /proc /dev "$sockets"; do
        mkdir -p "$root$shared" && mount --rbind "$shared" "$root$shared" || exit 1
    done
fi
exec "$@"
"""
#: The port of that name.
IN_CLUSTER_PORT = 443


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def pod_namespaces() -> list[str] | None:
    """The command that gives a program mounts of its own; None where a pod cannot be played.

    In a pod the API server is found by its name, two variables and three files. Without them a kubeconfig
    has to do, which costs the process the client library for it: a second at the start and 75 MB.
    """
    if shutil.which("unshare") is None or os.path.realpath("/var/run") != "/run":
        return None
    for rights in ([], ["--user", "--map-root-user"]):
        command = ["unshare", *rights, "--mount", "--propagation", "private"]
        tried = subprocess.run(
            [*command, "mount", "-t", "tmpfs", "tmpfs", "/run"], capture_output=True, check=False
        )
        if tried.returncode == 0:
            return command
    return None


def can_play_pod() -> bool:
    """Whether a process can be started as in a pod here, with an API server on the port that pods expect."""
    with socket.socket() as probe:
        # As the API server does: connections of an earlier one that linger are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", IN_CLUSTER_PORT))
        except OSError:
            return False
    return pod_namespaces() is not None


def as_in_a_pod(product: Product, *, account: Path | None) -> list[str]:
    """The prefix of a product's command that gives the process the environment of a pod.

    `account`: a folder with token and ca.crt, put where a pod has them. Nothing, if there is nothing to find.
    """
    if account is None and product.root is None:
        return []
    namespaces = pod_namespaces()
    assert namespaces is not None
    root = "" if product.root is None else str(product.root)
    folder = "" if account is None else str(account)
    return [*namespaces, "sh", "-c", _AS_IN_A_POD, "sh", root, folder, tempfile.gettempdir()]


class Service:
    """A process of the product. Restarts keep its identity and port, like a container in a pod."""

    def __init__(
        self,
        role: str,
        *,
        name: str,
        product: Product,
        directory: Path,
        environment: Mapping[str, str],
        account: Path | None,
        health_port: int,
    ) -> None:
        """`name`: of its log. `account`: a folder with token and ca.crt, put where a pod has them; it is
        needed for a product that comes from an image.
        """
        self.role = role
        base = _clean_environment(directory) if product.root is None else dict(product.environment)
        self._environment = base | dict(environment)
        self._command = [*product.command("perdure"), role]
        if account is not None:
            self._command = [*as_in_a_pod(product, account=account), *self._command]
        self._health = f"http://127.0.0.1:{health_port}"
        self.log = directory / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "does not run"
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """The pid, if the process runs."""
        return [] if self._process is None else [self._process.pid]

    async def start(self) -> float:
        """Start it; returns when that was, by the monotonic clock. It need not be ready yet."""
        assert self._process is None, "runs already"
        with self.log.open("ab") as log:
            at = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        return at

    async def ready(self, *, within: float = 30.0) -> None:
        """Wait until it says that it is ready. Raises RuntimeError with the end of its log if it does not."""
        async with aiohttp.ClientSession() as session:
            deadline = time.monotonic() + within
            while True:
                try:
                    async with session.get(f"{self._health}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                assert self._process is not None
                if self._process.returncode is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the {self.role} does not get ready:\n{self.tail()}")
                await asyncio.sleep(0.02)

    def freeze(self) -> float:
        """SIGSTOP: it keeps its connections, and does nothing. Returns when that was."""
        os.kill(self.pid, signal.SIGSTOP)
        return time.monotonic()

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    async def kill(self) -> float:
        """kill -9. Returns when that was."""
        process, self._process = self._process, None
        at = time.monotonic()
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        return at

    async def stop(self) -> None:
        """SIGTERM, and kill -9 if that is not enough."""
        if self._process is None or self._process.returncode is not None:
            self._process = None
            return
        self._process.terminate()
        try:
            async with asyncio.timeout(30):
                await self._process.wait()
        except TimeoutError:
            await self.kill()
        self._process = None

    def text(self) -> str:
        """The text of the process's log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self) -> str:
        """The end of its log."""
        return self.text()[-3000:]


def _clean_environment(directory: Path) -> dict[str, str]:
    """Ours, but for what would change what is measured: settings, and whether bytecode is kept.

    An image carries compiled bytecode; a checkout may not, and compiling it at each start takes longer
    than everything else in it.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PERDURE_", "KUBE", "PYTHONDONTWRITEBYTECODE"))
    }
    return kept | {"PYTHONPYCACHEPREFIX": str(directory / "bytecode"), "PYTHONUNBUFFERED": "1"}
