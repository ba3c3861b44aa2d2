"""The agents' journal, read from the node's disk: it needs no API server, and survives every fault."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.installation import DEADLINE
from tests.cluster.waiting import until

Line = dict[str, Any]


@dataclass(frozen=True)
class Journal:
    """The journal of one run; `folder` is mounted into all its pods."""

    folder: Path

    @staticmethod
    def make(folder: Path) -> Journal:
        """A folder that any user may write to; those above it stay closed, for a mount does not need them."""
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        (folder / "lines").touch()
        (folder / "lines").chmod(0o666)
        return Journal(folder)

    def lines(self, what: str | None = None) -> list[Line]:
        """All lines, or those of one sort, as they came."""
        text = (self.folder / "lines").read_text()
        # A line that is being written has no end yet.
        found = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in found if what in (None, line["what"])]

    def until(self, what: str, count: int, *, item: int | None = None) -> list[Line]:
        """Wait for so many lines of a sort, of one item or all."""

        def there() -> list[Line] | None:
            found = [line for line in self.lines(what) if item in (None, line["item"])]
            return found if len(found) >= count else None

        return until(there, seconds=DEADLINE, what=f"{count} lines `{what}` in the journal") or []

    def open(self, item: int) -> None:
        """Let an agent go on that holds."""
        (self.folder / f"open-{item}").touch()

    def repeated(self) -> list[Line]:
        """Sub-steps that were run although their checkpoint had been acknowledged: there must be none."""
        done: set[tuple[int, int]] = set()
        wrong = []
        for line in self.lines():
            if line["what"] == "ran" and (line["item"], line["number"]) in done:
                wrong.append(line)
            elif line["what"] == "done":
                done.add((line["item"], line["number"]))
        return wrong
