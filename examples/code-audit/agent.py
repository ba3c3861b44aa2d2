"""The audit's three agents in one image. The first argument chooses the agent of this pod."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from code_audit import report, scanner, validation
from code_audit.errors import BadInput
from code_audit.trail import Trail

import perdure_agent
from perdure_agent import Agent, AgentFailure


async def analyse(agent: Agent) -> Any:
    """Examine a batch of files, one checkpoint after each, so that a new attempt repeats none of them."""
    files = scanner.check_names(agent.input.get("files"))
    saved = await agent.restore()
    trail = Trail()
    if saved is not None:
        trail = Trail.load(saved.json()).resumed(attempt=agent.attempt, sequence=saved.sequence)
        say(f"attempt {agent.attempt} goes on from checkpoint {saved.sequence}, {len(trail.done)} files done")
    for file in files:
        if file in trail.done:
            continue
        await agent.progress(100 * len(trail.done) / len(files), f"analysing {file}")
        scan = await scanner.scan(file)
        trail = trail.with_file(file, attempt=agent.attempt, scan=scan)
        sequence = await agent.checkpoint(trail.dump(), label=file)
        say(f"{file}: {len(scan.findings)} findings in {scan.seconds:.1f} s, checkpoint {sequence}")
    return {"batch": agent.input.get("batch", ""), **trail.dump()}


async def validate(agent: Agent) -> Any:
    """Join the batches' findings without repetitions, and without findings below the thresholds."""
    return validation.validate(
        agent.input.get("batches"),
        minimum_severity=agent.input.get("minimumSeverity", "MEDIUM"),
        minimum_confidence=agent.input.get("minimumConfidence", "MEDIUM"),
    )


async def write_report(agent: Agent) -> Any:
    """The audit as a Markdown text."""
    return report.markdown(agent.input["audit"], query=agent.input.get("query", ""))


ROLES: dict[str, Callable[[Agent], Awaitable[Any]]] = {
    "analyse": analyse,
    "validate": validate,
    "report": write_report,
}


async def main() -> None:
    async with perdure_agent.connect() as agent:
        role = ROLES.get(sys.argv[1] if len(sys.argv) > 1 else "")
        if role is None:
            raise AgentFailure(f"args: the first argument must be one of: {', '.join(ROLES)}")
        try:
            output = await role(agent)
        except BadInput as error:
            raise AgentFailure(f"input: {error}") from None
        await agent.result(output)


def say(line: str) -> None:
    """One line of the pod's log."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    perdure_agent.run(main)
