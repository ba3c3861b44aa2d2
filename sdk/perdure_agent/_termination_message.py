"""The termination message: a result's second way out, for when the gateway is away.

The kubelet keeps up to 4096 bytes of this file with the pod. The operator reads it from the pod's status, so
a result that is written here is not lost even if the gateway never comes back.
"""

from __future__ import annotations

import os
from pathlib import Path

from perdure_agent._environment import DEFAULT_TERMINATION_LOG

#: What the kubelet keeps.
LIMIT = 4096


def write(path: Path, message: bytes) -> bool:
    """Replace the file's content. False if there is no such file to write to, which is no error.

    The kubelet's own file is never created: on a machine without one, `/dev` would be littered. A path that
    was chosen on purpose is created.
    """
    flags = os.O_WRONLY | os.O_TRUNC | (0 if path == DEFAULT_TERMINATION_LOG else os.O_CREAT)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError:
        return False
    try:
        # A short write is possible only on a full disk: then the message is cut, and says so by being
        # reported as not written.
        return os.write(descriptor, message) == len(message)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def write_output(path: Path, output: bytes) -> bool:
    """Write a result's JSON if it fits whole; half a JSON text would be taken for a text of its own.

    An output that does not fit leaves an empty message, so that nothing older is taken for it.
    """
    if len(output) > LIMIT:
        write(path, b"")
        return False
    return write(path, output)


def write_failure(path: Path, message: str) -> bool:
    """Write as much of a failure's message as the kubelet keeps."""
    return write(path, message.encode(errors="replace")[:LIMIT].decode(errors="ignore").encode())
