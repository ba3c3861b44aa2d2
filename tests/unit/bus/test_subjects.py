"""The subjects of events, which subscribers outside rely on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.bus.subjects import ALL, EventSubject, parse_subject, run_subjects, subject
from perdure.domain.events import EventType

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
types = st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9}){1,3}", fullmatch=True)


@given(names, names, types)
def test_a_subject_reads_back_as_its_parts(namespace: str, workflow: str, type_: str) -> None:
    text = subject(namespace, workflow, type_)
    assert text == f"perdure.events.{namespace}.{workflow}.{type_}"
    assert parse_subject(text) == EventSubject(namespace, workflow, type_)
    assert text.startswith(ALL.removesuffix(">"))
    assert text.startswith(run_subjects(namespace, workflow).removesuffix(">"))


@pytest.mark.parametrize(
    "word", ["", "a.b", "*", ">", "a b", "a\r\nPUB x 0\r\n", "a\n", "ü"], ids=lambda word: repr(word)
)
def test_a_word_that_would_change_the_subject_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        subject(word, "audit", "task.started")
    with pytest.raises(ValueError, match="workflow"):
        run_subjects("team-a", word)
    if "." not in word:
        with pytest.raises(ValueError, match="type"):
            subject("team-a", "audit", word)


@pytest.mark.parametrize(
    "text",
    [
        "perdure.events",
        "perdure.events.team-a.audit",
        "perdure.events.team-a.audit.",
        "perdure.other.team-a.audit.task.started",
        "perdure.events.team-a.audit.task..started",
        "perdure.events.*.audit.task.started",
    ],
)
def test_foreign_subjects_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_subject(text)


@pytest.mark.parametrize("type_", EventType)
def test_every_event_type_has_a_subject(type_: EventType) -> None:
    assert parse_subject(subject("team-a", "audit", type_)) == EventSubject("team-a", "audit", type_)
