"""A cache of compiled expressions, bounded by the size of their text.

A number of entries bounds nothing: a program needs up to 150 times the bytes of its text (20 KB of a list
literal: 3.1 MB), and a few manifests of one tenant would fill a cache of thousands.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

_T = TypeVar("_T")

#: Characters of text whose programs are kept: with the largest programs some 40 MB, with common ones 5 MB.
MAX_CHARACTERS = 256 * 1024


class CompiledCache(Generic[_T]):
    """Values by text; those that were not used for longest are dropped first."""

    def __init__(self, limit: int = MAX_CHARACTERS) -> None:
        self.limit = limit
        self.characters = 0
        self._kept: OrderedDict[str, _T] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Keep nothing."""
        self._kept.clear()
        self.characters = 0

    def get(self, text: str) -> _T | None:
        """What is kept for the text, which counts as used."""
        value = self._kept.get(text)
        if value is not None:
            self._kept.move_to_end(text)
        return value

    def put(self, text: str, value: _T) -> _T:
        """Keep a value, and return it. A text beyond the limit is not kept."""
        if text not in self._kept and len(text) <= self.limit:
            self.characters += len(text)
            self._kept[text] = value
            while self.characters > self.limit:
                dropped, _ = self._kept.popitem(last=False)
                self.characters -= len(dropped)
        return value
