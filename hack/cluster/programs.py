"""Builds the programs of the cluster from their Go modules, once.

Why: a Go module proxy is the one source of Kubernetes binaries that every
machine with Go can reach. The result is kept outside the checkout under the
hash of what it is built from, so that all checkouts of one machine share it and
a changed version never meets an old binary.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import ClusterError, tail

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Program:
    name: str
    module: str  # the folder whose go.mod builds it
    package: str


# In the order of first need: the light mode can boot after three of them.
PROGRAMS = {
    program.name: program
    for program in (
        Program("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
        Program("kube-apiserver", "tools", "k8s.io/kubernetes/cmd/kube-apiserver"),
        Program("kube-controller-manager", "tools", "k8s.io/kubernetes/cmd/kube-controller-manager"),
        Program("kubectl", "tools", "k8s.io/kubernetes/cmd/kubectl"),
        Program("kube-scheduler", "tools", "k8s.io/kubernetes/cmd/kube-scheduler"),
        Program("kubelet", "tools", "k8s.io/kubernetes/cmd/kubelet"),
        Program("kube-proxy", "tools", "k8s.io/kubernetes/cmd/kube-proxy"),
        Program("coredns", "tools", "./coredns"),
        Program("pause", "tools", "./pause"),
        Program("helm", "tools", "helm.sh/helm/v4/cmd/helm"),
        Program("kwok", "tools", "sigs.k8s.io/kwok/cmd/kwok"),
    )
}

_LIGHT = ["etcd", "kube-apiserver", "kube-controller-manager"]
SETS = {
    "light": _LIGHT,
    "kwok": [*_LIGHT, "kube-scheduler", "kwok", "kubectl"],
    "full": [*_LIGHT, "kubectl", "kube-scheduler", "kubelet", "kube-proxy", "coredns", "pause", "helm"],
    "helm": ["helm"],
    "all": list(PROGRAMS),
}


def cache() -> Path:
    """The folder of the binaries that belong to this checkout's sources."""
    digest = hashlib.sha256()
    for source in sorted([*HERE.glob("etcd/go.*"), *HERE.glob("tools/go.*"), *HERE.glob("tools/*/main.go")]):
        digest.update(str(source.relative_to(HERE)).encode() + b"\0")
        digest.update(source.read_bytes() + b"\0")
    digest.update(" ".join(_link_flags()).encode())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "perdure" / f"tools-{digest.hexdigest()[:16]}"


def path(name: str) -> Path:
    """Where the binary of a program is; builds it if it is missing."""
    if name not in PROGRAMS:
        raise ClusterError(f"There is no program {name!r}; choose one of: {', '.join(PROGRAMS)}")
    build([name])
    return cache() / "bin" / name


def build(names: list[str]) -> None:
    """Builds the missing programs; returns at once when none is missing."""
    if not _missing(names):
        return
    folder = cache()
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    with _lock(folder):
        missing = _missing(names)  # another builder may have made them meanwhile
        for number, program in enumerate(missing, 1):
            if number == 1 and (hint := _cold_hint(missing)):
                _say(hint)
            _build(program, folder, f"[{number}/{len(missing)}]")


def _missing(names: list[str]) -> list[Program]:
    folder = cache() / "bin"
    return [
        program
        for program in PROGRAMS.values()
        if program.name in names and not (folder / program.name).exists()
    ]


def _build(program: Program, folder: Path, count: str) -> None:
    log = folder / f"build-{program.name}.log"
    # A compiler may outlive a builder that was killed, and must not write into
    # the file of the next one.
    for stale in (folder / "bin").glob(f".{program.name}.*"):
        stale.unlink()
    unfinished = folder / "bin" / f".{program.name}.{os.getpid()}"
    command = [_go(), "build", "-buildvcs=false", "-ldflags", " ".join(_link_flags())]
    command += ["-o", str(unfinished), program.package]
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=HERE / program.module,
            # A workspace or flags of the caller would change the binaries.
            env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            _show_progress(process, f"{count} {program.name}", log, started)
        except BaseException:
            process.kill()
            process.wait()
            raise
    if process.returncode != 0:
        raise ClusterError(
            f"Building {program.name} failed. The sources come from the Go module proxy (`go env GOPROXY`): "
            "see that it can be reached, then run the same command again; what is built is kept.\n"
            f"{tail(log)}"
        )
    unfinished.rename(folder / "bin" / program.name)
    log.unlink()
    _say(f"{count} {program.name}: built in {time.monotonic() - started:.0f} s")


def _show_progress(process: subprocess.Popen[bytes], label: str, log: Path, started: float) -> None:
    interactive = sys.stderr.isatty()
    interval = 1.0 if interactive else 20.0
    while True:
        try:
            process.wait(interval)
            break
        except subprocess.TimeoutExpired:
            downloads = log.read_bytes().count(b"go: downloading")
            detail = f", {downloads} modules downloaded" if downloads else ""
            line = f"{label}: compiling, {time.monotonic() - started:.0f} s{detail}"
            if interactive:
                print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)
            else:
                _say(line)
    if interactive:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another process builds the same programs; waiting for it.")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _cold_hint(missing: list[Program]) -> str:
    if any(program.name == "kube-apiserver" for program in missing):
        return f"Building the cluster's programs into {cache()}: about 10 minutes on two cores, once."
    return ""


def _go() -> str:
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin:/usr/lib/go/bin")
    if not found:
        raise ClusterError(
            "The cluster's programs are built from source: install Go 1.26 or newer, and put it in PATH."
        )
    return found


def _version(module: str) -> str:
    text = (HERE / "tools" / "go.mod").read_text()
    found = re.search(rf"^\s*(?:require )?{re.escape(module)} (v\S+)", text, re.MULTILINE)
    if not found:
        raise ClusterError(f"hack/cluster/tools/go.mod does not require {module}.")
    return found[1]


def _link_flags() -> list[str]:
    # A server without these calls itself v0.0.0-master, and kubectl and Helm
    # then believe that it is too old to talk to.
    kubernetes = _version("k8s.io/kubernetes")
    major, minor, _ = kubernetes.removeprefix("v").split(".", 2)
    component = "k8s.io/component-base/version"
    variables = {
        f"{component}.gitVersion": kubernetes,
        f"{component}.gitMajor": major,
        f"{component}.gitMinor": minor,
        "helm.sh/helm/v4/internal/version.version": _version("helm.sh/helm/v4"),
        "sigs.k8s.io/kwok/pkg/consts.Version": _version("sigs.k8s.io/kwok"),
    }
    return ["-s", "-w", *(f"-X {name}={value}" for name, value in variables.items())]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
