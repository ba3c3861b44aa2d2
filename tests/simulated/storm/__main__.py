"""`python -m tests.simulated.storm`: many seeds, fast. Prints the first that fails, and how to replay it."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from tests.simulated.storm.scenario import Outcome, simulate

#: Seconds between two lines about how far it is.
REPORT_EVERY = 10.0


def in_order(module: str) -> None:
    """Start again with a fixed hash seed: the history depends on the order of sets."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])
    # A world leaves little behind, and is taken apart by itself.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def main() -> int:
    """Run seeds. Returns 1 if a guarantee was broken."""
    parser = argparse.ArgumentParser(prog="make simulate")
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to try")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, nargs="+", help="replay these alone")
    parser.add_argument("--jobs", type=int, default=1, help="processes to use")
    parser.add_argument("--trace", action="store_true", help="with --seed: print what happens in it")
    parser.add_argument("--keep-going", action="store_true", help="list every seed that fails")
    arguments = parser.parse_args()
    in_order("tests.simulated.storm")
    if arguments.seed is not None:
        return _replay(arguments.seed, trace=arguments.trace)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    return _try(seeds, jobs=arguments.jobs, keep_going=arguments.keep_going)


def _replay(seeds: Sequence[int], *, trace: bool) -> int:
    failed = 0
    for seed in seeds:
        outcome = simulate(seed, print if trace else None)
        failed += outcome.violation is not None
        print(f"seed {seed}: {outcome.violation or 'all holds'}")
        print(f"seed {seed}: history {outcome.digest}")
    return 1 if failed else 0


def _try(seeds: Sequence[int], *, jobs: int, keep_going: bool) -> int:
    counts: Counter[str] = Counter()
    failed = 0
    began = reported = time.monotonic()
    for done, outcome in enumerate(_outcomes(seeds, jobs), 1):
        counts.update(outcome.counts)
        now = time.monotonic()
        if outcome.violation is not None:
            failed += 1
            print(f"seed {outcome.seed} failed: {outcome.violation}")
            print(f"replay it: make simulate SEED={outcome.seed}", flush=True)
            if not keep_going:
                return 1
        if now - reported > REPORT_EVERY or done == len(seeds):
            reported = now
            rate = done / (now - began)
            print(f"{done} of {len(seeds)} seeds, {rate:.1f} a second, {failed} failed", flush=True)
    print("tried: " + ", ".join(f"{name} {number}" for name, number in sorted(counts.items())))
    return 1 if failed else 0


def _outcomes(seeds: Sequence[int], jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        yield from map(simulate, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(
        jobs, initializer=gc.set_threshold, initargs=(50_000,)
    ) as pool:
        yield from pool.imap_unordered(simulate, seeds, chunksize=16)


if __name__ == "__main__":
    sys.exit(main())
