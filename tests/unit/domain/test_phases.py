"""The tables of transitions, and phases and reasons as closed sets."""

import copy

import orjson
import pytest

from perdure.domain.phases import (
    END_TRIGGERS,
    RUN,
    STEP,
    TASK,
    TERMINAL,
    IllegalTransition,
    Phase,
    Reason,
    Transitions,
    Trigger,
    check_transition,
    successors,
)

TABLES = {"run": RUN, "step": STEP, "task": TASK}
#: All changes of phase that a run, a step or a task may make; each table has some of them.
ALLOWED = {
    ("Pending", "Running"),
    ("Pending", "Paused"),
    ("Pending", "Succeeded"),
    ("Pending", "Failed"),
    ("Pending", "Cancelled"),
    ("Pending", "Skipped"),
    ("Running", "Pending"),
    ("Running", "Paused"),
    ("Running", "Succeeded"),
    ("Running", "Failed"),
    ("Running", "Cancelled"),
    ("Paused", "Pending"),
    ("Paused", "Running"),
    ("Paused", "Succeeded"),
    ("Paused", "Failed"),
    ("Paused", "Cancelled"),
    ("Paused", "Skipped"),
}

tables = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)


def phases_of(table: Transitions) -> set[Phase]:
    return {before for before, _ in table} | set(table.values())


@tables
@pytest.mark.parametrize("before", list(Phase))
@pytest.mark.parametrize("trigger", list(Trigger))
def test_a_trigger_leads_to_one_phase(table: Transitions, before: Phase, trigger: Trigger) -> None:
    for after in Phase:
        if after is before or table.get((before, trigger)) is after:
            check_transition(table, before, trigger, after)
        else:
            with pytest.raises(IllegalTransition, match=f"{before.value} -> {after.value} by {trigger}"):
                check_transition(table, before, trigger, after)


@tables
def test_no_phase_changes_without_a_trigger(table: Transitions) -> None:
    for (before, _), after in table.items():
        check_transition(table, before, None, before)
        with pytest.raises(IllegalTransition, match="no trigger"):
            check_transition(table, before, None, after)


def test_the_tables_together_have_every_change_of_phase() -> None:
    changes = {
        (before.value, after.value) for table in TABLES.values() for (before, _), after in table.items()
    }
    assert changes == ALLOWED


@tables
def test_a_phase_is_terminal_exactly_if_nothing_follows(table: Transitions) -> None:
    assert {phase for phase in phases_of(table) if not successors(table, phase)} == phases_of(
        table
    ) & TERMINAL
    assert all(phase.terminal == (phase in TERMINAL) for phase in Phase)


@tables
def test_every_phase_of_a_table_can_be_reached(table: Transitions) -> None:
    reached = {Phase.PENDING}
    while more := {after for before in reached for after in successors(table, before)} - reached:
        reached |= more
    assert reached == phases_of(table)


@tables
def test_every_phase_that_is_live_can_fail_and_be_cancelled(table: Transitions) -> None:
    for phase in phases_of(table) - TERMINAL:
        assert {Phase.FAILED, Phase.CANCELLED} <= successors(table, phase)


@tables
def test_the_trigger_of_an_end_leads_there_from_wherever_it_applies(table: Transitions) -> None:
    assert END_TRIGGERS.keys() == TERMINAL
    for (_, trigger), after in table.items():
        if trigger in END_TRIGGERS.values():
            assert END_TRIGGERS[after] is trigger
        else:
            assert not after.terminal


def test_phases_that_some_objects_never_have() -> None:
    assert set(Phase) - phases_of(RUN) == {Phase.SKIPPED}
    assert set(Phase) - phases_of(STEP) == {Phase.PAUSED}
    assert set(Phase) == phases_of(TASK)


def test_only_what_has_not_started_is_skipped() -> None:
    for table in TABLES.values():
        assert (Phase.RUNNING, Trigger.SKIP) not in table


def test_phases_and_reasons_are_words_that_conditions_may_hold() -> None:
    for word in (*Phase, *Reason):
        assert word.value.isalpha()
        assert word.value[0].isupper()
        assert len(word.value) <= 63


@pytest.mark.parametrize("text", ["ReasonOfTheNextVersion", "", "exitcode", "Ü"])
def test_a_reason_of_a_newer_version_is_kept_as_text(text: str) -> None:
    reason = Reason.kept(text)
    assert (reason, reason.value, str(reason), orjson.loads(orjson.dumps(reason))) == (text,) * 4
    assert isinstance(reason, Reason)
    assert reason not in set(Reason)
    assert {Reason.kept(text)} == {reason}
    assert copy.deepcopy(reason) == reason
    with pytest.raises(ValueError):
        Reason(text)


def test_a_known_reason_is_its_member() -> None:
    assert all(Reason.kept(reason.value) is reason for reason in Reason)
