"""A LangGraph thread of ten steps: what its Postgres saver takes for each, and for loading the latest.

Run by the interpreter of the group `bench`: `langgraph_saver.py URL STEPS`. Prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from importlib.metadata import version
from typing import Any

from langgraph.checkpoint.base import empty_checkpoint  # type: ignore[import-not-found]
from langgraph.checkpoint.base.id import uuid6  # type: ignore[import-not-found]
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver  # type: ignore[import-not-found]

KIB = 1024
SIZES = (1 * KIB, 32 * KIB, 256 * KIB)
#: Steps of one thread.
_STEPS = 10


async def main(url: str, steps: int) -> dict[str, Any]:
    """Samples in seconds."""
    samples: dict[str, list[float]] = {}
    async with AsyncPostgresSaver.from_conn_string(url) as saver:
        await saver.setup()
        for size in SIZES:
            saved = samples[f"save a step, {size // KIB} KB"] = []
            loaded = samples[f"load the latest, {size // KIB} KB"] = []
            for thread in range(-(-steps // _STEPS)):
                await _thread(saver, f"{size}-{thread}", size, saved, loaded)
    return {"version": version("langgraph-checkpoint-postgres"), "samples": samples}


async def _thread(
    saver: AsyncPostgresSaver, thread: str, size: int, saved: list[float], loaded: list[float]
) -> None:
    config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}}
    for step in range(1, _STEPS + 1):
        data = os.urandom(size)
        checkpoint = empty_checkpoint()
        checkpoint["id"] = str(uuid6(clock_seq=step))
        checkpoint["channel_values"] = {"state": data}
        checkpoint["channel_versions"] = {"state": step}
        begun = time.perf_counter()
        # What a graph does for each of its steps: the state, and what its node wrote.
        config = await saver.aput(
            config, checkpoint, {"source": "loop", "step": step, "parents": {}}, {"state": step}
        )
        await saver.aput_writes(config, [("state", data)], task_id=f"task-{step}")
        saved.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    found = await saver.aget_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})
    loaded.append(time.perf_counter() - begun)
    assert found is not None
    assert found.checkpoint["channel_values"]["state"] == data


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], int(sys.argv[2])))))
