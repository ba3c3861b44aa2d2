"""The recipes of CONTRIBUTING.md name files; every one of them exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "CONTRIBUTING.md"
_QUOTED = re.compile(r"`([\w./-]+/[\w./-]*|[\w-]+\.(?:py|sql))`")


def test_every_path_of_the_page_exists() -> None:
    named = {path for path in _QUOTED.findall(PAGE.read_text()) if not path.startswith(".venv")}
    assert len(named) > 25
    product = ROOT / "operator" / "perdure"
    bases = (ROOT, product, product / "ledger", product / "steps" / "agent")
    assert sorted(path for path in named if not any((base / path).exists() for base in bases)) == []
