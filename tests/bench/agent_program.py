"""Agents that save checkpoints as fast as they are acknowledged: a program of their own, with the SDK alone.

Standard input has one JSON object a line, standard output answers each with one: first the variables of each
agent's environment, then what to write, once for each line. Started by `agent_process.py`, in the image's
Python if there is one: it has to do without everything else of this repository.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

from perdure_agent import Agent, Environment, connect


async def _main() -> None:
    async with AsyncExitStack() as stack:
        agents = [
            await stack.enter_async_context(connect(Environment.read(variables)))
            for variables in json.loads(await _line())
        ]
        _answer({"ready": len(agents)})
        while line := await _line():
            order = json.loads(line)
            _answer(await _write(agents[: order["writers"]], os.urandom(order["bytes"]), order["each"]))


async def _write(agents: list[Agent], data: bytes, each: int) -> dict[str, Any]:
    """Each agent saves one to begin with and then `each` more, one after the other."""
    taken: list[float] = []
    faults: list[str] = []

    async def work(agent: Agent) -> None:
        expected = await agent.checkpoint(data) + 1
        for number in range(each):
            begun = time.perf_counter()
            sequence = await agent.checkpoint(data)
            taken.append(time.perf_counter() - begun)
            if sequence != expected + number:
                faults.append(f"checkpoint {sequence} came instead of {expected + number}")

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(work(agent))
    seconds = time.perf_counter() - begun
    restored = await agents[0].restore()
    if restored is None or restored.data != data:
        faults.append("what was restored is not what was written last")
    return {"seconds": seconds, "taken": taken, "faults": faults}


async def _line() -> str:
    """Read in a thread, since nothing else goes on while an order is waited for."""
    return await asyncio.to_thread(sys.stdin.readline)


def _answer(found: dict[str, Any]) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
