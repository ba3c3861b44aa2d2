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
from perdure.domain.phases import RUN, STEP, TASK, Phase, Reason, Transitions, Trigger, successors

FILE: Final = Path("docs/semantics.md")

TABLES: Final = {"run": RUN, "step": STEP, "task": TASK}


def phases() -> str:
    """The phases, what they mean, and what a run, a step and a task in each may become."""
    columns = " | ".join(f"a {name} may become" for name in TABLES)
    lines = [f"| phase | meaning | {columns} |", "|---|---|" + "---|" * len(TABLES)]
    for _, value, comment in meanings(Phase):
        cells = " | ".join(_successors(table, Phase(value)) for table in TABLES.values())
        lines.append(f"| {value} | {comment} | {cells} |")
    return "\n".join(lines)


def _successors(table: Transitions, phase: Phase) -> str:
    if phase is not Phase.PENDING and phase not in table.values():
        return "–"
    after = [other.value for other in Phase if other in successors(table, phase)]
    return ", ".join(after) or "nothing: it is final"


def triggers() -> str:
    """The triggers, and a diagram of each table."""
    lines = ["| trigger | means |", "|---|---|"]
    lines += [f"| {value} | {comment} |" for _, value, comment in meanings(Trigger)]
    for name, table in TABLES.items():
        lines += ["", f"A {name}:", "", "```mermaid", "stateDiagram-v2", "  [*] --> Pending"]
        lines += [f"  {before} --> {after}: {trigger}" for (before, trigger), after in table.items()]
        lines.append("```")
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
    for name, content in (("phases", phases()), ("triggers", triggers()), ("reasons", reasons())):
        page = replace_block(page, name, content)
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command("hack.docs.semantics", FILE, updated, arguments)


if __name__ == "__main__":
    sys.exit(main())
