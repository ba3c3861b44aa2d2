"""Limits that the language of expressions shares with the models of manifests.

In a module without imports: an evaluation child starts in a fraction of the time without the models.
"""

from __future__ import annotations

from typing import Final

#: Characters of one expression.
MAX_EXPRESSION: Final = 8192
#: Characters of all strings of a manifest that have expressions in them. Compilation takes 11 µs of the event
#: loop for each character, and a program 150 times the memory of its text.
MAX_EXPRESSION_TEXT: Final = 128 * 1024
#: Tasks of one step: the items of a `forEach`, and so every field that counts them.
MAX_COUNT: Final = 10_000
#: Levels of lists and maps in a spec. Deeper ones exhaust the stack of one parser or another.
MAX_DEPTH: Final = 100
