"""The generator of docs/events.md: `python -m hack.docs.events [--check]`.

Types, their meanings and their data come from `perdure.domain.events`; subject and envelope from an example
event that the publishing code itself encodes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import orjson
from hack.docs.enums import meanings

from perdure.api.codegen.generated import command
from perdure.bus.cloudevents import attributes, encode
from perdure.bus.namespace_rates import BURST, RATE
from perdure.bus.publisher import BATCH
from perdure.bus.stream import STREAM, StreamLimits
from perdure.bus.subjects import PREFIX, run_subjects, subject
from perdure.domain.events import DATA, FIELDS, EventType
from perdure.domain.phases import Reason
from perdure.domain.records import Event

FILE: Final = Path("docs/events.md")

_EXAMPLE: Final = Event(
    workflow_uid="8c2f6c1e-5d0b-4e5e-9a51-0a5d9f3b7c11",
    namespace="team-a",
    workflow="audit",
    kind="Workflow",
    sequence=7,
    type=EventType.TASK_RETRYING,
    time=datetime(2026, 3, 1, 12, 0, 5, 250000, tzinfo=UTC),
    task="audit-review-3-k2xqa",
    attempt=1,
    data={
        "step": "review",
        "index": 3,
        "reason": Reason.EXIT_CODE,
        "message": "the container ended with exit code 1",
        "exitCode": 1,
        "retry": 1,
        "limit": 2,
        "retryAt": "2026-03-01T12:00:06.25+00:00",
    },
)

#: CloudEvents attributes; the envelope of the example must have exactly these.
_ATTRIBUTES: Final = {
    "specversion": "`1.0`.",
    "id": "`<workflowuid>/<sequence>`, the same however often the event is published; also `Nats-Msg-Id`.",
    "source": "Path of the object that was applied: a Workflow, or an AgentTask by itself.",
    "type": "One of the types below.",
    "time": "When the change was decided, RFC 3339 in UTC.",
    "datacontenttype": "`application/json`.",
    "sequence": "Number of the event in its run: 1, 2, 3 … without gaps. Decimal text: integers of"
    " CloudEvents end at 2³¹.",
    "workflowuid": "`metadata.uid` of the object that was applied.",
    "subject": "Name of the AgentTask; left out for events about the run.",
    "task": "The same, as an extension to filter by.",
    "attempt": "Number of the attempt, from 1; left out before the first.",
    "data": "Short facts, listed below. Never a payload: outputs and checkpoints stay in the ledger.",
}

_HEAD: Final = """# Events

Every change of a run is an event, committed in the transaction of the change and numbered within its run.
`perdure events NAMESPACE/NAME [--follow]` reads events from the ledger. The operator publishes them as
CloudEvents 1.0 (JSON) to the JetStream stream `{stream}`: at least once, and those of a run in the order of
their numbers. A stream that was lost is filled again from the ledger. Subscribers recognise a repeated event
by its `id`.

This page is generated from `operator/perdure/domain/events.py`. The set of types only grows, and a type keeps
its meaning: ignore a type that you do not know.

## Many events

Namespaces take turns: a flood of one namespace delays an event of another by the batch under way and one
more (of {batch} events). Of one namespace the operator publishes {burst:,} events at full speed after a
pause, and {rate:g} a second from then on; later ones wait in the ledger, in their order, and none is
lost. The stream keeps events for {age:g} days, and at most {size:g} MiB of them: one namespace at its
rate needs about a quarter of an hour for so many. A subscriber that was away for longer, and finds that
the stream begins after the last event it has received, reads the rest from the ledger (`perdure
events`).

## Subjects

`{prefix}.<namespace>.<name>.<type>`, where the type keeps its dots:

| to receive | subscribe to |
|---|---|
| all events of all namespaces | `{prefix}.>` |
| all events of a namespace | `{prefix}.team-a.>` |
| all events of runs of one name | `{run}` |
| every end of a Workflow that failed | `{failed}` |
| the example below | `{example}` |

## Envelope

| attribute | meaning |
|---|---|
"""


def missing_lines(types: Set[str], data: Mapping[str, Sequence[str]], fields: Mapping[str, str]) -> list[str]:
    """The lines that domain/events.py lacks or has in excess, each with its remedy."""
    used = {name for names in data.values() for name in names}
    here = "in operator/perdure/domain/events.py"
    return [
        *(f"event type {it}: add its line to DATA {here}" for it in sorted(types - data.keys())),
        *(f"data {it}: add its meaning to FIELDS {here}" for it in sorted(used - fields.keys())),
        *(f"data {it}: no event has it; remove it from FIELDS {here}" for it in sorted(fields.keys() - used)),
    ]


def page() -> str:
    """The whole page. Raises ValueError if a type, a field or an attribute lacks its meaning."""
    faults = missing_lines(set(EventType), DATA, FIELDS)
    if faults:
        raise ValueError("; ".join(faults))
    if set(attributes(_EXAMPLE)) != set(_ATTRIBUTES):
        raise ValueError("the attributes of an envelope are not those that the page explains")
    failed = subject("NAMESPACE", "NAME", EventType.WORKFLOW_FAILED).replace("NAMESPACE.NAME", "*.*")
    lines = [
        _HEAD.format(
            batch=BATCH,
            burst=BURST,
            rate=RATE,
            age=StreamLimits().max_age / 86_400,
            size=StreamLimits().max_bytes / 2**20,
            stream=STREAM,
            prefix=PREFIX,
            run=run_subjects("team-a", "audit"),
            failed=failed,
            example=subject(_EXAMPLE.namespace, _EXAMPLE.workflow, _EXAMPLE.type),
        ).rstrip()
    ]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in _ATTRIBUTES.items()]
    example = orjson.dumps(orjson.loads(encode(_EXAMPLE)), option=orjson.OPT_INDENT_2).decode()
    lines += ["", "```json", example, "```", "", "## Types"]
    before = None
    for section, value, meaning in meanings(EventType):
        if section != before:
            lines += ["", f"| {section} | means | `data` |", "|---|---|---|"]
            before = section
        fields = ", ".join(f"`{name}`" for name in DATA[EventType(value)])
        lines.append(f"| `{value}` | {meaning} | {fields} |")
    lines += [
        "",
        "## Data",
        "",
        "A field without a value is left out, unless it says that it is null.",
        "",
    ]
    lines += ["| field | meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in FIELDS.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    try:
        return command("hack.docs.events", FILE, lambda _: page(), arguments)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
