"""Limits that the language of expressions shares with the models of manifests.

In a module without imports: an evaluation child starts in a fraction of the time without the models.
"""

from __future__ import annotations

from typing import Final

#: Characters of one expression.
MAX_EXPRESSION: Final = 8192
#: Tasks of one step: the items of a `forEach`, and so every field that counts them.
MAX_COUNT: Final = 10_000
#: Levels of lists and maps in a spec. Deeper ones exhaust the stack of one parser or another.
MAX_DEPTH: Final = 100
