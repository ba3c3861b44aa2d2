"""DBOS workflows of ten steps: what each step takes, alone and with sixteen workflows at once.

Run by the interpreter of the group `bench`: `dbos_steps.py URL STEPS`. Prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from typing import Any

from dbos import DBOS  # type: ignore[import-not-found]

KIB = 1024
SIZES = (1 * KIB, 32 * KIB, 256 * KIB)
#: Steps of one workflow.
_STEPS = 10
_AT_ONCE = 16


@DBOS.step()  # type: ignore[untyped-decorator]
def _step(size: int) -> str:
    # Text: it is kept as JSON or pickled, and half as many random bytes in hexadecimal do not shrink much.
    return os.urandom(size // 2).hex()


@DBOS.workflow()  # type: ignore[untyped-decorator]
def _workflow(size: int) -> int:
    return sum(len(_step(size)) for _ in range(_STEPS))


def main(url: str, steps: int) -> dict[str, Any]:
    """Samples in seconds."""
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    try:
        samples = {f"a step of ten, {size // KIB} KB": _alone(size, steps) for size in SIZES}
        begun = time.perf_counter()
        workflows = -(-steps // _STEPS)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(_workflow, [KIB] * workflows))
        rate = workflows * _STEPS / (time.perf_counter() - begun)
    finally:
        DBOS.destroy()
    return {
        "version": version("dbos"),
        "samples": samples,
        "rates": {f"steps, 1 KB, {_AT_ONCE} workflows at once": rate},
    }


def _alone(size: int, steps: int) -> list[float]:
    _workflow(size)  # to warm up
    taken = []
    for _ in range(-(-steps // _STEPS)):
        begun = time.perf_counter()
        assert _workflow(size) == _STEPS * size
        taken.append((time.perf_counter() - begun) / _STEPS)
    return taken


if __name__ == "__main__":
    # DBOS logs to standard output.
    with contextlib.redirect_stdout(sys.stderr):
        found = main(sys.argv[1], int(sys.argv[2]))
    print(json.dumps(found))
