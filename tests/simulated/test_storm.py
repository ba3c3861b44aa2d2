"""Worlds in which everything goes wrong at once: `make simulate` tries any number, this two thousand.

They run in processes of their own whose sets are in the same order each time, so that a seed that fails here
is replayed exactly by `make simulate SEED=…`.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.simulated.mutations import MUTATIONS, name_of

SEEDS = os.environ.get("SEEDS", "2000")
#: Seeds that failed once, each with what was wrong.
FAILED_ONCE = {
    7525: "a pod that ended when its run had ended, and its operator was killed, stayed for good",
    1150: "an AgentTask that came to light when its task had ended was never given its final status",
    1555: "a pod that a late request made again outlived its run",
    8329: "an AgentTask was shown as Succeeded whose run had ended as Cancelled",
    17916: "a pod that came to be seen while a list from before it was on its way was forgotten for good",
    366: "a run failed because an API server that had just started forbade what it had no roles read for",
    1563: "the guarantee of timers refused a signal that ended a wait in the decision that ended its pause",
    2404: "the storm took a result that another run had cached for a wrong one",
    3899: "the storm left the last operator ended, which had found its Lease expired",
    463: "a run that was applied again during the load of live runs hid its predecessor",
    10875: "a commit that took effect after its run had been read again exceeded the limit",
}


def _run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_all_guarantees_hold_whatever_goes_wrong() -> None:
    tried = _run("tests.simulated.storm", "--seeds", SEEDS)
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_what_failed_once_holds() -> None:
    tried = _run("tests.simulated.storm", "--seed", *map(str, FAILED_ONCE))
    assert tried.returncode == 0, tried.stdout + tried.stderr


def test_the_same_seed_gives_the_same_history_to_the_last_byte() -> None:
    seeds = [str(seed) for seed in range(1000, 1010)]
    once = _run("tests.simulated.storm", "--trace", "--seed", *seeds).stdout
    # Whatever was simulated before it in the same process.
    again = _run("tests.simulated.storm", "--trace", "--seed", "1", "2", *seeds).stdout
    assert again.endswith(once)
    assert len({line for line in once.splitlines() if "history" in line}) == len(seeds)


def test_every_guarantee_that_is_broken_on_purpose_is_missed() -> None:
    tried = _run("tests.simulated.mutations", "--quick")
    assert tried.returncode == 0, tried.stdout + tried.stderr
    named = [line.partition(":")[0] for line in tried.stdout.splitlines()]
    assert named == [name_of(mutation) for mutation in MUTATIONS]
