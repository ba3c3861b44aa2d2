"""Settings that contradict each other are reported by name before anything starts."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from perdure.settings import Settings


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"lease_duration": 10}, "lease_renew_deadline"),
        ({"lease_renew_deadline": 15}, "lease_renew_deadline"),
        ({"lease_retry": 10}, "lease_retry"),
        ({"lease_duration": 4, "lease_renew_deadline": 2}, "lease_retry"),
    ],
)
def test_a_lease_that_cannot_be_kept_is_refused(settings: dict[str, float], field: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(**settings)
    (problem,) = refused.value.errors()
    assert problem["loc"] == (field,)
    assert "is not less than" in problem["msg"]


def test_a_lease_at_the_edge_is_taken() -> None:
    settings = Settings(lease_duration=4, lease_renew_deadline=3.9, lease_retry=3.8)
    assert settings.lease_retry == 3.8
