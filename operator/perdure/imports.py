"""Keeping parts of libraries that we never use out of the process.

An operator that was killed must act again within two seconds, and what it imports is most of that time. Two
libraries import, unasked, more than all the rest together; here they are told that it is not there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def absent(name: str) -> Iterator[None]:
    """Within the block, `import name` raises ImportError; unless it is loaded already, when it stays."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # the import system's own way to say so
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def hollow(name: str) -> Iterator[None]:
    """Within the block, `import name` gives an empty module; unless it is loaded already, when it stays."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = ModuleType(name)
    try:
        yield
    finally:
        del sys.modules[name]
