"""Writes docs/reference.md: `python -m hack.docs.reference [--check]`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from perdure.api.codegen.generated import command
from perdure.api.codegen.reference import reference
from perdure.steps.schema import RESOURCES

FILE: Final = Path("docs/reference.md")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command("hack.docs.reference", FILE, lambda before: reference(RESOURCES), arguments)


if __name__ == "__main__":
    sys.exit(main())
