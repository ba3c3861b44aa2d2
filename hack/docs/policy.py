"""Writes the generated lines of the chart's admission policy: `python -m hack.docs.policy [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from perdure.api.codegen.generated import command
from perdure.api.codegen.policy import updated
from perdure.steps import KINDS

FILE: Final = Path("charts/perdure/files/validating-admission-policy.yaml")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command("hack.docs.policy", FILE, lambda before: updated(before, KINDS), arguments)


if __name__ == "__main__":
    sys.exit(main())
