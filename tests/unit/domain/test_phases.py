"""The table of phases, and the reasons as a closed set."""

import pytest

from perdure.domain.phases import TERMINAL, TRANSITIONS, IllegalTransition, Phase, Reason, check_transition

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


@pytest.mark.parametrize("before", list(Phase))
@pytest.mark.parametrize("after", list(Phase))
def test_the_table(before: Phase, after: Phase) -> None:
    if before is after or (before.value, after.value) in ALLOWED:
        check_transition(before, after)
    else:
        with pytest.raises(IllegalTransition, match=f"{before.value} -> {after.value}"):
            check_transition(before, after)


def test_every_phase_is_in_the_table_and_terminal_exactly_if_nothing_follows() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {phase for phase in Phase if not TRANSITIONS[phase]} == TERMINAL
    assert all(phase.terminal == (phase in TERMINAL) for phase in Phase)


def test_every_phase_can_be_reached() -> None:
    reached = {Phase.PENDING}
    while more := {after for before in reached for after in TRANSITIONS[before]} - reached:
        reached |= more
    assert reached == set(Phase)


def test_phases_and_reasons_are_words_that_conditions_may_hold() -> None:
    for word in (*Phase, *Reason):
        assert word.value.isalpha()
        assert word.value[0].isupper()
        assert len(word.value) <= 63
