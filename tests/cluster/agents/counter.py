"""An agent that counts, slowly, with a checkpoint after each number; runs in the example's image.

Its result is a chain of digests over all numbers, which comes out different if one is left out, done twice or
done in another order. A gate holds the first attempt before a number until the test opens it, so that what
must happen meanwhile happens meanwhile however slow the machine is.
"""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import perdure_agent

GATE = Path("/tmp/open")


async def until_open() -> None:
    while not GATE.exists():  # noqa: ASYNC110, ASYNC240 - what is waited for happens outside
        await asyncio.sleep(0.1)


async def main() -> None:
    async with perdure_agent.connect() as agent:
        given = agent.input
        saved = await agent.restore()
        state: dict[str, Any] = saved.json() if saved else {"chain": "", "journal": [], "resumed": []}
        if saved:
            state["resumed"].append({"attempt": agent.attempt, "checkpoint": saved.sequence})
        for number in range(len(state["journal"]), given["count"]):
            if number == given.get("gate") and agent.attempt == 1:
                await until_open()
            await asyncio.sleep(given.get("pause", 0.3))
            text = f"{state['chain']}/{given['seed']}/{number}"
            state["chain"] = hashlib.sha256(text.encode()).hexdigest()
            state["journal"].append({"number": number, "attempt": agent.attempt})
            await agent.checkpoint(state, label=str(number))
        await agent.result(state)


if __name__ == "__main__":
    perdure_agent.run(main)
