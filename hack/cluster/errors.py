"""The one exception of this package.

Why: whatever goes wrong here is read by a person who wants a cluster, not a
stack trace, so every failure carries what to do about it.
"""

from pathlib import Path


class ClusterError(Exception):
    """Something a person can act on; its text says how."""


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log file, with its path, for the text of an error."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            end = file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join([f"--- end of {log}", *(f"    {line[:400]}" for line in end)])
