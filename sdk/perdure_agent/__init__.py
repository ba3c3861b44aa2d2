"""What runs inside a Perdure agent: restore, checkpoint, progress, result.

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

Without `PERDURE_GATEWAY_URL` the same program runs on a laptop: input from `PERDURE_INPUT`, checkpoints in
`.perdure/`, the result on standard output.
"""

from perdure_agent.agent import Agent, Options, connect
from perdure_agent.checkpoints import Checkpoint
from perdure_agent.environment import Environment
from perdure_agent.errors import AgentError, AgentFailure, GatewayError, GatewayUnavailable, Superseded
from perdure_agent.running import EXIT_INTERRUPTED, EXIT_SUPERSEDED, run, supervise
from perdure_agent.transport import Retries

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_SUPERSEDED",
    "Agent",
    "AgentError",
    "AgentFailure",
    "Checkpoint",
    "Environment",
    "GatewayError",
    "GatewayUnavailable",
    "Options",
    "Retries",
    "Superseded",
    "connect",
    "run",
    "supervise",
]
