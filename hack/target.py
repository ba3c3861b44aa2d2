"""Which cluster `make install` and `make demo` mean, and how to speak to it.

Why: three kinds of cluster (ours, kind, whatever the kubeconfig says) differ in where the kubeconfig is, how
images get in, and what may be killed; everything above this module treats them alike.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CLUSTER_TOOL = ROOT / "hack" / "cluster"
IMAGE_BUILDER = CLUSTER_TOOL / "image_builder"
KINDS = ("native", "kind", "current")
NAMESPACE = "perdure-system"
RELEASE = "perdure"


class Problem(Exception):
    """Something a person can act on. `remedy` says how."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


def say(text: str = "") -> None:
    print(text, flush=True)


def run(
    command: Sequence[str | Path],
    *,
    deadline: float,
    stdin: str | None = None,
    environment: dict[str, str] | None = None,
    shown: bool = False,
) -> str:
    """The output of a command; with `shown`, its stderr goes to the terminal meanwhile.

    Raises Problem, with the end of what it said, when it fails or takes longer than `deadline` seconds.
    """
    words = [str(word) for word in command]
    line = " ".join(words)
    try:
        done = subprocess.run(
            words,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            stdout=subprocess.PIPE,
            stderr=None if shown else subprocess.PIPE,
            text=True,
            timeout=deadline,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise Problem(f"{words[0]} is not installed", f"Install {words[0]}, and put it on PATH.") from None
    except subprocess.TimeoutExpired:
        raise Problem(f"`{line}` took longer than {deadline:g} s") from None
    if done.returncode != 0:
        text = "\n".join(((done.stderr or "") + done.stdout).strip().splitlines()[-20:])
        raise Problem(f"`{line}` failed with code {done.returncode}{':' if text else ''}\n{text}".rstrip())
    return done.stdout


@functools.cache
def _built(name: str) -> str:
    # Building it takes minutes the first time, so that its progress is shown.
    return run([sys.executable, CLUSTER_TOOL, "path", name], deadline=3600, shown=True).strip()


@dataclass(frozen=True)
class Target:
    """One cluster. `kind` is native, kind or current."""

    kind: str
    state: Path

    @staticmethod
    def from_environment(kind: str | None = None, state: Path | None = None) -> "Target":
        """`CLUSTER` names the kind, native by default; `STATE_DIR` the folder, `.cluster` by default.

        Raises Problem for a kind that does not exist.
        """
        chosen = kind or os.environ.get("CLUSTER") or "native"
        if chosen not in KINDS:
            raise Problem(f"CLUSTER={chosen} is not known", f"Use one of: {', '.join(KINDS)}.")
        folder = state or Path(os.environ.get("STATE_DIR") or ".cluster")
        return Target(chosen, folder if folder.is_absolute() else ROOT / folder)

    @property
    def kind_name(self) -> str:
        """Name of the kind cluster, where kind is meant."""
        return os.environ.get("KIND_CLUSTER", "kind")

    @property
    def kubeconfig(self) -> Path | None:
        """None for the kubeconfig that kubectl finds by itself."""
        return {
            "native": self.state / "kubeconfig",
            "kind": self.state / "kind.kubeconfig",
            "current": None,
        }[self.kind]

    @property
    def environment(self) -> dict[str, str]:
        """For kubectl and helm."""
        return {"KUBECONFIG": str(self.kubeconfig)} if self.kubeconfig else {}

    def program(self, name: str) -> str:
        """Path of kubectl or helm: the program of our own cluster, or else the machine's."""
        return (shutil.which(name) if self.kind != "native" else None) or _built(name)

    def kubectl_line(self, *arguments: str) -> list[str]:
        """The command line of kubectl, for callers that run it with `environment`."""
        return [self.program("kubectl"), *arguments]

    def kubectl(self, *arguments: str, deadline: float = 60, stdin: str | None = None) -> str:
        """The output of kubectl. Raises Problem."""
        line = self.kubectl_line(*arguments)
        return run(line, deadline=deadline, stdin=stdin, environment=self.environment)

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`. Raises Problem."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json"))

    def exists(self, *arguments: str) -> bool:
        """Whether `kubectl get …` finds something."""
        return bool(self.kubectl("get", *arguments, "--ignore-not-found", "-o", "name").strip())

    def kubectl_may(self, verb: str, resource: str) -> bool:
        """Whether the user may do that in all namespaces. Raises Problem if kubectl gives no answer."""
        line = self.kubectl_line("auth", "can-i", verb, resource, "--all-namespaces", "--quiet")
        environment = {**os.environ, **self.environment}
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=environment
        )
        if done.stderr and b"Warning" not in done.stderr:
            raise Problem(f"kubectl auth can-i: {done.stderr.decode(errors='replace').strip()}")
        return done.returncode == 0

    def cluster(self, *arguments: str, deadline: float = 3600) -> str:
        """hack/cluster on our own cluster. Raises Problem."""
        command = [
            sys.executable,
            str(CLUSTER_TOOL),
            arguments[0],
            "--state-dir",
            str(self.state),
            *arguments[1:],
        ]
        return run(command, deadline=deadline, shown=True)

    def up(self) -> None:
        """Boot the cluster if it is ours to boot and is not there. Raises Problem."""
        if self.kind == "native":
            say(self.cluster("up").strip())
        elif self.kind == "kind":
            self._kind_up()
        else:
            try:
                where = self.kubectl("config", "current-context").strip()
                self.kubectl("version", deadline=30)
            except Problem as problem:
                raise Problem(
                    f"the cluster of the current kubeconfig context does not answer: {problem}",
                    "See `kubectl cluster-info`, or leave CLUSTER=current away to get a cluster of your own.",
                ) from None
            say(f"using the cluster of context {where}")

    def _kind_up(self) -> None:
        if shutil.which("kind") is None:
            raise Problem("kind is not installed", "Install kind, or leave CLUSTER=kind away.")
        self.state.mkdir(parents=True, exist_ok=True)
        if self.kind_name not in run(["kind", "get", "clusters"], deadline=60).split():
            say(f"creating the kind cluster {self.kind_name}")
            create = ["kind", "create", "cluster", "--name", self.kind_name, "--wait", "3m"]
            run(create, deadline=600, shown=True)
            self._made_by_us.touch()
        config = run(["kind", "get", "kubeconfig", "--name", self.kind_name], deadline=60)
        assert self.kubeconfig is not None
        self.kubeconfig.write_text(config)
        self.kubeconfig.chmod(0o600)

    @property
    def _made_by_us(self) -> Path:
        return self.state / f"kind-{self.kind_name}-made-here"

    def down(self) -> None:
        """Remove what `up` created. Raises Problem."""
        if self.kind == "native":
            say(self.cluster("down", deadline=300).strip())
        elif self.kind == "kind" and self._made_by_us.exists():
            run(["kind", "delete", "cluster", "--name", self.kind_name], deadline=300, shown=True)
            self._made_by_us.unlink()

    def hint(self) -> str:
        """The command after which plain kubectl uses this cluster; '' if it does already."""
        return f"export KUBECONFIG={self.kubeconfig}" if self.kubeconfig else ""
