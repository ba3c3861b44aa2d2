"""Lets `python3 hack/cluster` run the folder as a program.

Run that way the folder is no package; importing it from the repository root
makes relative imports mean the same as in `from hack.cluster import …`.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

from hack.cluster.cli import main  # noqa: E402 (the import needs the path above)

sys.exit(main())
