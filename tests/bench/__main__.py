"""The command line: `python -m tests.bench [B0 B1 …]`."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hack.cluster import programs
from rich.console import Console

from tests.bench import b0_calibration, b1_latency, b2_throughput, b7_crash, b9_checkpoints
from tests.bench.figures import Result
from tests.bench.machine import machine_facts, version_facts, yardstick_ms
from tests.bench.options import Options
from tests.bench.report import show, show_facts, write
from tests.bench.rig import Rig, booted

Scenario = Callable[[Rig, Options], Awaitable[Result]]

SCENARIOS: dict[str, Scenario] = {
    "B0": b0_calibration.run,
    "B1": b1_latency.run,
    "B2": b2_throughput.run,
    "B7": b7_crash.run,
    "B9": b9_checkpoints.run,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the scenarios. Exit code 1 if anything did not come out right."""
    names, options = _parse(arguments)
    return asyncio.run(_run(names, options))


async def _run(names: list[str], options: Options) -> int:
    console = Console(width=None if sys.stdout.isatty() else 120)
    results: list[Result] = []
    async with booted() as rig:
        facts = await _facts(rig, options)
        show_facts(facts["machine"], console)
        for name in names:
            before = {"load": os.getloadavg()[0], "yardstick_ms": yardstick_ms()}
            result = await _guarded(name, rig, options)
            after = {"load": os.getloadavg()[0], "yardstick_ms": yardstick_ms()}
            result.details["machine"] = {"before": before, "after": after}
            show(result, console)
            results.append(result)
    console.print(f"written to {write(results, facts)}", highlight=False)
    return 1 if any(result.faults for result in results) else 0


async def _guarded(name: str, rig: Rig, options: Options) -> Result:
    """A scenario that breaks must not take the others' figures along."""
    try:
        return await SCENARIOS[name](rig, options)
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return Result(scenario=name, title="broke", parameters=asdict(options), faults=[text])


async def _facts(rig: Rig, options: Options) -> dict[str, Any]:
    binaries = {name: programs.path(name) for name in ("kube-apiserver", "etcd", "kwok")}
    binaries["nats-server"] = Path(sys.executable).with_name("nats-server")
    return {
        "machine": machine_facts(rig.directory),
        "versions": {**version_facts(binaries), "postgres": await rig.postgres_version()},
        "rig": {
            "etcd": "without fsync",
            "postgres": "fsync and synchronous_commit on",
            "nodes": "simulated by KWOK",
            "credentials": "as in a pod" if rig.as_in_a_pod else "kubeconfig",
        },
        "options": asdict(options),
    }


def _parse(arguments: list[str] | None) -> tuple[list[str], Options]:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(SCENARIOS)}")
    for field in fields(Options):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(name, type=int, default=field.default, help=f"default: {field.default}")
    given = vars(parser.parse_args(arguments))
    names: list[str] = given.pop("names") or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            parser.error(f"there is no {name}; there are {', '.join(SCENARIOS)}")
    return names, Options(**given)


if __name__ == "__main__":
    sys.exit(main())
