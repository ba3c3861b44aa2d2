"""The state folder of a cluster: its files, its lock, and the process that holds it.

Why: the folder says whether a cluster lives, before anything else is known of that cluster. `cluster.json`
names the holder, process 1 of the cluster; while that process lives, the cluster belongs to its user.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .control import SOCKET
from .errors import ClusterError
from .identity import Process

FACTS = "cluster.json"
KUBECONFIG = "kubeconfig"
# All that a cluster ever writes: taking it down deletes these and nothing else,
# because a state folder may be one that the user had already.
FILES = (KUBECONFIG, FACTS, SOCKET, f"{SOCKET}.new", "scheduler.json", "pki", "etcd", "node", "kwok.json")


def facts(state_dir: Path) -> dict[str, Any] | None:
    """The content of `cluster.json` while the holder lives; else None."""
    try:
        found: dict[str, Any] = json.loads((state_dir / FACTS).read_text())
    except (OSError, ValueError):
        return None
    return found if Process(**found["supervisor"]).alive else None


@contextmanager
def locked(state_dir: Path) -> Iterator[None]:
    """A lock that admits one command at a time per state folder; the folder itself is the lock."""
    deadline = time.monotonic() + 180
    while True:
        state_dir.mkdir(parents=True, exist_ok=True)
        folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The previous holder of the lock may have deleted the folder.
            if os.path.exists(state_dir) and os.path.samestat(os.fstat(folder), os.stat(state_dir)):
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(folder)
                raise ClusterError(
                    f"Another command has worked on {state_dir} for three minutes; see what it does."
                ) from None
            time.sleep(0.1)
        os.close(folder)
    try:
        yield
    finally:
        os.close(folder)


def remove(state_dir: Path, *, keep_logs: bool) -> list[str]:
    """Deletes the files of a dead cluster; returns what could not be deleted."""
    for name in FILES if keep_logs else (*FILES, "logs"):
        target = state_dir / name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target, ignore_errors=True)
        else:
            target.unlink(missing_ok=True)
    return [str(state_dir / name) for name in FILES if (state_dir / name).exists()]
