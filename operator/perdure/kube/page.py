"""A page of a list, apart from the client so that those who read lists do not load it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Page(NamedTuple):
    """Some of the objects of one list."""

    items: list[dict[str, Any]]
    #: resourceVersion of the whole list.
    version: str
    #: True if the list begins here, or begins anew: what came before it no longer counts.
    first: bool
