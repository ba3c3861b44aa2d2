"""Small manifests whose agents are Python one-liners or the programs in `agents/`."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

AGENTS = Path(__file__).parent / "agents"
#: Has the SDK; so every test agent runs in it, and the node has one image less to unpack.
IMAGE = "perdure/code-audit:dev"
API_VERSION = "perdure.dev/v1alpha1"

Object = dict[str, Any]


def python(source: str, *arguments: str) -> Object:
    """An agent block that runs a Python program."""
    return {"image": IMAGE, "command": ["python", "-c", source], "args": [*arguments]}


def leave(text: str, code: int = 0) -> str:
    """A Python program that leaves a termination message and an exit code, as a plain container does."""
    return f"import sys; open('/dev/termination-log', 'w').write({text!r}); sys.exit({code})"


def step(name: str, agent: Object, **fields: Any) -> Object:
    """One step."""
    return {"name": name, "agent": agent, **fields}


def workflow(name: str, *steps: Object, **fields: Any) -> Object:
    """A Workflow."""
    return _object("Workflow", name, {"steps": list(steps), **fields})


def agenttask(name: str, agent: Object, **fields: Any) -> Object:
    """An AgentTask by itself."""
    return _object("AgentTask", name, {"agent": agent, **fields})


def _object(kind: str, name: str, spec: Object) -> Object:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def counting(name: str, *, agents: int = 2, count: int = 12, **fields: Any) -> Object:
    """A run whose agents count with checkpoints, and whose second step joins what they found.

    `fields` go into the agents' input: `pause` in seconds, `gate`, a number (see `agents/counter.py`).
    """
    source = (AGENTS / "counter.py").read_text()
    join = "import hashlib, json; given = json.load(open('/perdure/input.json'));" + (
        "text = '/'.join(given['chains']); open('/dev/termination-log', 'w')"
        ".write(json.dumps({'joined': hashlib.sha256(text.encode()).hexdigest()}))"
    )
    return workflow(
        name,
        step(
            "count",
            python(source),
            forEach=[f"agent-{number}" for number in range(agents)],
            input={"seed": "${item}", "count": count, **fields},
            retry={"limit": 1},
        ),
        step("join", python(join), input={"chains": "${steps.count.outputs.map(o, o.chain)}"}),
        outputs={"joined": "${steps.join.output.joined}"},
    )


def counted(*, agents: int = 2, count: int = 12) -> Object:
    """The outputs of `counting`, computed here."""
    chains = []
    for agent in range(agents):
        chain = ""
        for number in range(count):
            chain = hashlib.sha256(f"{chain}/agent-{agent}/{number}".encode()).hexdigest()
        chains.append(chain)
    return {"joined": hashlib.sha256("/".join(chains).encode()).hexdigest()}
