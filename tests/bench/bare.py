"""The load of B2 with a program in the operator's place that only has its libraries work: `bare_program.py`.

What the operator takes beyond it is what Perdure does. The rest is the price of a step with these libraries
on this machine, for any program that decides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nats

from perdure.api import API_VERSION
from perdure.bus.stream import STREAM
from perdure.domain.names import LABEL_WORKFLOW
from perdure.domain.records import AGENT_TASK
from tests.bench import ceiling
from tests.bench.asked import asked
from tests.bench.chains import Chains
from tests.bench.load import apply_all, chain, patience
from tests.bench.processes import tree_cpu_ms
from tests.bench.rig import Rig
from tests.bench.say import reporting

_PROGRAM = Path(__file__).with_name("bare_program.py")
#: Seconds for it to have its watches open.
_READY = 60.0
_TASKS = "/apis/perdure.dev/v1alpha1/agenttasks?limit=1"
_RUN = "/apis/perdure.dev/v1alpha1/namespaces/{}/workflows/{}"
#: Bytes of what a commit writes down about the attempts of a step, as JSON.
_ATTEMPTS = 300


async def once(rig: Rig, *, chains: int, steps: int) -> float:
    """CPU milliseconds of a step by the program; the operator must have run such chains, and be stopped.

    Raises RuntimeError, TimeoutError.
    """
    total = chains * steps
    async with rig.namespace("bare", keep=True) as namespace, Chains(rig.api, namespace) as seen:
        order = await _order(rig, namespace, steps=steps)
        async with asked(*await rig.in_place_of_the_operator(_PROGRAM)) as program:
            await program.ask(order, within=_READY)
            before = tree_cpu_ms(program.pid)
            async with reporting(lambda: f"{len(seen.pods)} of {total} pods made"):
                manifests = [chain(f"chain{number:04d}", steps=steps) for number in range(chains)]
                await apply_all(rig.kube, namespace, manifests)
                if not await seen.all_ended(chains, within=patience(total)) or len(seen.pods) != total:
                    raise RuntimeError(f"{len(seen.pods)} of {total} pods came, {seen.ended()} chains ended")
            return (tree_cpu_ms(program.pid) - before) / total


async def _order(rig: Rig, namespace: str, *, steps: int) -> dict[str, Any]:
    """The order for the program: objects and statuses as the operator writes them, messages of equal size."""
    (task,) = (await rig.api.get(_TASKS))["items"]
    metadata = task["metadata"]
    run = await rig.api.get(_RUN.format(metadata["namespace"], metadata["labels"][LABEL_WORKFLOW]))
    pod = ceiling.pod(namespace, 0)
    owner = {"controller": True, "blockOwnerDeletion": False}
    return {
        "namespace": namespace,
        "steps": steps,
        "database": rig.ledger_url,
        "nats": rig.nats.url,
        "task": {
            "apiVersion": API_VERSION,
            "kind": AGENT_TASK,
            "metadata": {"labels": metadata["labels"]},
            "spec": task["spec"],
        },
        "task_status": task["status"],
        "run_status": run["status"],
        "pod": pod,
        "owners": {
            AGENT_TASK: {**owner, "apiVersion": API_VERSION, "kind": "Workflow"},
            "Pod": {**owner, "apiVersion": API_VERSION, "kind": AGENT_TASK},
        },
        "event": "x" * await _event_bytes(rig),
        "attempts": "x" * _ATTEMPTS,
    }


async def _event_bytes(rig: Rig) -> int:
    client = await nats.connect(rig.nats.url)
    try:
        state = (await client.jetstream().stream_info(STREAM)).state
    finally:
        await client.close()
    return int(state.bytes // max(1, state.messages))
