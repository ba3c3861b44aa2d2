"""The JSON that every published figure goes back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from tests.bench.figures import Result

FOLDER = Path(__file__).resolve().parents[2] / ".bench"


def document(results: Sequence[Result], facts: dict[str, Any]) -> dict[str, Any]:
    """Plain JSON of a whole run."""
    return {**facts, "results": [_plain(result) for result in results]}


def path_now() -> Path:
    """A file named after the time."""
    FOLDER.mkdir(exist_ok=True)
    return FOLDER / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"


def write(path: Path, results: Sequence[Result], facts: dict[str, Any]) -> None:
    """Replaces what is there: called after each benchmark, so that one that is stopped loses only itself."""
    path.write_bytes(orjson.dumps(document(results, facts), option=orjson.OPT_INDENT_2))


def read(path: Path) -> dict[str, Any]:
    """Read a file that `write` wrote."""
    found: dict[str, Any] = orjson.loads(path.read_bytes())
    return found


def _plain(result: Result) -> dict[str, Any]:
    figures = [{**asdict(figure), "verdict": figure.verdict} for figure in result.figures]
    return {**asdict(result), "figures": figures}
