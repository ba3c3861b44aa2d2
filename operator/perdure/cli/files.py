"""The files of a command line: single files, all manifests of a folder, or standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

_STDIN: Final = "-"
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})


class Unreadable(Exception):
    """A file that cannot be read as text; the message names it."""


def read_files(names: Sequence[str]) -> list[tuple[str, str]]:
    """The names and texts of the files. Folders are walked, except hidden ones. Raises Unreadable."""
    found: dict[str, str] = {}
    for name in names:
        if name == _STDIN:
            found["stdin"] = _decoded(sys.stdin.buffer.read(), "standard input")
            continue
        path = Path(name)
        files = sorted(_manifests(path)) if path.is_dir() else [path]
        if not files:
            raise Unreadable(f"{name}: there is no *.yaml, *.yml or *.json in this folder")
        for file in files:
            try:
                found[str(file)] = _decoded(file.read_bytes(), str(file))
            except OSError as error:
                raise Unreadable(f"{file}: {error.strerror or error}") from None
    return list(found.items())


def _manifests(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in _SUFFIXES and not hidden and path.is_file():
            yield path


def _decoded(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"{name}: is not UTF-8 at byte {error.start}") from None
    # JSON may be indented by tabs, YAML may not; a JSON string contains none.
    return text.replace("\t", " ") if name.endswith(".json") else text
