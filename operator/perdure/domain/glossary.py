"""Writes the tables of docs/semantics.md: `python -m perdure.domain.glossary [--check]`.

Phases, what may follow each, and reasons, from the enums, their comments and the table that the code obeys.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from perdure.api.codegen.generated import command, replace_block
from perdure.domain.phases import TRANSITIONS, Phase, Reason

FILE: Final = Path("docs/semantics.md")

_MEMBER = re.compile(r'\s*[A-Z_]+ = "(\w+)"')


def meanings(enum: type[StrEnum]) -> list[tuple[str, str, str]]:
    """Section, value and comment of each member, as they stand in the source.

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


def transitions() -> str:
    """The phases, what they mean, and what may follow."""
    lines = ["| phase | meaning | may become |", "|---|---|---|"]
    for _, value, comment in meanings(Phase):
        after = [phase.value for phase in Phase if phase in TRANSITIONS[Phase(value)]]
        lines.append(f"| {value} | {comment} | {', '.join(after) or 'nothing: it is final'} |")
    return "\n".join(lines)


def reasons() -> str:
    """The reasons by section, in the order of the enum."""
    parts: list[str] = []
    before = None
    for section, value, comment in meanings(Reason):
        if section != before:
            parts += ["", f"| {section} | because |", "|---|---|"]
            before = section
        parts.append(f"| {value} | {comment} |")
    return "\n".join(parts)


def updated(page: str) -> str:
    """The page with its tables as they must be. Raises ValueError if it lacks their markers."""
    return replace_block(replace_block(page, "phases", transitions()), "reasons", reasons())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command("perdure.domain.glossary", FILE, updated, arguments)


if __name__ == "__main__":
    sys.exit(main())
