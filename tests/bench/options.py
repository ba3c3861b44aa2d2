"""How large the benchmarks are. The defaults are small enough for a shared machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Sizes and repetitions."""

    #: Measured runs of each scenario, after one to warm up.
    runs: int = 5
    #: Steps of a chain.
    steps: int = 10
    #: Chains at once in B2.
    chains: int = 50
    #: Runs of B2: each is long enough to speak for itself.
    throughput_runs: int = 1
    #: Chains at once in B7, and how often the operator is killed.
    crash_chains: int = 20
    crashes: int = 3
    #: Pods with which B2 measures the rig's ceiling beside itself.
    ceiling: int = 100
    #: Requests of each sort in B0.
    calibration: int = 200
    #: Checkpoints of each size in B9.
    checkpoints: int = 300

    def deadline(self, steps: int) -> float:
        """Seconds after which so many steps are not going to come any more. No measure of speed."""
        return 60 + steps / 2
