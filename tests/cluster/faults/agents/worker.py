"""An agent of several sub-steps, each followed by a checkpoint, that writes down what it does.

The journal is one file of the node, appended to by all agents, so it outlives every pod and has the order of
all sub-steps. `ran` is written before a sub-step's checkpoint, `done` after the acknowledgement: from then on
no attempt may run that sub-step again. An agent whose input says `hold` waits at that point, in its
first attempt, until the test opens the gate.
"""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import perdure_agent

FOLDER = Path("/journal")


def note(what: str, **facts: Any) -> None:
    line = json.dumps({"what": what, **facts}) + "\n"
    file = os.open(FOLDER / "lines", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(file, line.encode())  # one call: lines of several agents do not mix
    finally:
        os.close(file)


async def main() -> None:
    # No heartbeats: a superseded attempt is to be refused at a checkpoint, the write that counts.
    quiet = perdure_agent.Options(heartbeat_interval=3600)
    async with perdure_agent.connect(options=quiet) as agent:
        given = agent.input
        place = {"item": given["item"], "attempt": agent.attempt}

        async def hold(point: str) -> None:
            if agent.attempt == 1 and given["hold"] == point:
                note("holds", **place)
                while not (FOLDER / f"open-{given['item']}").exists():  # noqa: ASYNC110 - set by the test
                    await asyncio.sleep(0.1)

        saved = await agent.restore()
        state: dict[str, Any] = saved.json() if saved else {"chain": "", "done": 0}
        note("starts", **place, done=state["done"])
        await hold("start")
        for number in range(state["done"], given["count"]):
            note("ran", **place, number=number)
            await asyncio.sleep(given["pause"])
            text = f"{state['chain']}/{given['item']}/{number}"
            state = {"chain": hashlib.sha256(text.encode()).hexdigest(), "done": number + 1}
            await agent.checkpoint(state, label=str(number))
            note("done", **place, number=number)
            await hold(f"checkpoint {number}")
        await agent.result({"chain": state["chain"]})
        note("reported", **place)
        await hold("result")


if __name__ == "__main__":
    perdure_agent.run(main)
