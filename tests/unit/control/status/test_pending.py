"""Which of a run's tasks have their statuses written, and when."""

from datetime import timedelta

from tests.unit.control.loop_fixture import ControlLoopFixture, played
from tests.unit.domain.runs import SUCCESS

from perdure.control.status.pending import more_is_due_in, writes_of_live
from perdure.control.status.status_writer import StatusWrite
from perdure.domain.records import AGENT_TASK, TaskKey

A, B = TaskKey("a"), TaskKey("b")
PATIENCE = timedelta(seconds=4)


def writes(stage: ControlLoopFixture) -> list[StatusWrite]:
    root = stage.store.roots[stage.live.key]
    return writes_of_live(stage.live, root, stage.store, stage.history.now, patience=PATIENCE)


def tasks(stage: ControlLoopFixture) -> dict[str, str]:
    """The phases that are written of tasks, by step."""
    names = {task.name: key.step for key, task in stage.history.view.tasks.items()}
    return {names[write.name]: write.after["phase"] for write in writes(stage) if write.kind == AGENT_TASK}


def more(stage: ControlLoopFixture) -> float | None:
    return more_is_due_in(stage.live, stage.history.now, patience=PATIENCE)


def test_what_a_task_only_passes_through_is_not_written() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a"}, {"name": "b"})
        await stage.ensure()
        stage.live.published.mark_dirty([A, B], stage.history.now)
        assert tasks(stage) == {} and more(stage) == 4.0
        stage.history.now += timedelta(seconds=3)
        stage.history.reported(A, SUCCESS)
        stage.live.published.mark_dirty([A], stage.history.now)
        assert more(stage) == 0.0
        assert tasks(stage) == {"a": "Succeeded"}, "an end is written at once, and what came before it never"

    played(scenario())


def test_where_a_task_stays_is_written() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a"}, {"name": "b"})
        await stage.ensure()
        stage.live.published.mark_dirty([B], stage.history.now)
        stage.history.now += timedelta(seconds=3)
        # Another change begins no other wait.
        stage.live.published.mark_dirty([B], stage.history.now)
        assert tasks(stage) == {} and more(stage) == 1.0
        stage.history.now += timedelta(seconds=1)
        assert tasks(stage) == {"b": "Pending"}
        assert more(stage) is None

    played(scenario())


def test_a_task_whose_write_was_refused_keeps_its_time() -> None:
    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a"})
        await stage.ensure()
        stage.live.published.mark_dirty([A], stage.history.now)
        stage.history.now += timedelta(seconds=4)
        (write,) = (write for write in writes(stage) if write.kind == AGENT_TASK)
        assert more(stage) is None
        write.missed()
        assert tasks(stage) == {"a": "Pending"}

    played(scenario())


def test_one_that_has_no_object_is_forgotten() -> None:
    """It is marked again when its object comes to light."""

    async def scenario() -> None:
        stage = ControlLoopFixture({"name": "a"})
        stage.live.published.mark_dirty([A, TaskKey("gone")], stage.history.now)
        stage.history.now += timedelta(seconds=4)
        assert tasks(stage) == {} and more(stage) is None

    played(scenario())
