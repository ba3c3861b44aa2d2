"""The demo's proof notices when a promise is broken."""

from __future__ import annotations

import copy

import pytest
from hack.demo import events as log
from hack.demo import proof
from hack.demo.proof import Batch, Kill

FILES = ("a.py", "b.py", "c.py", "d.py")
KILL = Kill("run-0", 1, "kill -9")


def _story():
    """Two tasks of four files; the first one's attempt 1 is killed after its second checkpoint."""
    facts = [("workflow.created", None, None, {}), ("workflow.started", None, None, {})]
    for task in ("run-0", "run-1"):
        facts.append(("task.scheduled", task, 1, {}))
        facts.append(("task.started", task, 1, {}))
    for task in ("run-0", "run-1"):
        for number, file in enumerate(FILES, 1):
            attempt = 2 if task == "run-0" and number > 2 else 1
            facts.append(("task.progress", task, attempt, {"message": f"analysing {file}"}))
            facts.append(("task.checkpointed", task, attempt, {"sequence": number, "label": file}))
            if task == "run-0" and number == 2:
                facts.append(("task.progress", task, 1, {"message": "analysing c.py"}))
                facts.append(("task.retrying", task, 1, {"exitCode": 137}))
                facts.append(("task.started", task, 2, {}))
        facts.append(("task.succeeded", task, attempt, {}))
    facts.append(("workflow.succeeded", None, None, {}))
    events = []
    for sequence, (kind, task, attempt, data) in enumerate(facts, 1):
        event = {"type": kind, "sequence": str(sequence), "data": data, "time": "2026-01-01T00:00:00Z"}
        if task:
            event |= {"task": task, "attempt": attempt}
        events.append(event)
    journals = [[(file, 1 if file < "c.py" else 2) for file in FILES], [(file, 1) for file in FILES]]
    resumptions = [[{"attempt": 2, "checkpoint": 2}], []]
    work = [
        Batch(
            f"run-{number}",
            FILES,
            {
                "journal": [{"file": file, "attempt": attempt} for file, attempt in journal],
                "resumptions": resumptions[number],
            },
        )
        for number, journal in enumerate(journals)
    ]
    return events, work


def _failed(events, work, kill=KILL):
    return [check.text for check in proof.examine(events, work, kill) if not check.holds]


def test_a_run_that_kept_every_promise_passes():
    events, work = _story()
    checks = proof.examine(events, work, KILL)
    assert all(check.holds for check in checks)
    text = "\n".join(check.text for check in checks)
    assert "attempt 1 of run-0 ended after checkpoint 2; the first one of attempt 2 is number 3" in text
    assert "run-0: 4 files finished (2 by attempt 1 + 2 by attempt 2), each exactly once" in text
    assert "2 tasks succeeded, each exactly once" in text
    assert proof.in_hand(events, KILL) == "analysing c.py"


def _find(events, kind, task, number=0):
    return [event for event in events if event["type"] == kind and event.get("task") == task][number]


def _drop_event(events, work):
    del events[3]


def _swap_events(events, work):
    events[0], events[1] = events[1], events[0]


def _file_twice_in_ledger(events, work):
    _find(events, "task.checkpointed", "run-0", 2)["data"]["label"] = "b.py"


def _file_twice_in_journal(events, work):
    work[0].output["journal"].append({"file": "a.py", "attempt": 2})


def _file_never_in_journal(events, work):
    work[1].output["journal"].pop()


def _journal_contradicts_ledger(events, work):
    work[0].output["journal"][0]["attempt"] = 2


def _started_afresh(events, work):
    _find(events, "task.checkpointed", "run-0", 2)["data"]["sequence"] = 1


def _checkpoint_lost(events, work):
    _find(events, "task.checkpointed", "run-0", 2)["data"]["sequence"] = 4


def _agent_did_not_resume(events, work):
    work[0].output["resumptions"].clear()


def _agent_resumed_elsewhere(events, work):
    work[0].output["resumptions"][0]["checkpoint"] = 1


def _attempt_never_ended(events, work):
    _find(events, "task.retrying", "run-0")["type"] = "task.started"


def _two_results(events, work):
    _find(events, "task.scheduled", "run-1")["type"] = "task.succeeded"


def _no_result(events, work):
    _find(events, "task.succeeded", "run-1")["type"] = "task.started"


def _no_output(events, work):
    work[1] = Batch("run-1", FILES, None)


@pytest.mark.parametrize(
    ("breaks", "evidence"),
    [
        (_drop_event, "with a gap"),
        (_swap_events, "out of order"),
        (_file_twice_in_ledger, "b.py 2 times in the ledger"),
        (_file_twice_in_journal, "a.py 2 times in the journal"),
        (_file_never_in_journal, "d.py 0 times in the journal"),
        (_journal_contradicts_ledger, "name different attempts"),
        (_started_afresh, "is number 1"),
        (_checkpoint_lost, "is number 4"),
        (_agent_did_not_resume, "went on: never"),
        (_agent_resumed_elsewhere, "attempt 2 from checkpoint 1"),
        (_attempt_never_ended, "ended after checkpoint 2"),
        (_two_results, "run-1 2"),
        (_no_result, "run-1 0"),
        (_no_output, "a.py 0 times in the journal"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_broken_promise_is_reported(breaks, evidence):
    events, work = copy.deepcopy(_story())
    breaks(events, work)
    failed = _failed(events, work)
    assert failed
    assert any(evidence in text for text in failed), failed


def test_an_empty_history_proves_nothing():
    _, work = _story()
    assert len(_failed([], work)) == len(proof.examine([], work, KILL))


def test_tasks_are_matched_to_batches_by_index():
    workflow = {"spec": {"inputs": {"batches": [{"files": ["a.py"]}, {"files": ["b.py"]}]}}}
    labels = {"perdure.dev/step": "analyse"}
    tasks = [
        {"metadata": {"name": "y", "labels": {**labels, "perdure.dev/index": "1"}}, "status": {"output": 5}},
        {"metadata": {"name": "r", "labels": {"perdure.dev/step": "report"}}},
    ]
    assert proof.batches(workflow, tasks) == [
        Batch("(no task for batch 0)", ["a.py"], None),
        Batch("y", ["b.py"], 5),
    ]


def test_events_are_printed_as_lines():
    event = {
        "type": "task.retrying",
        "time": "2026-01-01T00:00:02.5Z",
        "sequence": "9",
        "task": "run-0",
        "attempt": 1,
        "data": {"reason": "ExitCode", "message": "exit code 137: one\ntwo"},
    }
    line = log.line(event, start="2026-01-01T00:00:00Z")
    assert line == "    2.5 s  task.retrying       run-0  attempt 1  ExitCode  exit code 137: one"
