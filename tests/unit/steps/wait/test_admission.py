"""The snapshot of a `wait` step."""

from tests.unit.domain.admission.cases import BARE, one


def test_a_wait_takes_no_retries_and_no_timeout_from_the_defaults() -> None:
    assert one({"wait": {"duration": "10s"}}, retry={"limit": 3}, timeout="1m") == {
        "name": "a",
        **BARE,
        "wait": {"duration": "10s"},
    }
