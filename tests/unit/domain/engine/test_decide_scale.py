"""The tasks that a decision reads in a run of many: those with changes, and not all."""

from collections.abc import Iterator
from typing import Any

import pytest
from tests.unit.domain.answering import answered
from tests.unit.domain.builders import view_of_plan
from tests.unit.domain.cases import step
from tests.unit.domain.runs import Run

from perdure.domain.engine.decide import Decision, decide
from perdure.domain.engine.observed import Observed
from perdure.domain.engine.pod_facts import ContainerExit
from perdure.domain.phases import Phase
from perdure.domain.records import TaskKey

COUNT = 1000
NEW = TaskKey("a", 500)


class Counted(dict[Any, Any]):
    """A dictionary that counts what is looked up."""

    lookups = 0

    def __getitem__(self, key: Any) -> Any:
        self.lookups += 1
        return super().__getitem__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        self.lookups += 1
        return super().get(key, default)


class Opaque(set[Any]):
    """A set that must not be iterated."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the decision reads all tasks")


def commit(run: Run, observed: Observed | None = None) -> Decision:
    """A decision, committed without all the checks, which go through every task each time."""
    decision = decide(run.view, answered(run.view, observed or Observed(), run.now), run.now)
    if decision.commit is not None:
        run._commit(decision.commit)
    return decision


def run_of(**fields: Any) -> Run:
    run = Run(view_of_plan(step("a", forEach=f"${{lists.range({COUNT})}}", **fields), step("b", "a")))
    while commit(run).more:
        pass
    return run


def lookups_of(run: Run, observed: Observed) -> int:
    """How many tasks and attempts a decision looks up; and it must not go through all of them."""
    view = run.view
    view.tasks, view.attempts = Counted(view.tasks), Counted(view.attempts)
    for name in ("live", "open", "delayed"):
        setattr(view, name, Opaque(getattr(view, name)))
    assert decide(view, observed, run.now).commit is not None
    return view.tasks.lookups + view.attempts.lookups


@pytest.mark.parametrize("fields", [{}, {"timeout": "1h", "pendingTimeout": "1h"}])
def test_one_end_among_many_that_run(fields: dict[str, str]) -> None:
    run = run_of(**fields)
    commit(run, Observed(pods={key: run.pod(key) for key in run.tasks}))
    ends = ContainerExit(code=0, reason="Completed", message="")
    assert lookups_of(run, Observed(pods={NEW: run.pod(NEW, exit=ends)})) < 20


def test_one_start_among_many_that_wait_for_their_retries() -> None:
    run = run_of(retry={"limit": 1, "backoff": {"initial": "1h", "max": "1h"}})
    ends = ContainerExit(code=1, reason="Error", message="")
    failed = {key: run.pod(key, exit=ends) for key in run.tasks if key != NEW}
    commit(run, Observed(pods=failed))
    assert len(run.view.delays.ranks) == COUNT - 1
    assert lookups_of(run, Observed(pods={NEW: run.pod(NEW)})) < 20


def test_one_moment_among_many_that_wait_for_theirs() -> None:
    run = run_of(wait={"duration": "${string(index + 1) + 's'}"})
    run.now = run.moment(1)
    assert lookups_of(run, Observed()) < 20
    assert commit(run).requeue_at == run.moment(1)
    assert run.tasks[TaskKey("a", 0)].phase is Phase.SUCCEEDED
