"""Sees to the few programs of the node that come from the distribution.

Why: the container runtime and the firewall tools fit the machine they run on,
so they are taken from it; Kubernetes itself is built (see programs.py).
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .errors import ClusterError

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CNI_FOLDERS = ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")

_PROGRAMS = {
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "iptables-restore": "iptables",
    "ip": "iproute2",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "mount": "mount",
}
_CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")


def ensure() -> None:
    """Installs missing packages, or raises with the list of them."""
    if os.geteuid() != 0:
        raise ClusterError(
            "A node needs root (namespaces, mounts, control groups): run this with sudo. "
            "`up --mode light` boots an API server without a node as any user."
        )
    missing = _missing()
    if not missing:
        return
    wanted = sorted(set(missing.values()))
    if not shutil.which("apt-get"):
        raise ClusterError(
            f"These programs are missing: {', '.join(missing)}. Install them, then run this again."
        )
    print(f"Installing {', '.join(wanted)} …", file=sys.stderr, flush=True)
    _apt("update")
    _apt("install", "--yes", "--no-install-recommends", *wanted)
    if missing := _missing():
        raise ClusterError(f"Still missing after `apt-get install {' '.join(wanted)}`: {', '.join(missing)}.")


def cni_folder() -> str | None:
    """Where the network plugins are."""
    for folder in CNI_FOLDERS:
        if all(Path(folder, plugin).exists() for plugin in _CNI_PLUGINS):
            return folder
    return None


def _missing() -> dict[str, str]:
    missing = {
        program: package for program, package in _PROGRAMS.items() if not shutil.which(program, path=SEARCH)
    }
    if cni_folder() is None:
        missing["CNI plugins"] = "containernetworking-plugins"
    return missing


def _apt(*arguments: str) -> None:
    command = ["apt-get", "--quiet", *arguments]
    done = subprocess.run(
        command,
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode != 0:
        raise ClusterError(
            f"`{' '.join(command)}` failed; run it by hand and see why:\n{done.stderr[-2000:]}"
        )
