"""The example's own modules, as its agents import them."""

from __future__ import annotations

import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "code-audit"
sys.path.insert(0, str(EXAMPLE))
