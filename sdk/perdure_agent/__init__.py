"""SDK of a Perdure agent: restore, checkpoint, progress, result.

    import perdure_agent

    async def main() -> None:
        async with perdure_agent.connect() as agent:
            saved = await agent.restore()
            done = saved.json() if saved else []
            for file in agent.input["files"][len(done):]:
                done.append(await examine(file))
                await agent.checkpoint(done, label=file)
            await agent.result({"findings": done})

    perdure_agent.run(main)

SIGTERM (a pause, an eviction, a drained node) cancels `main`. An agent that has more to save than its last
checkpoint catches `asyncio.CancelledError`, saves and returns, within the pod's grace period; the exit code
is 75 then, and the next attempt restores that checkpoint.

Without `PERDURE_GATEWAY_URL` the same program runs on a laptop: input from `PERDURE_INPUT`, checkpoints in
`.perdure/`, the result on standard output. `perdure_agent.testing` has an in-memory gateway for tests.
"""

from perdure_agent._agent import Agent, connect
from perdure_agent._checkpoints import Checkpoint, CheckpointInfo, RestoredFile
from perdure_agent._environment import Environment
from perdure_agent._last_failure import LastFailure
from perdure_agent._options import Options, Retries
from perdure_agent._run import EXIT_INTERRUPTED, EXIT_SUPERSEDED, run, supervise
from perdure_agent.errors import (
    AgentError,
    AgentFailure,
    DamagedCheckpoint,
    GatewayError,
    GatewayUnavailable,
    Superseded,
)

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_SUPERSEDED",
    "Agent",
    "AgentError",
    "AgentFailure",
    "Checkpoint",
    "CheckpointInfo",
    "DamagedCheckpoint",
    "Environment",
    "GatewayError",
    "GatewayUnavailable",
    "LastFailure",
    "Options",
    "RestoredFile",
    "Retries",
    "Superseded",
    "connect",
    "run",
    "supervise",
]
