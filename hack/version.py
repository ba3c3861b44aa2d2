"""The version of Perdure: one number for the operator, the SDK and the chart, set by one command.

The number is kept in `operator/perdure/__init__.py`; other files need it in a form of their own, and agree.

    python hack/version.py            checks that all files agree (part of `make lint`)
    python hack/version.py 0.2.0      writes the version into all of them
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

#: Each file, with a pattern whose second group is the version; the first file is the source of the number.
PLACES: Final = (
    ("operator/perdure/__init__.py", r'(?m)(^__version__ = ")([^"]+)(")'),
    ("pyproject.toml", r'(?m)(^name = "perdure"\nversion = ")([^"]+)(")'),
    ("sdk/pyproject.toml", r'(?m)(^name = "perdure-agent"\nversion = ")([^"]+)(")'),
    ("uv.lock", r'(?m)(^name = "perdure"\nversion = ")([^"]+)(")'),
    ("uv.lock", r'(?m)(^name = "perdure-agent"\nversion = ")([^"]+)(")'),
    ("charts/perdure/Chart.yaml", r"(?m)(^version: )(\S+)($)"),
    ("charts/perdure/Chart.yaml", r"(?m)(^appVersion: )(\S+)($)"),
)
#: Both a Python version (PEP 440) and a chart's (SemVer): three numbers, without suffix.
_FORM: Final = re.compile(r"\d+\.\d+\.\d+")


def read(root: Path) -> list[tuple[str, str]]:
    """Every file and the version that it states; raises SystemExit where a file states none."""
    found = []
    for file, pattern in PLACES:
        match = re.search(pattern, (root / file).read_text())
        if match is None:
            raise SystemExit(f"{file} has no version that matches {pattern}")
        found.append((file, match[2]))
    return found


def write(root: Path, version: str) -> None:
    """Set the version in every file; raises SystemExit if the version is not three numbers."""
    if not _FORM.fullmatch(version):
        raise SystemExit(f"{version!r} is not a version such as 0.2.0")
    read(root)
    for file, pattern in PLACES:
        path = root / file
        path.write_text(re.sub(pattern, rf"\g<1>{version}\g<3>", path.read_text(), count=1))


def main(arguments: list[str], root: Path = ROOT) -> int:
    if arguments:
        write(root, arguments[0])
    found = read(root)
    version = found[0][1]
    differing = [f"{file} says {other}" for file, other in found if other != version]
    if differing:
        print(f"{found[0][0]} says {version}, but {'; '.join(differing)}.")
        print(f"To set one version everywhere: python hack/version.py {version}")
        return 1
    print(version)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
