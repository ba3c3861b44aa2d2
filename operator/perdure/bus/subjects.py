"""The subjects of events in JetStream.

Pure, and the only place that knows their form, so that publishers and subscribers agree.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

PREFIX: Final = "perdure.events"
#: The subjects that the stream stores.
ALL: Final = f"{PREFIX}.>"

#: One token of a subject: no dot, no wildcard, no character that could end a line of the protocol.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+")
_TYPE: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class EventSubject(NamedTuple):
    """The parts of a subject. `workflow` is the name of the run, whatever its kind."""

    namespace: str
    workflow: str
    type: str


def _token(field: str, value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"{field} {value!r} is no word of a subject: use letters, digits, '-' and '_'")
    return value


def subject(namespace: str, workflow: str, type_: str) -> str:
    """`perdure.events.<namespace>.<workflow>.<type>`; the type keeps its dots. Raises ValueError."""
    if not _TYPE.fullmatch(type_):
        raise ValueError(f"type {type_!r} is no event type: use words of letters and digits joined by dots")
    return f"{run_subjects(namespace, workflow)[:-1]}{type_}"


def run_subjects(namespace: str, workflow: str) -> str:
    """The wildcard for every event of runs of this name. Raises ValueError."""
    return f"{PREFIX}.{_token('namespace', namespace)}.{_token('workflow', workflow)}.>"


def parse_subject(text: str) -> EventSubject:
    """The inverse of `subject`. Raises ValueError for a subject that `subject` does not make."""
    tokens = text.split(".", 4)
    if len(tokens) < 5 or f"{tokens[0]}.{tokens[1]}" != PREFIX:
        raise ValueError(f"{text!r} is not {PREFIX}.<namespace>.<workflow>.<type>")
    parsed = EventSubject(tokens[2], tokens[3], tokens[4])
    subject(*parsed)  # refuses what `subject` would never have made
    return parsed
