"""The cost of a piece of work: CPU by component, requests, writes to etcd."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.bench.counts import Counts
from tests.bench.rig import Rig

#: Written by the benchmark itself.
_APPLIED = ("POST", "workflows")


@dataclass(slots=True)
class Cost:
    """Filled in when the work is over. CPU in milliseconds."""

    cpu: dict[str, float] = field(default_factory=dict)
    counts: Counts = field(default_factory=lambda: Counts(Counter(), Counter(), Counter()))

    def writes(self) -> int:
        """Writes to etcd by everybody but the benchmark."""
        return self.counts.writes.total() - self.counts.writes[_APPLIED]

    def per_step(self, steps: int) -> dict[str, Any]:
        """Everything divided by the number of steps, for the JSON."""
        requests = self.counts.of_operator()
        return {
            "cpu_ms": {name: round(used / steps, 3) for name, used in sorted(self.cpu.items())},
            "operator_requests": {name: round(number / steps, 3) for name, number in requests.items()},
            "writes": {
                " ".join(request): round(number / steps, 3)
                for request, number in self.counts.writes.most_common(15)
            },
        }


@asynccontextmanager
async def measured(rig: Rig) -> AsyncIterator[Cost]:
    """Measures from when it is entered until it is left."""
    cost = Cost()
    before = await rig.api.counts()
    meter = rig.meter()
    meter.start()
    yield cost
    cost.cpu = meter.stop()
    cost.counts = (await rig.api.counts()).since(before)
