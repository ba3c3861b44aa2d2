"""Keeping parts of libraries that we never use out of the process.

An operator that was killed must act again within two seconds, and what it imports is most of that time. Some
libraries import and read, unasked, more than all the rest together; here they are told that it is not there.
"""

from __future__ import annotations

import os
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


@contextmanager
def without_authorities() -> Iterator[None]:
    """Within the block, the certificate authorities that this machine trusts are not found.

    For the import of aiohttp, which reads all of them, twice, for contexts that nobody uses here: every
    connection of ours brings its own.
    """
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    kept = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
