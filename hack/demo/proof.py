"""Computes, from the ledger's events and the agents' journals, whether the run kept its promises.

Pure, so that the tests can show that it notices when a promise is broken.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Kill:
    """The kill of an agent: the attempt that the demo killed, and how."""

    task: str
    attempt: int
    #: The action, as text for people.
    how: str


@dataclass(frozen=True)
class Check:
    """A promise of the demo; `text` names the evidence."""

    holds: bool
    text: str


@dataclass(frozen=True)
class Batch:
    """An analyse task: the files of its input, and its result (None without a result)."""

    task: str
    files: Sequence[str]
    output: Any


def batches(workflow: Mapping[str, Any], tasks: Iterable[Mapping[str, Any]]) -> list[Batch]:
    """The analyse tasks of a run, from the objects that kubectl shows."""
    given = workflow["spec"]["inputs"]["batches"]
    found = {}
    for task in tasks:
        labels = task["metadata"].get("labels", {})
        if labels.get("perdure.dev/step") == "analyse" and "perdure.dev/index" in labels:
            found[int(labels["perdure.dev/index"])] = task
    return [
        Batch(found[index]["metadata"]["name"], batch["files"], found[index].get("status", {}).get("output"))
        if index in found
        else Batch(f"(no task for batch {index})", batch["files"], None)
        for index, batch in enumerate(given)
    ]


def examine(events: Sequence[Event], work: Sequence[Batch], kill: Kill) -> list[Check]:
    """Every promise of the demo, held against the evidence."""
    return [
        _numbered(events),
        _resumed_by_the_ledger(events, kill),
        _resumed_by_the_agent(events, work, kill),
        *(_once(events, batch) for batch in work),
        _one_result(events, work),
    ]


def checkpoints(events: Sequence[Event], task: str) -> list[Event]:
    """The task's checkpoints, in order, of all attempts."""
    return [event for event in events if event["type"] == "task.checkpointed" and event.get("task") == task]


def last_checkpoint(events: Sequence[Event], kill: Kill) -> int:
    """Number of the killed attempt's last checkpoint; 0 if it had none."""
    numbers = [
        int(event["data"]["sequence"])
        for event in checkpoints(events, kill.task)
        if int(event["attempt"]) <= kill.attempt
    ]
    return max(numbers, default=0)


def in_hand(events: Sequence[Event], kill: Kill) -> str:
    """The last progress message of the killed attempt."""
    said = [
        str(event["data"].get("message") or "")
        for event in events
        if event["type"] == "task.progress"
        and event.get("task") == kill.task
        and int(event["attempt"]) == kill.attempt
    ]
    return said[-1] if said else ""


def _numbered(events: Sequence[Event]) -> Check:
    numbers = [int(event["sequence"]) for event in events]
    holds = bool(numbers) and numbers == list(range(1, len(numbers) + 1))
    last = max(numbers, default=0)
    gap = "without a gap" if holds else "with a gap, or out of order"
    return Check(holds, f"ledger: the run's {len(numbers)} events are numbered 1 to {last} {gap}")


def _resumed_by_the_ledger(events: Sequence[Event], kill: Kill) -> Check:
    last = last_checkpoint(events, kill)
    later = [event for event in checkpoints(events, kill.task) if int(event["attempt"]) > kill.attempt]
    first = later[0] if later else None
    ended = any(
        event["type"] in {"task.retrying", "task.disrupted"}
        and event.get("task") == kill.task
        and int(event["attempt"]) == kill.attempt
        for event in events
    )
    text = f"ledger: attempt {kill.attempt} of {kill.task} ended after checkpoint {last}"
    if first is None:
        return Check(False, f"{text}, and no later attempt saved one")
    number, attempt = int(first["data"]["sequence"]), int(first["attempt"])
    holds = ended and last > 0 and number == last + 1
    label = first["data"]["label"]
    return Check(holds, f"{text}; the first one of attempt {attempt} is number {number}, of {label}")


def _resumed_by_the_agent(events: Sequence[Event], work: Sequence[Batch], kill: Kill) -> Check:
    last = last_checkpoint(events, kill)
    output = next((batch.output for batch in work if batch.task == kill.task), None)
    resumptions = output.get("resumptions", []) if isinstance(output, dict) else []
    said = [f"attempt {entry['attempt']} from checkpoint {entry['checkpoint']}" for entry in resumptions]
    holds = {"attempt": kill.attempt + 1, "checkpoint": last} in resumptions
    return Check(holds, f"agent: its own journal says that it went on: {', '.join(said) or 'never'}")


def _once(events: Sequence[Event], batch: Batch) -> Check:
    """Each file of a batch was finished exactly once, in both records, by the same attempt."""
    ledger = [(event["data"]["label"], int(event["attempt"])) for event in checkpoints(events, batch.task)]
    output = batch.output if isinstance(batch.output, dict) else {}
    journal = [(entry["file"], int(entry["attempt"])) for entry in output.get("journal", [])]
    wrong = []
    for name, record in (("ledger", ledger), ("journal", journal)):
        counts = Counter(file for file, _ in record)
        wrong += [f"{file} {counts[file]} times in the {name}" for file in batch.files if counts[file] != 1]
        wrong += [f"{file} of no batch in the {name}" for file in counts if file not in batch.files]
    if not wrong and ledger != journal:
        wrong = ["ledger and journal name different attempts or another order"]
    by = Counter(attempt for _, attempt in ledger)
    share = " + ".join(f"{count} by attempt {attempt}" for attempt, count in sorted(by.items()))
    text = f"both: {batch.task}: {len(ledger)} files finished ({share})"
    return Check(not wrong, f"{text}, each exactly once" if not wrong else f"{text}: {'; '.join(wrong)}")


def _one_result(events: Sequence[Event], work: Sequence[Batch]) -> Check:
    counts = Counter(event.get("task") for event in events if event["type"] == "task.succeeded")
    wrong = [f"{batch.task} {counts[batch.task]}" for batch in work if counts[batch.task] != 1]
    tasks = len(counts)
    text = f"ledger: {tasks} tasks succeeded, each exactly once"
    return Check(not wrong, text if not wrong else f"ledger: results per task: {', '.join(wrong)}")
