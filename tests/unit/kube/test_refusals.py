"""Refusals of creates, as a kube-apiserver 1.36 answered them, and such as no API server has answered yet."""

import json
from pathlib import Path
from typing import Any

import pytest

from perdure.kube.errors import ApiError, ErrorCause, ErrorDetails
from perdure.kube.refusals import RefusalKind, refusal_kind
from perdure.kube.retries import error_of

#: By case: the class, the HTTP status and the `Status` object. Recorded with `POST` of pods (and of
#: AgentTasks for `crd-…`) in namespaces with one policy, quota or webhook each.
ANSWERS: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "refusals.json").read_text())


@pytest.mark.parametrize("case", ANSWERS)
def test_recorded_answers_have_their_class(case: str) -> None:
    answer = ANSWERS[case]
    assert refusal_kind(error_of(answer["status"], answer["body"], None)).value == answer["class"]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (
            'pods "exceeded quota: x" is forbidden: violates PodSecurity "restricted:latest"',
            RefusalKind.DENIED,
        ),
        ('pods "x" is forbidden: no PriorityClass with name exceeded quota: was found', RefusalKind.DENIED),
        ('pods "is forbidden" is forbidden: exceeded quota: q, requested: pods=1', RefusalKind.QUOTA),
    ],
)
def test_words_that_are_part_of_a_name_decide_nothing(message: str, kind: RefusalKind) -> None:
    name = message.split('"')[1]
    error = ApiError(403, "Forbidden", message, details=ErrorDetails(name=name, kind="pods"))
    assert refusal_kind(error) is kind


@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 418, 422])
def test_a_webhook_that_imitates_validation_may_heal(status: int) -> None:
    cause = ErrorCause(reason="FieldValueInvalid", message="unsigned", field="spec.containers[0].image")
    details = ErrorDetails(name="x", kind="Pod", causes=(cause,))
    text = 'admission webhook "a.b" denied the request: Pod "x" is invalid: too large: quota'
    for reason in ("Invalid", "BadRequest", "RequestEntityTooLarge", "Forbidden"):
        error = ApiError(status, reason, text, details=details)
        assert refusal_kind(error) is RefusalKind.DENIED
        assert refusal_kind(ApiError(status, reason, text)) is RefusalKind.DENIED


@pytest.mark.parametrize("body", ["<html>bad gateway</html>", {}, {"details": {"causes": ["x", {}]}}])
@pytest.mark.parametrize("status", [400, 403, 413, 422])
def test_an_answer_of_no_known_shape_may_heal(status: int, body: Any) -> None:
    assert refusal_kind(error_of(status, body, None)) is RefusalKind.DENIED


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_no_answer_is_waited_for(status: int) -> None:
    text = "dial tcp: request is too large: etcdserver: request is too large"
    assert refusal_kind(ApiError(status, "", text)) is RefusalKind.UNAVAILABLE
