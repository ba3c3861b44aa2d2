"""The container's termination message: a result's second way to the operator, without the gateway.

The kubelet keeps up to 4096 bytes of this file with the pod, and the operator reads them from the pod's
status: a result in this file survives even a gateway that never comes back.
"""

from __future__ import annotations

import os
from pathlib import Path

from perdure_agent._environment import DEFAULT_TERMINATION_LOG

#: Bytes that the kubelet keeps.
LIMIT = 4096


def write(path: Path, message: bytes) -> bool:
    """Replace the file's content. False if the file cannot be written, which is no error.

    The kubelet's own file is never created, since on a laptop that would leave files in `/dev`. A path that
    the environment names is created.
    """
    flags = os.O_WRONLY | os.O_TRUNC | (0 if path == DEFAULT_TERMINATION_LOG else os.O_CREAT)
    try:
        descriptor = os.open(path, flags, 0o644)
    except OSError:
        return False
    try:
        # A full disk makes a short write. The cut message must count as not written: half a JSON text would
        # become the task's output, as a text.
        return os.write(descriptor, message) == len(message)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def write_output(path: Path, output: bytes) -> bool:
    """Write a result's JSON if it fits whole: half a JSON text would become the task's output, as a text.

    For an output that does not fit, the message is emptied: an older message would become the output.
    """
    if len(output) > LIMIT:
        write(path, b"")
        return False
    return write(path, output)


def write_failure(path: Path, message: str) -> bool:
    """Write as much of a failure's message as the kubelet keeps."""
    return write(path, message.encode(errors="replace")[:LIMIT].decode(errors="ignore").encode())
