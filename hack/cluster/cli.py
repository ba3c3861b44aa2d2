"""The command line: `python3 hack/cluster <command>`.

Why: people, the Makefile and CI boot and inspect clusters with it; whatever it
does is done by the other modules, which the tests use directly.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import containers, programs, state_folder
from .boot import start
from .cluster import Cluster, stop
from .errors import ClusterError


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options) or 0)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except subprocess.SubprocessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of the output has closed it; the interpreter must not
        # complain about it again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 hack/cluster", description="A real Kubernetes for demo and tests."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    default = Path(__file__).resolve().parents[2] / ".cluster"

    def command(name: str, run: object, text: str, *, stateful: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        if stateful:
            added.add_argument(
                "--state-dir", type=Path, default=default, help="the cluster (default: .cluster)"
            )
        return added

    build = command("build", _build, "build what a mode needs (default: everything)", stateful=False)
    build.add_argument("--only", choices=[name for name in programs.SETS if name != "all"])
    up = command("up", _up, "boot a cluster; does nothing when it runs already")
    up.add_argument("--mode", choices=["full", "light", "kwok"], default="full")
    up.add_argument("--nodes", type=int, default=10, help="simulated nodes (mode kwok)")
    up.add_argument("--port", type=int, help="of the API server (modes light and kwok; default: a free one)")
    down = command("down", _down, "take the cluster down; leaves nothing behind")
    down.add_argument("--keep-logs", action="store_true")
    command("status", _status, "show what runs; exit code 1 when not all of it does")
    path = command("path", _path, "print where a program is (builds it if need be)", stateful=False)
    path.add_argument("tool", choices=list(programs.PROGRAMS))
    images = command("import-image", _import, "load docker or OCI archives into the node")
    images.add_argument("files", nargs="+", type=Path, metavar="FILE")
    ctr = command("ctr", _ctr, "run containerd's client on the node")
    ctr.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")
    execute = command("exec-host", _execute, "run a command in the node's namespaces")
    execute.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGS")
    container = command("kill-container", _kill_container, "send a signal to a container's main process")
    container.add_argument("--namespace", "-n", default="default")
    container.add_argument("--pod", required=True)
    container.add_argument("--container", "-c", help="needed when the pod has several")
    container.add_argument("--signal", "-s", type=_signal, default=signal.SIGKILL)
    kill = command("kill", _kill, "kill -9 a component; it stays dead until `restart` or `up`")
    kill.add_argument(
        "--signal", "-s", type=_signal, default=signal.SIGKILL, help="STOP and CONT freeze and thaw"
    )
    restart = command("restart", _restart, "kill -9 a component and start it again")
    for added in (kill, restart):
        added.add_argument("component", help="etcd, kube-apiserver, kubelet, …")
    return parser


def _build(options: argparse.Namespace) -> None:
    programs.build(programs.SETS[options.only or "all"])
    print(f"all programs are in {programs.cache() / 'bin'}")


def _up(options: argparse.Namespace) -> None:
    before = Cluster.load(options.state_dir)
    started = time.monotonic()
    cluster = start(options.mode, options.state_dir, attached=False, port=options.port, nodes=options.nodes)
    if before and before.init == cluster.init:
        print(f"already up: {cluster.mode} cluster at {cluster.server}")
    else:
        print(f"up in {time.monotonic() - started:.1f} s: {cluster.mode} cluster at {cluster.server}")
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def _down(options: argparse.Namespace) -> int:
    started = time.monotonic()
    existed = (options.state_dir / state_folder.FACTS).exists()
    if remains := stop(options.state_dir, keep_logs=options.keep_logs):
        print(f"error: these are left: {'; '.join(remains)}", file=sys.stderr)
        return 1
    print(f"down in {time.monotonic() - started:.1f} s, nothing left" if existed else "no cluster was there")
    return 0


def _status(options: argparse.Namespace) -> int:
    cluster = Cluster.load(options.state_dir)
    if cluster is None:
        print(f"no cluster runs in {options.state_dir}")
        return 1
    ready = cluster.api().ready()
    print(f"{cluster.mode} cluster at {cluster.server}: API server {'ready' if ready else 'NOT ready'}")
    for name, state in cluster.supervisor.components().items():
        what = "runs" if state["pid"] else f"ended with {state['exit']}, see {cluster.log(name)}"
        print(f"  {name}: {what}")
    return 0 if cluster.healthy() else 1


def _path(options: argparse.Namespace) -> None:
    print(programs.path(options.tool))


def _import(options: argparse.Namespace) -> None:
    cluster = _node(options)
    for file in options.files:
        for name in containers.import_image(cluster, file):
            print(name)


def _ctr(options: argparse.Namespace) -> int:
    return _replace_by(containers.ctr(_node(options), *options.arguments))


def _execute(options: argparse.Namespace) -> int:
    if not options.arguments:
        raise ClusterError("Which command? For example: python3 hack/cluster exec-host iptables-save")
    command = options.arguments[1:] if options.arguments[0] == "--" else options.arguments
    return _replace_by(containers.enter(_node(options), *command))


def _replace_by(argv: list[str]) -> int:
    sys.stdout.flush()
    os.execvp(argv[0], argv)


def _kill_container(options: argparse.Namespace) -> None:
    pid = containers.kill(_node(options), options.namespace, options.pod, options.container, options.signal)
    print(json.dumps({"pod": options.pod, "pid": pid, "signal": options.signal.name}))


def _signal(text: str) -> signal.Signals:
    name = text.upper()
    try:
        return (
            signal.Signals(int(text)) if text.isdigit() else signal.Signals[f"SIG{name.removeprefix('SIG')}"]
        )
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"there is no signal {text}") from None


def _kill(options: argparse.Namespace) -> None:
    _any(options).kill(options.component, options.signal)


def _restart(options: argparse.Namespace) -> None:
    _any(options).restart(options.component)


def _any(options: argparse.Namespace) -> Cluster:
    cluster = Cluster.load(options.state_dir)
    if cluster is None:
        raise ClusterError(
            f"No cluster runs in {options.state_dir}: boot one with `python3 hack/cluster up`."
        )
    return cluster


def _node(options: argparse.Namespace) -> Cluster:
    cluster = _any(options)
    if cluster.mode != "full":
        raise ClusterError(f"That needs a node with containers; this cluster has mode {cluster.mode}.")
    return cluster
