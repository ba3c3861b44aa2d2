"""Lets `python3 hack/demo` run the folder as a program, with imports as from the root."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from hack.demo.cli import main  # noqa: E402 (the import needs the path above)

sys.exit(main())
