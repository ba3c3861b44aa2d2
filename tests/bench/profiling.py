"""Where the operator's CPU goes: the load of B2 under a sampling profiler.

    python -m tests.bench.profiling [--chains 50] [--steps 10]

Prints the shares, and leaves the collapsed stacks in `.bench/` for a flame graph. A profile is no benchmark:
the profiler stops the process for each sample.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.bench import apart, chain_load, record
from tests.bench.rig import booted
from tests.bench.stacks import Shares, shares

_PACKAGES = ("perdure", "kopf", "aiohttp", "asyncpg", "nats", "orjson", "json", "pydantic", "structlog")
_RATE = 200
_FUNCTIONS = 40


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profiling", description=__doc__)
    parser.add_argument("--chains", type=int, default=50)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    return asyncio.run(_profile(options.chains, options.steps))


async def _profile(chains: int, steps: int) -> int:
    await apart.install()
    path = record.path_now().with_suffix(".stacks")
    async with booted() as rig, rig.operator() as operator:
        await chain_load.once(rig, operator, chains=2, steps=steps)  # to warm up
        async with _sampled(operator.pid, path):
            _, faults = await chain_load.once(rig, operator, chains=chains, steps=steps)
    print("\n".join(faults) or summary(shares(path.read_text().splitlines(), packages=_PACKAGES)))
    print(f"stacks: {path}")
    return int(bool(faults))


@asynccontextmanager
async def _sampled(pid: int, path: Path) -> AsyncIterator[None]:
    """Profile a process while the body runs."""
    profiler = await asyncio.create_subprocess_exec(
        apart.program("py-spy"),
        *("record", "--pid", str(pid), "--rate", str(_RATE), "--duration", "unlimited"),
        *("--format", "raw", "--output", str(path)),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        # On SIGINT the profiler writes its samples.
        profiler.send_signal(signal.SIGINT)
        await profiler.wait()


def summary(found: Shares) -> str:
    """For people."""
    lines = ["of the time in which it did something:", ""]
    lines += [f"{share:6.1%}  {name}" for name, share in found.packages.items()]
    lines += ["", "by function, with what it called:", ""]
    functions = [(name, share) for name, share in found.functions.items() if share < 0.9]
    lines += [f"{share:6.1%}  {name}" for name, share in functions[:_FUNCTIONS]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
