"""The registry of event types: each has a meaning and its data, and the last ones of a run are known."""

from perdure.domain.events import DATA, FIELDS, TASK_ENDED, WORKFLOW_ENDED, EventType
from perdure.domain.phases import TERMINAL, Phase


def test_every_type_says_what_its_data_are() -> None:
    assert list(DATA) == list(EventType)
    assert {name for fields in DATA.values() for name in fields} == FIELDS.keys()


def test_every_end_has_its_event() -> None:
    assert TASK_ENDED.keys() == TERMINAL
    assert WORKFLOW_ENDED.keys() == TERMINAL - {Phase.SKIPPED}
    for phase, type_ in TASK_ENDED.items():
        assert type_ == f"task.{phase.value.lower()}"
    for phase, type_ in WORKFLOW_ENDED.items():
        assert type_ == f"workflow.{phase.value.lower()}"


def test_a_type_is_about_a_workflow_or_a_task() -> None:
    for type_ in EventType:
        subject, _, word = type_.value.partition(".")
        assert subject in ("workflow", "task")
        assert word.isalpha()
        assert type_.about_workflow == (subject == "workflow")
