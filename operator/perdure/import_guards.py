"""Guards that keep unused parts of libraries out of the process.

An operator that was killed must act again within two seconds, and imports take most of that time. Some
libraries import and read more than all other modules together; under a guard that part seems not installed.
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

    For the import of aiohttp, which reads all of them, twice, for SSL contexts that are not used here: every
    connection has a context of its own.
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
