"""Holds the programs of one cluster: starts, kills and reaps them on request.

Why: the components need a parent when the command that booted the cluster has
long returned, and in the full mode a process 1 of the cluster's
PID namespace, whose death takes everything else along.

It runs alone (no import of this package), in the state folder, and serves one
JSON line per connection on `control.sock` there. A program that dies stays
dead until it is started again, so that fault tests decide what comes back.
"""

import argparse
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from typing import Any

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Supervisor:
    def __init__(self) -> None:
        self.specs: dict[str, dict[str, Any]] = {}
        self.pids: dict[str, int] = {}
        self.exits: dict[str, int] = {}

    def start(self, name: str, spec: dict[str, Any] | None) -> None:
        if name in self.pids:
            return
        if spec:
            self.specs[name] = spec
        spec = self.specs[name]
        with open(spec["log"], "ab") as log:
            process = subprocess.Popen(
                spec["argv"],
                env=spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.pids[name] = process.pid
        self.exits.pop(name, None)
        # All children are reaped in one place; Popen must not do it as well.
        process.returncode = 0

    def kill(self, name: str, number: int) -> None:
        if pid := self.pids.get(name):
            os.kill(pid, number)
            if number == signal.SIGKILL:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
                self.reap()

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for name, child in list(self.pids.items()):
                if child == pid:
                    del self.pids[name]
                    self.exits[name] = os.waitstatus_to_exitcode(status)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        action, name = request["do"], request.get("name", "")
        if action == "start" and (request.get("spec") or name in self.specs):
            self.start(name, request.get("spec"))
        elif action == "kill" and name in self.specs:
            self.kill(name, request.get("signal", signal.SIGKILL))
        elif action != "list":
            return {"error": f"no component {name!r}; there are: {', '.join(self.specs)}"}
        self.reap()
        return {"components": {n: {"pid": self.pids.get(n), "exit": self.exits.get(n)} for n in self.specs}}

    def serve(self, lifeline: bool) -> None:
        wakeup, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        listener = socket.socket(socket.AF_UNIX)
        # Clients connect to the final name, which must never refuse them.
        listener.bind("control.sock.new")
        listener.listen(64)
        os.rename("control.sock.new", "control.sock")
        watched: list[Any] = [listener, wakeup]
        if lifeline:
            watched.append(0)
        while True:
            ready, _, _ = select.select(watched, [], [])
            if 0 in ready and not os.read(0, 1):
                return
            if wakeup in ready:
                os.read(wakeup, 4096)
                self.reap()
            if listener in ready:
                self.talk(listener.accept()[0])

    def talk(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        with connection, connection.makefile("rwb") as stream:
            try:
                reply = self.answer(json.loads(stream.readline()))
            except Exception as error:  # a bad request must not end the cluster
                reply = {"error": f"{type(error).__name__}: {error}"}
            try:
                stream.write(json.dumps(reply).encode() + b"\n")
                stream.flush()
            except OSError:
                pass  # the client has gone; there is no receiver for the answer

    def end(self) -> None:
        for pid in self.pids.values():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            os.waitpid(pid, 0)


def die_with_parent() -> None:
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lifeline", action="store_true", help="end when standard input is closed")
    options = parser.parse_args()
    supervisor = Supervisor()

    def leave(*_: Any) -> None:
        supervisor.end()
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        supervisor.serve(options.lifeline)
    finally:
        supervisor.end()


if __name__ == "__main__":
    main()
