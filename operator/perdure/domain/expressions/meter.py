"""The evaluator's own budget: elements that macros go through, and characters that functions make.

The CEL library has none. The functions that are written in Python, and those that macros call (`macros`),
count their work here, so that most of what would take for ever ends early and the same everywhere. What the
library computes by itself is not counted: that is what an evaluation child is killed for.
"""

from __future__ import annotations

#: Elements of lists and maps that the macros and list functions of one evaluation go through, each time they
#: do: about half a second of work.
MAX_ELEMENTS = 1_000_000
#: Characters of text that functions make in one evaluation.
MAX_CHARACTERS = 16 * 1024 * 1024
#: Elements that count as much as one character does.
_ELEMENTS_PER_CHARACTER = MAX_ELEMENTS / MAX_CHARACTERS

TOO_MUCH_WORK = "too much work; let an agent compute it, or divide it between steps"


class TooMuchWork(ValueError):
    """The budget of an evaluation is used up."""


class Meter:
    """The work of the evaluation that is under way. A thread evaluates one expression at a time."""

    def __init__(self) -> None:
        self._left: float = MAX_ELEMENTS

    @property
    def exceeded(self) -> bool:
        return self._left < 0

    def reset(self) -> None:
        """Begin an evaluation."""
        self._left = MAX_ELEMENTS

    def spend(self, elements: int, characters: int = 0) -> None:
        """Count work before it is done. Raises TooMuchWork."""
        self._left -= elements + characters * _ELEMENTS_PER_CHARACTER
        if self._left < 0:
            raise TooMuchWork(TOO_MUCH_WORK)


METER = Meter()
