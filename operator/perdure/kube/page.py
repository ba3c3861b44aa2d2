"""Page of a list. In a module of its own, since readers of lists need not import the client."""

from __future__ import annotations

from typing import Any, NamedTuple


class Page(NamedTuple):
    """A part of the objects of one list."""

    items: list[dict[str, Any]]
    #: resourceVersion of the whole list.
    version: str
    #: True for the first page, and for the first page after a restart of the list: earlier pages are void.
    first: bool
