"""Others that save state in Postgres, measured on the same server, each in a process of its own.

They are installed into an environment of their own, by the lock file's group `bench`: no other user of
Perdure needs them. What they do is less than a step of ours, as they have no pods; see docs/performance.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from tests.bench import apart
from tests.bench.figures import Result
from tests.bench.rig import Rig
from tests.bench.say import say

_HERE = Path(__file__).parent
_PEERS = {
    "langgraph-checkpoint-postgres": _HERE / "langgraph_saver.py",
    "dbos": _HERE / "dbos_steps.py",
}


async def compare(rig: Rig, result: Result, *, steps: int) -> None:
    """Add the peers' figures, or a note that says why there are none."""
    try:
        say("installing the peers")
        await apart.install()
        for name, program in _PEERS.items():
            say(f"{name}: {steps} steps of each size")
            url = await rig.postgres.create_database()
            found = orjson.loads(await apart.run("python", str(program), url, str(steps), within=600))
            _add(result, name, found)
    except (apart.Failed, OSError, TimeoutError) as error:
        result.notes.append(f"The peers were not measured: {error}")


def _add(result: Result, name: str, found: dict[str, Any]) -> None:
    result.details.setdefault("peers", {})[name] = found["version"]
    for label, seconds in found["samples"].items():
        result.add_samples(f"{name} {found['version']}: {label}", seconds)
    for label, value in found.get("rates", {}).items():
        result.add(f"{name} {found['version']}: {label}", value, "/s")
