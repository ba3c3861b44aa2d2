"""`python -m tests.fuzz`: so many inputs, in worker processes; the death of a worker names the input.

Each input follows from seed and number alone, so one that fails is replayed by `--seed S --replay N`.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import subprocess
import sys
import time
import traceback
from random import Random

import structlog

from tests.fuzz.targets import TARGETS, servers

#: Inputs that one worker process takes. A leak shows as the death of a worker that takes many.
_CHUNK = 20_000
_NAMES = list(TARGETS)
_SHARES = [share for _, share in TARGETS.values()]


def main() -> int:
    """Fuzz, as the parent of workers or as one of them. Returns 1 if an input did what none may do."""
    parser = argparse.ArgumentParser(prog="make fuzz")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0, help="what they follow from")
    parser.add_argument("--jobs", type=int, default=2, help="processes to use")
    parser.add_argument("--replay", type=int, help="run this input alone")
    parser.add_argument("--worker", type=int, nargs=2, help="run inputs from one number to another")
    given = parser.parse_args()
    # The evaluator logs each error of a function at WARNING.
    logging.disable(logging.CRITICAL)
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[])
    if given.replay is not None:
        return asyncio.run(_work(given.seed, given.replay, given.replay + 1))
    if given.worker is not None:
        return asyncio.run(_work(given.seed, *given.worker))
    return _lead(given.seed, given.inputs, given.jobs)


def _lead(seed: int, inputs: int, jobs: int) -> int:
    """Start workers until all inputs are done."""
    began = time.monotonic()
    chunk = min(_CHUNK, -(-inputs // jobs))
    starts = list(range(0, inputs, chunk))[::-1]
    running: list[tuple[subprocess.Popen[str], int]] = []
    failed = 0
    while starts or running:
        while starts and len(running) < jobs:
            first = starts.pop()
            line = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed)]
            line += ["--worker", str(first), str(min(first + chunk, inputs))]
            running.append((subprocess.Popen(line, stdout=subprocess.PIPE, text=True), first))
        worker, first = running.pop(0)
        output, _ = worker.communicate()
        if worker.returncode:
            failed += 1
            last = output.splitlines()[-1] if output else str(first)
            print(f"a worker ended with {worker.returncode} at input {last}")
            print(f"replay it: python -m tests.fuzz --seed {seed} --replay {last}", flush=True)
        else:
            done = min(first + chunk, inputs)
            print(f"{done} of {inputs} inputs, {done / (time.monotonic() - began):.0f} a second", flush=True)
    return 1 if failed else 0


async def _work(seed: int, first: int, last: int) -> int:
    """Run inputs; each number is printed before its input, so that the parent knows which one was fatal."""
    failed = 0
    async with servers() as running:
        for number in range(first, last):
            sys.stdout.write(f"{number}\n")
            sys.stdout.flush()
            chance = Random(f"{seed}/{number}")
            name = chance.choices(_NAMES, _SHARES)[0]
            target, _ = TARGETS[name]
            try:
                await target(chance, running)
            except Exception:
                failed += 1
                sys.stderr.write(f"input {number} ({name}):\n{traceback.format_exc(limit=-8)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
