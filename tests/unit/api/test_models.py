"""The models by themselves: durations, quantities, sizes, timestamps, and manifests that survive a round."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from perdure.api.agent import Resources
from perdure.api.base import compact_json, parse_duration
from perdure.api.status import Condition, WorkflowStatus
from perdure.steps.schema import MODELS


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), ("0s", 0), ("87600h", 315_360_000)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "10 s", "-1s", "1d", "s", "1,5h", "10s\n", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 10s"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["87601h", "9" * 31 + "h"])
def test_durations_that_no_date_can_hold(text: str) -> None:
    with pytest.raises(ValueError, match="longer than 87600h"):
        parse_duration(text)


@given(st.from_regex(r"\A([0-9]{1,4}(ms|s|m|h)){1,3}\Z"))
def test_every_duration_of_the_pattern_can_be_added_to_a_date(text: str) -> None:
    assert datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=parse_duration(text))


@pytest.mark.parametrize("value", [0, 2, "2", "500m", "1.5", "2Gi", "1e3", "+1", ".5", "100n", "12E"])
def test_quantities(value: object) -> None:
    assert Resources.model_validate({"limits": {"cpu": value}}).manifest() == {"limits": {"cpu": value}}


@pytest.mark.parametrize(
    "value", [True, 0.5, None, "", "1 Gi", "1,5", "Gi", "1GB", "1Gi\n", "1" * 65, [], {}]
)
def test_what_is_no_quantity(value: object) -> None:
    with pytest.raises(ValidationError, match="quantity in quotes"):
        Resources.model_validate({"limits": {"cpu": value}})


def test_compact_json_counts_utf8() -> None:
    assert compact_json({"a": ["é", 1, None]}) == '{"a":["é",1,null]}'.encode()
    with pytest.raises(ValueError, match="not JSON serializable"):
        compact_json(object())


def test_timestamps_are_utc_in_whole_seconds() -> None:
    time = datetime(2026, 11, 21, 9, 4, 26, 999_999, tzinfo=timezone(timedelta(hours=1)))
    status = WorkflowStatus(
        started_at=time,
        conditions=[Condition(type="Ready", status="False", last_transition_time=time, reason="Dependency")],
    )
    assert status.manifest() == {
        "startedAt": "2026-11-21T08:04:26Z",
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "lastTransitionTime": "2026-11-21T08:04:26Z",
                "reason": "Dependency",
            }
        ],
    }


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


@given(
    inputs=st.dictionaries(st.text(), json_values, max_size=3),
    input=json_values.filter(lambda value: value is not None),
)
def test_a_spec_survives_a_round_through_its_manifest(inputs: dict[str, object], input: object) -> None:
    manifest = {
        "inputs": inputs,
        "steps": [{"name": "a", "agent": {"image": "i"}, "input": input}],
        "outputs": {"result": None},
    }
    spec = MODELS.workflow.model_validate(manifest)
    assert spec.manifest() == manifest
    assert MODELS.workflow.model_validate(spec.manifest()) == spec
