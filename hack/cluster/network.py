"""The one wire between the machine and a cluster, and the bridge inside.

Why: the cluster has a network namespace of its own, so only this pair of
interfaces has to be unique on the machine. It needs no firewall rule and no
route but its own subnet, and it vanishes with the namespace.
"""

import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from .control_plane import SERVICE_CIDR
from .errors import ClusterError
from .identity import Process
from .packages import SEARCH

BRIDGE = "pods0"
BRIDGE_ADDRESS = "10.244.0.1"  # the pods' gateway and name server
_PREFIX = "perdure"


@dataclass(frozen=True)
class Wire:
    interface: str  # on the machine
    host: str  # the machine, as pods and the node reach it
    node: str  # the node, as the machine reaches it


def connect(init: Process) -> Wire:
    """Lays the wire to the namespace of `init`, and configures the network inside."""
    used = _run(["ip", "-4", "route", "show", "table", "all"])
    for number in range(1, 255):
        wire = Wire(f"{_PREFIX}{number}", f"10.88.{number}.1", f"10.88.{number}.2")
        if f"10.88.{number}." in used:
            continue
        made = subprocess.run(
            [
                "ip",
                "link",
                "add",
                wire.interface,
                "type",
                "veth",
                "peer",
                "name",
                "eth0",
                "netns",
                str(init.pid),
            ],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if made.returncode == 0:
            _set_up(init, wire)
            return wire
        if "File exists" not in made.stderr:  # another cluster was faster
            raise ClusterError(f"`ip link add {wire.interface} type veth` failed: {made.stderr.strip()}")
    raise ClusterError(
        "All subnets 10.88.1.0 … 10.88.254.0 are in use on this machine; none is left for the cluster."
    )


def index(interface: str) -> int | None:
    """The number of an interface, which is never used again, unlike its name."""
    try:
        return int(Path("/sys/class/net", interface, "ifindex").read_text())
    except OSError:
        return None


def disconnected(facts: Path) -> list[str]:
    """Waits until the kernel has removed a dead cluster's wire; returns leftovers."""
    try:
        interface, number = json.loads(facts.read_text())["interface"]
    except (OSError, ValueError, KeyError):
        return []  # the cluster never had a wire
    deadline = time.monotonic() + 5
    while index(interface) == number:
        if time.monotonic() > deadline:
            return [f"interface {interface}"]
        time.sleep(0.01)
    return []


def _set_up(init: Process, wire: Wire) -> None:
    _run(
        ["ip", "-batch", "-"],
        f"address add {wire.host}/30 dev {wire.interface}\nlink set {wire.interface} up\n",
    )
    inside = [
        "link set lo up",
        f"address add {wire.node}/30 dev eth0",
        "link set eth0 up",
        f"link add {BRIDGE} type bridge",
        f"address add {BRIDGE_ADDRESS}/16 dev {BRIDGE}",
        f"link set {BRIDGE} up",
        # A packet is routed before its destination is rewritten, so the node's
        # own processes need some route to the Services. There is no default
        # route: what is not of the cluster or the machine fails at once.
        f"route add {SERVICE_CIDR} dev {BRIDGE} src {wire.node}",
    ]
    enter = ["nsenter", f"--target={init.pid}", "--net", "--pid", "--mount", "--"]
    _run([*enter, "ip", "-batch", "-"], "\n".join(inside) + "\n")
    # Pods on one bridge reach each other's Services only if bridged packets
    # pass the firewall; where that is a module, it may have to be loaded.
    if modprobe := shutil.which("modprobe", path=SEARCH):
        subprocess.run([modprobe, "br_netfilter"], capture_output=True, check=False)
    script = (
        "echo 1 >/proc/sys/net/ipv4/ip_forward;"
        "for f in /proc/sys/net/bridge/bridge-nf-call-iptables; do test ! -e $f || echo 1 >$f; done"
    )
    _run([*enter, "sh", "-c", script])


def _run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
