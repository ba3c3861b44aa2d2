"""The workload of all faults: a fan-out with checkpoints, and a step that joins what came of it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from tests.cluster.manifests import IMAGE, python, step, workflow

#: Items of the fan-out.
ITEMS = int(os.environ.get("FAULT_ITEMS", "16"))
#: Agents that run at once.
PARALLELISM = 8
#: Sub-steps of each.
COUNT = 4
#: Seconds that a sub-step takes.
PAUSE = 0.3
#: Retries that a task may spend; whatever the control plane suffers, none is.
RETRIES = 2

_SOURCE = Path(__file__).parent / "agents" / "worker.py"
_JOIN = (
    "import hashlib, json; given = json.load(open('/perdure/input.json'));"
    "open('/dev/termination-log', 'w')"
    ".write(hashlib.sha256('/'.join(given['chains']).encode()).hexdigest())"
)


def fan_out(name: str, *, journal: Path, holds: dict[int, str]) -> dict[str, Any]:
    """`holds`: at which point the first attempt of an item waits to be let on (see `agents/worker.py`)."""
    agent = {
        **python(_SOURCE.read_text()),
        "podTemplate": {
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "volumes": [{"name": "journal", "hostPath": {"path": str(journal), "type": "Directory"}}],
                "containers": [
                    {"name": "agent", "volumeMounts": [{"name": "journal", "mountPath": "/journal"}]}
                ],
            }
        },
    }
    return workflow(
        name,
        step(
            "work",
            agent,
            forEach=[{"item": item, "hold": holds.get(item, "")} for item in range(ITEMS)],
            input={"item": "${item.item}", "hold": "${item.hold}", "count": COUNT, "pause": PAUSE},
            retry={"limit": RETRIES, "backoff": {"initial": "1s"}},
            parallelism=PARALLELISM,
        ),
        step(
            "join",
            {**python(_JOIN), "image": IMAGE},
            input={"chains": "${steps.work.outputs.map(o, o.chain)}"},
        ),
        outputs={"joined": "${steps.join.output}"},
    )


def outputs() -> dict[str, Any]:
    """The outputs of an undisturbed run."""
    chains = []
    for item in range(ITEMS):
        chain = ""
        for number in range(COUNT):
            chain = hashlib.sha256(f"{chain}/{item}/{number}".encode()).hexdigest()
        chains.append(chain)
    return {"joined": hashlib.sha256("/".join(chains).encode()).hexdigest()}
