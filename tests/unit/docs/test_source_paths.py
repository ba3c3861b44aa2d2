"""Docstrings and comments name files; every one of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
#: Not `tests`, where paths are also data.
_FOLDERS = ("operator/perdure", "sdk/perdure_agent", "hack", "examples")
#: Paths in backquotes or parentheses, as prose names them; code has paths in quotes.
_NAMED = re.compile(r"(?<!\])[`(]((?:[\w-]+/)*[\w-]+\.(?:py|md))[`)]")


def missing(text: str, file: Path) -> list[str]:
    """The paths in a text of `file` that exist neither at a root, nor next to the file or below."""
    bases = (ROOT, ROOT / "operator" / "perdure", *file.relative_to(ROOT).parents)
    return [
        path
        for path in _NAMED.findall(text)
        if not any((ROOT / base / path).exists() for base in bases)
        and not any(file.parent.glob(f"**/{path}"))
    ]


@pytest.mark.parametrize("folder", _FOLDERS)
def test_every_path_in_prose_exists(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): missing(file.read_text(), file) for file in files}
    assert {file: paths for file, paths in found.items() if paths} == {}


def test_a_path_that_was_moved_is_found() -> None:
    file = ROOT / "operator" / "perdure" / "domain" / "engine" / "decide.py"
    assert missing("see `control/actor.py` and `control/loop.py` and (`steps.py`)", file) == [
        "control/actor.py"
    ]
