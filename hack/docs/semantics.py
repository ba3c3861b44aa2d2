"""The generator of the tables in docs/semantics.md: `python -m hack.docs.semantics [--check]`.

Phases, their transitions and reasons come from the enums, their comments and the tables that the code obeys.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hack.docs.enums import meanings

from perdure.api.codegen.generated import command, replace_block
from perdure.domain.phases import TRANSITIONS, Phase, Reason

FILE: Final = Path("docs/semantics.md")


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
    return command("hack.docs.semantics", FILE, updated, arguments)


if __name__ == "__main__":
    sys.exit(main())
