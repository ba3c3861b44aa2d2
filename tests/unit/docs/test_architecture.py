"""The page of the architecture names files; every one of them exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "architecture.md"
RENAMED = ROOT / "docs" / "renamed-modules.md"
_FILE = re.compile(r"[\w./-]*\w\.(?:py|sql|toml|yaml)\b")


def _exists(path: str) -> bool:
    return any((base / path).exists() for base in (ROOT, ROOT / "operator" / "perdure"))


def test_every_file_that_the_page_names_exists() -> None:
    text = PAGE.read_text()
    named = {path for path in _FILE.findall(text) if "/" in path}
    assert len(named) > 25
    assert {path for path in named if not _exists(path)} == set()


def test_every_fact_names_its_file() -> None:
    text = PAGE.read_text()
    table = text.partition("## Where six things happen")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ") and "what happens" not in row]
    assert len(rows) == 6
    assert [row for row in rows if not all(map(_exists, _FILE.findall(row))) or not _FILE.findall(row)] == []


def test_renamed_modules_exist_under_their_new_names_only() -> None:
    rows = [row.strip("| ").split(" | ") for row in RENAMED.read_text().splitlines() if row.startswith("| `")]
    assert len(rows) > 50
    assert [new for _, new in rows if not all(map(_exists, _FILE.findall(new)))] == []
    assert [old for old, new in rows if old != new and _exists(old.strip("`"))] == []
