"""A run during whose passes the operator's process crashes, against real servers."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.integration.operator.conftest import Stage
from tests.support.waiting import until

#: Imported by Python at the start of the process: a pass over one run reads an address that is not mapped.
FAULT = """
import ctypes
from perdure.control.runs import reconciler

decide = reconciler.decide

def crashing(view, *args, **options):
    if view.run.name == "poison":
        ctypes.string_at(0)
    return decide(view, *args, **options)

reconciler.decide = crashing
"""
WAIT = {"steps": [{"name": "a", "wait": {"duration": "1s"}}]}


async def test_a_run_that_crashes_the_process_is_set_aside(stage: Stage, tmp_path: Path) -> None:
    await stage.operator.kill()
    (tmp_path / "sitecustomize.py").write_text(FAULT)
    stage.operator.set("PYTHONPATH", str(tmp_path))
    # A leader that loses its Lease on a busy machine has no pass to crash in.
    stage.operator.set("PERDURE_LEASE_DURATION", "15")
    stage.operator.set("PERDURE_LEASE_RENEW_DEADLINE", "10")
    made = await stage.apply("poison", WAIT)
    for _ in range(2):
        await stage.operator.start()
        assert await stage.operator.died(within=120) == -signal.SIGSEGV
    await stage.operator.start()
    await stage.apply("healthy", WAIT)
    await stage.until_complete("healthy")

    async def set_aside() -> bool:
        return await stage.condition("poison", "Stalled") == "True"

    await until(set_aside, within=30)
    conditions = {it["type"]: it for it in (await stage.status("poison"))["conditions"]}
    assert conditions["Stalled"]["reason"] == "Quarantined"
    (suspect,) = await stage.ledger.suspects()
    assert (suspect.uid, suspect.deaths) == (made["metadata"]["uid"], 2)

    # Repaired, and asked for.
    await stage.operator.kill()
    (tmp_path / "sitecustomize.py").unlink()
    await stage.operator.start()
    await stage.kube.patch(
        "Workflow",
        stage.namespace,
        "poison",
        {"metadata": {"annotations": {"perdure.dev/reconcile": "now"}}},
    )
    assert (await stage.until_complete("poison"))["phase"] == "Succeeded"
    assert await stage.ledger.suspects() == []
