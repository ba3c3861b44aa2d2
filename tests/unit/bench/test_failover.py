"""Which pod shows that another leader has begun to act."""

from __future__ import annotations

from tests.bench.b8_failover import first_action
from tests.bench.chains import PodSeen


def pod(workflow: str, step: str, created: float, ended: float | None = None) -> PodSeen:
    return PodSeen(f"{workflow}-{step}", workflow, step, created, ended=ended)


def test_a_pod_whose_reason_precedes_the_kill_may_be_the_dead_leaders() -> None:
    pods = [pod("a", "s01", 1, ended=9.9), pod("a", "s02", 10.1)]
    assert first_action(pods, after=10) is None


def test_the_first_pod_with_a_later_reason_counts() -> None:
    pods = [
        pod("a", "s01", 1, ended=9.9),
        pod("a", "s02", 10.1, ended=10.5),
        pod("a", "s03", 14.2),
        pod("b", "s01", 9, ended=10.2),
        pod("b", "s02", 14.1),
    ]
    assert first_action(pods, after=10) == 14.1
