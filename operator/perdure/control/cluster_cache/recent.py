"""Bounded memory of recent items: a dict in the order of insertion, from which the oldest item is evicted."""

from __future__ import annotations


def remember(known: dict[str, None], item: str, *, most: int) -> None:
    """Add an item, and evict the oldest beyond `most`."""
    known[item] = None
    if len(known) > most:
        del known[next(iter(known))]
