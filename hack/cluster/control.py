"""Starts a cluster's supervisor and talks to it.

Why: the command line and the test fixtures need the same few requests (start,
kill, list), from any process and at any time of the cluster's life.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import programs
from .errors import ClusterError, tail
from .identity import Process

HERE = Path(__file__).resolve().parent
SOCKET = "control.sock"


class Supervisor:
    """The client of the supervisor; `supervisor.py` is the server."""

    def __init__(
        self, state_dir: Path, process: Process, child: "subprocess.Popen[bytes] | None" = None
    ) -> None:
        self.state_dir = state_dir
        self.process = process
        self._child = child

    @classmethod
    def spawn(cls, state_dir: Path, *, attached: bool, isolated: bool) -> "Supervisor":
        """Starts a supervisor. `attached`: ends with this process; `isolated`: in namespaces of its own."""
        log = state_dir / "logs" / "supervisor.log"
        # -I -S: it needs nothing but the standard library, and starts in half the time.
        python = [sys.executable, "-I", "-S"]
        command = [*python, str(HERE / "supervisor.py"), *(["--lifeline"] if attached else [])]
        if isolated:
            keep = [str(HERE), str(programs.cache()), sys.prefix, sys.base_prefix]
            command = [*python, str(HERE / "namespaces.py"), *keep, "--", *command]
        (state_dir / SOCKET).unlink(missing_ok=True)
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                cwd=state_dir,
                # The pipe closes when this process dies in whatever way, and
                # that ends the supervisor. A death signal would not do: it is
                # sent when the thread that started the child ends.
                stdin=subprocess.PIPE if attached else subprocess.DEVNULL,
                stdout=subprocess.PIPE if isolated else output,
                stderr=output,
                start_new_session=True,
            )
        pid = child.pid
        if isolated:
            assert child.stdout is not None
            with child.stdout:
                line = child.stdout.readline()
            child.wait()
            if not line:
                raise ClusterError(
                    f"The cluster's namespaces could not be made; that needs root.\n{tail(log)}"
                )
            pid = int(line)
        process = Process.of(pid)
        if process is None:
            raise ClusterError(f"The cluster's supervisor ended at once.\n{tail(log)}")
        supervisor = cls(state_dir, process, child)
        supervisor._wait_until_it_listens(log)
        return supervisor

    def start(self, name: str, argv: list[str] | None = None, env: dict[str, str] | None = None) -> None:
        """Starts a component; without `argv`, with the command it had before."""
        request: dict[str, Any] = {"do": "start", "name": name}
        if argv is not None:
            log = self.state_dir / "logs" / f"{name}.log"
            request["spec"] = {"argv": argv, "env": {**_base_environment(), **(env or {})}, "log": str(log)}
        self._ask(request)

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal; after SIGKILL the component is gone when this returns."""
        self._ask({"do": "kill", "name": name, "signal": number})

    def components(self) -> dict[str, dict[str, int | None]]:
        """By name: the pid as the supervisor sees it, or the exit code."""
        return dict(self._ask({"do": "list"})["components"])

    def end(self) -> bool:
        """Ends it, and with it everything it holds; whether it is gone."""
        # Asked kindly, it leaves only after its children have.
        gone = self.process.end(signal.SIGTERM, 5) or self.process.end(signal.SIGKILL, 20)
        if self._child is not None:
            if self._child.stdin:
                self._child.stdin.close()
            self._child.wait()
        return gone

    def _wait_until_it_listens(self, log: Path) -> None:
        deadline = time.monotonic() + 15
        while not (self.state_dir / SOCKET).exists():
            if time.monotonic() > deadline or not self.process.alive:
                self.end()
                raise ClusterError(f"The cluster's supervisor did not start.\n{tail(log)}")
            time.sleep(0.005)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        # A socket's path is limited to 107 bytes; that of a folder is not.
        folder = os.open(self.state_dir, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(20)
                connection.connect(f"/proc/self/fd/{folder}/{SOCKET}")
                with connection.makefile("rwb") as stream:
                    stream.write(json.dumps(request).encode() + b"\n")
                    stream.flush()
                    reply = json.loads(stream.readline() or b"{}")
        except OSError as error:
            raise ClusterError(
                f"The cluster in {self.state_dir} does not answer ({error}); boot it again."
            ) from error
        finally:
            os.close(folder)
        if "components" not in reply:
            raise ClusterError(f"The cluster's supervisor refused: {reply.get('error', 'no answer')}")
        return dict(reply)


def _base_environment() -> dict[str, str]:
    # Programs in /sbin are missing from the PATH of many shells; proxies of
    # the caller would swallow the cluster's own traffic.
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "HOME": str(Path.home()), "LANG": "C.UTF-8"}
