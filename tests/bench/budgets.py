"""The budgets of the design, and the comparison of a measured value. Printed, never asserted.

The must and stretch values are those of the design's budget table; where it says nothing, those of the
benchmark's definition. A verdict means something only for a run of the defined size on a quiet machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["", "met", "stretch", "missed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Bounds of one figure, in the figure's own unit."""

    must: float
    #: None where nothing better than `must` is asked for.
    stretch: float | None = None
    #: Whether more is better.
    most: bool = False
    #: The subject of the bounds, if the figure does not say it.
    note: str = ""

    def verdict(self, value: float) -> Verdict:
        """Which bound the value keeps."""
        if self.stretch is not None and self._keeps(value, self.stretch):
            return "stretch"
        return "met" if self._keeps(value, self.must) else "missed"

    def text(self, bound: float | None) -> str:
        """A bound with its sign; empty if there is none."""
        return "" if bound is None else f"{'≥' if self.most else '≤'} {bound:g}"

    def _keeps(self, value: float, bound: float) -> bool:
        return value >= bound if self.most else value <= bound


#: Something that must never happen.
NEVER = Budget(must=0)

CHAIN_GAP_P50 = Budget(must=15, stretch=9)
CHAIN_GAP_P99 = Budget(must=75, stretch=40)
CHAIN_TOTAL = Budget(must=500, stretch=300, note="10 steps")
CHAINS_RATE = Budget(must=30, stretch=45, most=True, note="200 chains of 10")
#: The same 30 and 45 of the 82 pods a second that the rig made, with no operator, where the budgets were set.
CHAINS_SHARE = Budget(must=37, stretch=55, most=True, note="CHAINS_RATE, whatever the machine")
LOADED_GAP_P99 = Budget(must=500)
STEP_CPU = Budget(must=5, stretch=2.5)
STEP_REQUESTS = Budget(must=5, stretch=3.5)
STEP_WRITES = Budget(must=10, stretch=8)
STORM_SECONDS = Budget(must=240, stretch=120, note="5,000 runs")
STORM_RATE = Budget(must=20, stretch=36, most=True)
FAN_OUT_SECONDS = Budget(must=30, note="1,000 items")
LARGE_FAN_OUT_SECONDS = Budget(must=120, note="5,000 items; a stretch in the definition")
REDUCER = Budget(must=250)
STATUS_KIB = Budget(must=32)
OPERATOR_MIB = Budget(must=250, stretch=150, note="1,000 running, 10,000 finished runs")
APISERVER_MIB = Budget(must=600)
IDLE_CPU = Budget(must=2, stretch=0.5)
FIRST_ACTION = Budget(must=2.5, stretch=1.5)
CAUGHT_UP = Budget(must=10, stretch=5)
FAILOVER = Budget(must=5, stretch=2.5, note="lease of 4 s")
ENGINE_P50 = Budget(must=0.45)
ENGINE_P99 = Budget(must=2)
CHECKPOINT_P50 = Budget(must=1.5, stretch=0.8, note="1 KB, one writer")
CHECKPOINT_P99 = Budget(must=5)
LARGE_CHECKPOINT_P50 = Budget(must=3, note="256 KB, one writer")
CHECKPOINT_RATE = Budget(must=6000, stretch=15000, most=True, note="64 writers, engine")
RESTORE_P99 = Budget(must=1)
LARGE_RESTORE_P99 = Budget(must=5)
BULK_RESTORE = Budget(must=50, stretch=15, note="1,000 runs")
REPLACED_P50 = Budget(must=20, stretch=12)
REPLACED_P99 = Budget(must=100)
EVENT_P50 = Budget(must=3, stretch=1)
EVENT_P99 = Budget(must=15, stretch=5)
CANCEL_P50 = Budget(must=15)
CANCEL_P99 = Budget(must=100, stretch=50)
CANCEL_ALL_SECONDS = Budget(must=10, stretch=5, note="500 tasks")
