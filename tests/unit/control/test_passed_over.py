"""What the guard around one object lets through, and what it passes over."""

import asyncio

import pytest

from perdure.control.passed_over import PassedOver
from perdure.domain.records import Deposed
from perdure.kube.errors import ApiError


@pytest.mark.parametrize(
    "error",
    [
        Deposed("another leads"),
        asyncio.CancelledError(),
        BaseExceptionGroup("tasks", [Deposed("a"), Deposed("b")]),
        BaseExceptionGroup("tasks", [BaseExceptionGroup("more", [Deposed("a")]), ApiError(500, "", "")]),
    ],
)
def test_another_leader_ends_the_loop(error: BaseException) -> None:
    guard = PassedOver()
    with pytest.raises(type(error)), guard.guard("status", "x"):
        raise error
    assert guard.summary() == []


@pytest.mark.parametrize(
    "error", [ValueError(), ExceptionGroup("tasks", [ApiError(500, "", ""), ValueError()])]
)
def test_what_one_object_triggers_is_passed_over(error: Exception) -> None:
    guard = PassedOver()
    with guard.guard("status", "x"):
        raise error
    assert guard.summary() == ["status: passed over 1 times"]
