"""What the pages say that a machine can check: their links and their manifests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.manifests import parse_workflow

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted(ROOT.glob("*.md")),
    ROOT / "examples/language/README.md",
]
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)")
_BLOCK = re.compile(r"^```yaml\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _anchors(page: Path) -> set[str]:
    lines = (line for line in page.read_text().splitlines() if line.startswith("#"))
    words = (re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()) for line in lines)
    return {f"#{text.replace(' ', '-')}" for text in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for path, anchor in _LINK.findall(page.read_text()):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not anchor or anchor in _anchors(target), anchor


def _workflows() -> list[tuple[str, dict[str, Any]]]:
    """Manifests of ours, or their specs alone, in the pages."""
    found = []
    for page in PAGES:
        for text in _BLOCK.findall(page.read_text()):
            if not text.startswith(("# Argo", "# Tekton")):
                for manifest in yaml.safe_load_all(text):
                    if {"spec"} <= manifest.keys() and manifest.get("kind", "Workflow") == "Workflow":
                        found.append((page.name, manifest))
    return found


def test_pages_have_manifests() -> None:
    assert {"README.md", "coming-from-argo.md", "coming-from-tekton.md"} <= {page for page, _ in _workflows()}


@pytest.mark.parametrize(("page", "manifest"), _workflows())
def test_manifests_of_pages_are_valid(page: str, manifest: dict[str, Any]) -> None:
    assert parse_workflow(manifest).steps
