"""The meaning of an enum's members, from the comments that stand above them in the source."""

from __future__ import annotations

import inspect
import re
from enum import StrEnum

_MEMBER = re.compile(r'\s*[A-Z_]+ = "([\w.]+)"')


def meanings(enum: type[StrEnum]) -> list[tuple[str, str, str]]:
    """Section, value and comment of each member, in the order of the source.

    A section begins with a comment `# --- its name`. Raises ValueError for a member without a comment.
    """
    found = []
    section, comment = "", ""
    for line in inspect.getsource(enum).splitlines():
        text = line.strip()
        if text.startswith("#:"):
            comment += " " + text.removeprefix("#:").strip()
        elif text.startswith("# ---"):
            section = text.removeprefix("# ---").strip()
        elif match := _MEMBER.match(line):
            if not comment:
                raise ValueError(f"{enum.__name__} {match[1]} has no comment: say what it means")
            found.append((section, match[1], comment.strip()))
            comment = ""
    return found
