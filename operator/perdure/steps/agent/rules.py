"""The rules of an `agent` step: input and container rendered, attempts that are pods, results and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from perdure.domain.engine.attempt_step import AttemptStep
from perdure.domain.engine.attempts import pod_of
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import Outcome, outcome_of_gone, outcome_of_pod
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.pod_waiting import Waiting, waiting_reason
from perdure.domain.engine.step_kind import ClusterView, Counts
from perdure.domain.engine.task_scope import TaskScope
from perdure.domain.engine.tasks import check_size
from perdure.domain.expressions.templating import Text, compile_value, in_turn, render, render_argument
from perdure.domain.payloads import Payload, payload_of
from perdure.domain.phases import Reason
from perdure.domain.records import AttemptRecord, TaskRecord
from perdure.steps.agent.arguments import check_arguments

#: The kubelet's times are whole seconds, cut off.
_KUBELET_SECOND = timedelta(seconds=1)
#: Fields of the block that may have expressions.
_RENDERED = ("command", "args", "env")


class AgentRules(AttemptStep):
    """An attempt is one pod, of its own or of a Job; the agent in it reports through the gateway."""

    field: ClassVar[str] = "agent"
    counts: ClassVar[Counts] = Counts(parallelism=True, slot=True, objects=True)

    def compile(self, block: Mapping[str, Any]) -> Mapping[str, Any]:
        return {**block, **{name: compile_value(block[name]) for name in _RENDERED if name in block}}

    def prepare(
        self, changes: ChangeSet, step: PlannedStep, task: TaskRecord, scope: TaskScope
    ) -> TaskRecord:
        names = scope.names
        # The block is rendered only to fail before a pod is asked for: the manifests render it again.
        parts: tuple[Callable[..., Any], ...] = (_input, render_agent)
        value, agent = in_turn(lambda part: part(step, names), parts)
        check_arguments(agent)
        return replace(task, input=value)

    def started_at(self, changes: ChangeSet, attempt: AttemptRecord) -> datetime | None:
        """The kubelet's time counts if it is older than now: the operator may have been away meanwhile."""
        pod = pod_of(attempt, changes.observed)
        if pod is not None and pod.started_at is not None:
            return max(attempt.created_at, min(changes.now, pod.started_at + _KUBELET_SECOND))
        return super().started_at(changes, attempt)

    def outcome(self, changes: ChangeSet, step: PlannedStep, attempt: AttemptRecord) -> Outcome | None:
        pod = pod_of(attempt, changes.observed)
        if pod is not None:
            required = step.block.get("result") == "Required"
            return outcome_of_pod(pod, changes.now, result_required=required)
        return super().outcome(changes, step, attempt)

    def gone(self, attempt: AttemptRecord) -> Outcome:
        return outcome_of_gone()

    def attempt_waiting(self, attempt: AttemptRecord, cluster: ClusterView) -> Waiting | None:
        pod = cluster.pods.get(attempt.pod_name)
        if pod is not None and pod.attempt == attempt.number:
            return waiting_reason(pod, cluster.warning(attempt))
        return Reason.STARTING, cluster.warning(attempt) or "the pod is being made"

    def activity(self, attempt: AttemptRecord | None, cluster: ClusterView) -> str:
        if attempt is None or attempt.key not in cluster.unheard:
            return ""
        return f"the agent of attempt {attempt.number} has not reached the gateway since its start"


def _input(step: PlannedStep, names: Mapping[str, Any]) -> Payload | None:
    payload = payload_of(render(step.input, names, "input"))
    check_size(0 if payload is None else payload.size, "input")
    return payload


def render_agent(step: PlannedStep, names: Mapping[str, Any]) -> dict[str, Any]:
    """The agent block with its expressions filled in, ready for a pod.

    Raises ExpressionError, and EvaluationPending if `names` says so of an expression.
    """

    def words(field: str) -> list[str]:
        values = step.block[field]
        return in_turn(
            lambda place: render_argument(values[place], names, f"agent.{field}[{place}]"), range(len(values))
        )

    def variable(given: dict[str, Any]) -> dict[str, Any]:
        value = given.get("value")
        if not isinstance(value, (str, Text)):
            return given
        return {**given, "value": render_argument(value, names, f"agent.env.{given['name']}")}

    fields = [field for field in _RENDERED if field in step.block]
    rendered = in_turn(
        lambda field: in_turn(variable, step.block[field]) if field == "env" else words(field), fields
    )
    return {**step.block, **dict(zip(fields, rendered, strict=True))}
