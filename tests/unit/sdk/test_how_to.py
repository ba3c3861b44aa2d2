"""The examples of `docs/how-to/test-an-agent.md`, as a reader would run them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "how-to" / "test-an-agent.md"


def test_every_example_of_the_page_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```$", PAGE.read_text(), flags=re.M | re.S)
    files = dict(blocks)
    assert set(files) == {"counter.py", "test_counter.py", "test_connect.py", "test_process.py"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    written = sum(content.count("async def test_") for content in files.values())
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-o",
            "asyncio_mode=auto",
            "--rootdir=.",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert f"{written} passed" in done.stdout
