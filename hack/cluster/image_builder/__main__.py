"""The program `python3 hack/cluster/image_builder`.

Python puts this folder, not the repository, at the front of `sys.path` when it runs the folder; the import
below starts at the repository.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[3])

from hack.cluster.image_builder.cli import main  # noqa: E402 (the import needs the path above)

sys.exit(main())
