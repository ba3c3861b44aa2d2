"""B2 and B5: many chains at once: steps per second, and what a step costs everybody."""

from __future__ import annotations

from tests.bench import bare, budgets, ceiling, chain_load
from tests.bench.chain_load import Loads, Size
from tests.bench.figures import Result
from tests.bench.load import patience
from tests.bench.rig import Rig
from tests.bench.say import say
from tests.bench.scenario import Scenario

#: Pods with which the rig's ceiling is measured just before each repetition.
_CEILING = 200
_COMPONENTS = ("kube-apiserver", "etcd", "postgres", "nats", "kwok", "kube-scheduler")
#: What was measured in this process: B5 reads the cost of the very load that B2 timed.
_measured: dict[Size, Loads] = {}


async def throughput(rig: Rig, size: Size, result: Result) -> None:
    """B2."""
    loads = await _loads(rig, size)
    result.faults += loads.faults
    if loads.faults:
        return
    result.details["runs"] = [run.figures for run in loads.runs]
    result.add_runs(
        "throughput", loads.each("steps_per_second"), "steps/s", budget=budgets.CHAINS_RATE, most=True
    )
    result.add_runs("rig's ceiling just before", loads.each("ceiling"), "pods/s", most=True)
    result.add_runs(
        "share of the ceiling", loads.each("share_of_ceiling"), "%", budget=budgets.CHAINS_SHARE, most=True
    )
    result.add_runs("all applied after", loads.each("applying_seconds"), "s")
    result.add_runs("all Succeeded after", loads.each("seconds"), "s")
    gaps = [gap for run in loads.runs for gap in run.gaps]
    result.add_samples("pod ended → next pod created", gaps, p99=budgets.LOADED_GAP_P99)
    result.add_runs("CPU of the machine that was not ours", loads.each("others_percent"), "% of one core")


async def cost(rig: Rig, size: Size, result: Result) -> None:
    """B5."""
    loads = await _loads(rig, size)
    result.faults += loads.faults
    if loads.faults:
        return
    result.details["per_step"] = [run.per_step for run in loads.runs]
    used_each = loads.each("operator_cpu_ms")
    result.add_runs("operator CPU", used_each, "CPU-ms/step", budget=budgets.STEP_CPU)
    result.add_runs("  of which the libraries take, asking the same of others", loads.bare, "CPU-ms/step")
    shares = [100 * alone / used for alone, used in zip(loads.bare, used_each, strict=True)]
    result.add_runs("  their share", shares, "%")
    result.add_runs(
        "operator requests", loads.each("operator_requests"), "/step", budget=budgets.STEP_REQUESTS
    )
    for name in loads.runs[0].per_step["operator_requests"]:
        values = [run.per_step["operator_requests"][name] for run in loads.runs]
        result.add_runs(f"  {name}", values, "/step")
    result.add_runs("writes to etcd, by everybody", loads.each("writes"), "/step", budget=budgets.STEP_WRITES)
    for name in _COMPONENTS:
        values = [run.per_step["cpu_ms"][name] for run in loads.runs]
        result.add_runs(f"  {name} CPU", values, "CPU-ms/step")
    result.add_runs("operator memory, peak", loads.each("operator_peak_mib"), "MiB")
    result.add_runs("CPU of the machine that was not ours", loads.each("others_percent"), "% of one core")


async def _loads(rig: Rig, size: Size) -> Loads:
    if size in _measured:
        say("this load was measured before in this run")
        return _measured[size]
    loads = Loads()
    for number in range(size.repeat):
        say(f"repetition {number + 1} of {size.repeat}")
        # By turns: the machine changes within minutes, and what is compared should find it alike.
        await _once(rig, size, loads)
        if loads.faults:
            return loads
        loads.bare.append(await bare.once(rig, chains=size.chains, steps=size.steps))
    _measured[size] = loads
    return loads


async def _once(rig: Rig, size: Size, loads: Loads) -> None:
    async with rig.operator() as operator:
        warm = max(2, size.chains // 10)
        _, loads.faults = await chain_load.once(rig, operator, chains=warm, steps=size.steps)
        if loads.faults:
            return
        pods = min(_CEILING, size.chains * size.steps)
        found = await ceiling.measure(rig, pods, within=patience(pods))
        load, loads.faults = await chain_load.once(rig, operator, chains=size.chains, steps=size.steps)
    if load is not None:
        load.figures["ceiling"] = found.pods_per_second
        load.figures["share_of_ceiling"] = 100 * load.figures["steps_per_second"] / found.pods_per_second
        loads.runs.append(load)


def _seconds(size: Size) -> float:
    return 20 + size.repeat * (20 + 2 * size.chains * size.steps / 38)


_SMALL = Size(chains=4, steps=3, repeat=1)
THROUGHPUT = Scenario(
    name="B2",
    title="chains at once: throughput",
    full=Size(),
    small=_SMALL,
    run=throughput,
    seconds=_seconds,
)
COST = Scenario(
    name="B5",
    title="what a step costs, in the load of B2",
    full=Size(),
    small=_SMALL,
    run=cost,
    seconds=_seconds,
)
