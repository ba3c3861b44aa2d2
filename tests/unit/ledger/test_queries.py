"""One file of statements, and what its marks mean."""

from __future__ import annotations

import re

import pytest

from perdure.domain.events import DATA, EventType
from perdure.ledger.queries import SQL, parse

FILE = """-- What this file is about.

-- name: one
select 1


-- name: two
-- $1 a number
select 2
-- with more
    , 3
-- end
from things
    -- with more
    join others
    -- end
    -- with less
    limit 1
    -- end
"""


def test_statements_and_their_variants() -> None:
    assert dict(parse(FILE)) == {
        "one": "select 1",
        "two": "-- $1 a number\nselect 2\nfrom things",
        "two_more": "-- $1 a number\nselect 2\n    , 3\nfrom things\n    join others",
        "two_less": "-- $1 a number\nselect 2\nfrom things\n    limit 1",
    }


def test_fragments_are_put_in_where_they_are_named() -> None:
    text = """-- fragment: columns of thing
-- All of them.
a, b,
c

-- name: one
select d,
    -- columns of thing
from things

-- name: two
-- columns of thing that are mentioned
select 1
"""
    assert dict(parse(text)) == {
        "one": "select d,\n    a, b,\n    c\nfrom things",
        "two": "-- columns of thing that are mentioned\nselect 1",
    }


@pytest.mark.parametrize("name", ["one", "two", "two_more"])
def test_a_name_is_given_once(name: str) -> None:
    with pytest.raises(ValueError, match="twice"):
        parse(f"{FILE}\n-- name: {name}\nselect 4\n")


def test_only_a_commit_with_extras_touches_the_cache_and_the_inbox() -> None:
    assert "perdure.cache" not in SQL["commit"]
    assert "perdure.cache" in SQL["commit_extras"]
    assert "perdure.signal" not in SQL["commit"]
    assert "perdure.signal" in SQL["commit_extras"]
    assert "-- with" not in SQL["commit_extras"] + SQL["commit"]


def test_statements_name_only_known_event_types() -> None:
    """A typo would publish an event under a subject without subscribers."""
    named = {text for statement in SQL.values() for text in re.findall(r"'([a-z]+\.[a-z.]+)'", statement)}
    assert named == {EventType.TASK_CHECKPOINTED, EventType.TASK_PROGRESS}


def test_the_data_of_a_checkpoints_event_are_documented() -> None:
    (data,) = re.findall(r"json_build_object\((.*?)\) as data", SQL["write_checkpoint"], re.DOTALL)
    assert re.findall(r"'(\w+)'", data) == list(DATA[EventType.TASK_CHECKPOINTED])
