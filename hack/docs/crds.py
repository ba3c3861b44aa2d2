"""Writes the CustomResourceDefinitions: `python -m hack.docs.crds [--check] [--output FOLDER]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from perdure.api.codegen.crds import FOLDERS, files, stale, write
from perdure.steps.schema import RESOURCES


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m hack.docs.crds", description="Generates the CRDs.")
    parser.add_argument(
        "--output",
        type=Path,
        action="append",
        help=f"folder of the files; may be repeated ({' and '.join(map(str, FOLDERS))})",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a file is stale")
    options = parser.parse_args(arguments)
    wanted = files(RESOURCES)
    failed = False
    for folder in options.output or FOLDERS:
        if not options.check:
            write(folder, wanted)
        elif names := stale(folder, wanted):
            failed = True
            print(f"stale in {folder}: {', '.join(names)}; run `make crds`", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
