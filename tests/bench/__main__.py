"""The command line: `python -m tests.bench [B0 B1 …]`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import uvloop
from hack.cluster import programs
from rich.console import Console

from tests.bench import (
    anchors,
    b0_calibration,
    b1_latency,
    b2_throughput,
    b3_storm,
    b4_fan_out,
    b6_memory,
    b7_crash,
    b8_failover,
    b9_checkpoints,
    b10_restore,
    b11_events,
    b13_durability,
    b14_control,
    ceiling,
    growth,
    record,
)
from tests.bench.figures import Result
from tests.bench.growing import charts
from tests.bench.load import patience
from tests.bench.machine import QUIET, machine_facts, rested, version_facts, yardstick_ms
from tests.bench.rig import Rig, booted
from tests.bench.say import duration, say
from tests.bench.scenario import Planned, Run, parse
from tests.bench.table import show, show_facts

SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        b0_calibration.SCENARIO,
        b1_latency.SCENARIO,
        b2_throughput.THROUGHPUT,
        b3_storm.SCENARIO,
        b4_fan_out.SCENARIO,
        b2_throughput.COST,
        b6_memory.SCENARIO,
        b7_crash.SCENARIO,
        b8_failover.SCENARIO,
        b9_checkpoints.SCENARIO,
        b10_restore.SCENARIO,
        b11_events.SCENARIO,
        b13_durability.SCENARIO,
        b14_control.SCENARIO,
        growth.SCENARIO,
    )
}
#: Seconds that a machine is given to come to rest before the first one.
_REST = 300.0
#: Pods with which the rig's ceiling is measured before each scenario.
_CEILING = 100


def main(arguments: list[str] | None = None) -> int:
    """Run the scenarios. Exit code 1 if anything did not come out right."""
    planned = parse(arguments, SCENARIOS, description=__doc__ or "")
    # As what is measured does: the less the benchmark takes of the two cores, the less it measures itself.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(planned))


async def _run(planned: list[Planned]) -> int:
    _quiet()
    console = Console(width=None if sys.stdout.isatty() else 140)
    path = record.path_now()
    results: list[Result] = []
    if os.getloadavg()[0] > QUIET:
        say(f"waiting up to {duration(_REST)} for the machine to come to rest")
    facts: dict[str, Any] = {"load_before": await rested(within=_REST)}
    say(f"about {duration(sum(each.seconds for each in planned))} on two idle cores")
    for each in planned:
        say(f"{each.scenario.name}: {each.scenario.title}, about {duration(each.seconds)}")
        result = Result(
            scenario=each.scenario.name,
            title=each.scenario.title,
            parameters=asdict(each.size),
            full=each.full,
        )
        for run in filter(None, (each.scenario.run, each.scenario.then)):
            if result.faults:
                break
            # A boot for each benchmark: the leftovers of one are no load for the next, and need no removal.
            async with booted() as rig:
                if "machine" not in facts:
                    facts |= await _facts(rig)
                    show_facts(facts["machine"], console)
                await _measure(rig, run, each.size, result)
        show(result, console)
        results.append(result)
        record.write(path, results, facts)
        if points := result.details.get("growth"):
            path.with_suffix(".svg").write_text(charts(points))
    console.print(f"written to {path}", highlight=False)
    return 1 if any(result.faults for result in results) else 0


def _quiet() -> None:
    """Silence the logs of our libraries about outages: some benchmarks cause outages on purpose."""
    logging.getLogger("perdure_agent").setLevel(logging.ERROR)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))


async def _measure(rig: Rig, run: Run, size: Any, result: Result) -> None:
    """A scenario that breaks must not take the others' figures along."""
    try:
        found = await ceiling.measure(rig, _CEILING, within=patience(_CEILING))
        before = _speed()
        await run(rig, size, result)
        # With two parts: before the first, and after the second.
        result.details["machine"] = {"before": before, **result.details.get("machine", {}), "after": _speed()}
        if "ceiling_pods_per_second" not in result.details:
            result.details["ceiling_pods_per_second"] = found.pods_per_second
            result.notes.append(f"The rig's own ceiling was {found.pods_per_second:.0f} pods/s just before.")
    except Exception as error:
        result.faults.append("".join(traceback.format_exception(error)))


def _speed() -> dict[str, float]:
    return {
        "load": os.getloadavg()[0],
        "yardstick_ms": yardstick_ms(),
        "slowness": round(anchors.slowness(), 2),
    }


async def _facts(rig: Rig) -> dict[str, Any]:
    binaries = {name: programs.path(name) for name in ("kube-apiserver", "etcd", "kwok")}
    binaries["nats-server"] = Path(sys.executable).with_name("nats-server")
    return {
        "machine": machine_facts(rig.directory),
        "versions": {
            **version_facts(binaries, python=rig.product.command("python")),
            "postgres": await rig.postgres_version(),
        },
        "rig": {
            "etcd": "without fsync",
            "postgres": "fsync and synchronous_commit on",
            "nodes": "simulated by KWOK",
            "product": "a checkout on this machine's Python" if rig.product.root is None else "its image",
            "credentials": "as in a pod" if rig.as_in_a_pod else "kubeconfig",
        },
    }


if __name__ == "__main__":
    sys.exit(main())
