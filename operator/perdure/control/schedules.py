"""One pass over a WorkflowSchedule: observe its runs, decide, cancel, create, write the status, delete.

The ledger has no schedules: the status is a schedule's only memory, and is written after the runs are
created. A pass that is interrupted is repeated. Names of runs follow from the scheduled times, so a repeated
create is idempotent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import structlog

from perdure.api import API_VERSION, GROUP
from perdure.api.custom_resources import AGENT_TEMPLATE
from perdure.api.spec_models import SpecModels
from perdure.api.status import timestamp
from perdure.api.validation.checked import Checked
from perdure.api.validation.parse import check_workflowschedule
from perdure.api.validation.problems import InvalidManifest, ManifestProblem
from perdure.api.workflowschedule import WorkflowScheduleSpec
from perdure.control.cluster_cache.run_key import SCHEDULE, RunKey
from perdure.control.cluster_cache.run_objects import Root
from perdure.control.cluster_cache.store import Store
from perdure.control.ports import KubePort
from perdure.control.status.status_writer import status_patch
from perdure.domain.admission.accept import check_workflow_spec
from perdure.domain.admission.context import Admission
from perdure.domain.admission.templates import StoredTemplates
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.pod_facts import read_time
from perdure.domain.kube_objects import controller_reference, is_controlled_by
from perdure.domain.names import LABEL_MANAGED_BY, MANAGED_BY
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import WORKFLOW
from perdure.domain.schedules.schedule import (
    DueRun,
    ScheduleDecision,
    ScheduledRun,
    ScheduleFacts,
    decide_schedule,
)
from perdure.kube.errors import ApiError

#: Label and annotation of the runs of a schedule: its name, and the time that the run is for.
LABEL_SCHEDULE: Final = f"{GROUP}/schedule"
ANNOTATION_TIME: Final = f"{GROUP}/scheduled-time"
#: Seconds until a create that was refused is tried again.
REFUSED_RETRY: Final = 30.0
#: Longest seconds between two passes: the wall clock may have been set.
LONGEST_WAIT: Final = 300.0
#: Live runs that a status lists, the newest ones.
MAX_ACTIVE: Final = 100
MAX_MESSAGE: Final = 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Why a schedule creates no runs."""

    reason: Reason
    message: str
    #: False if the schedule can create runs only after a change of its spec.
    accepted: bool = True


class ScheduleReconciler:
    """The reconciler of schedules. Used by one leader at a time; stateless."""

    def __init__(
        self,
        *,
        store: Store,
        kube: KubePort,
        clock: Callable[[], datetime],
        wake: Callable[[RunKey], None],
        models: SpecModels,
    ) -> None:
        """`wake` enqueues a run that a pass has created or changed: its event will carry nothing new."""
        self._store = store
        self._wake = wake
        self._kube = kube
        self._clock = clock
        self._models = models

    async def reconcile(self, key: RunKey) -> float | None:
        """Do what is due. Returns the seconds until the next pass; None for not before a change.

        Raises ApiError for the caller to repeat it later.
        """
        schedule = self._store.schedules.get(key)
        if schedule is None or "deletionTimestamp" in schedule["metadata"]:
            return None
        before: Mapping[str, Any] = schedule.get("status") or {}
        runs = [_run(root) for root in self._store.owned_by(schedule["metadata"]["uid"])]
        now = self._clock()
        checked = check_workflowschedule(schedule, self._models)
        faults = checked.problems or self._faults_of_runs(schedule, checked)
        if faults or checked.spec is None:
            message = str(InvalidManifest(faults))
            problem = _Problem(reason=Reason.INVALID_CONFIG, message=message, accepted=False)
            live = [{"name": run.name, "uid": run.uid} for run in runs if not run.finished]
            await self._write(schedule, _remembered(before) | _status(schedule, live, now, problem=problem))
            # A fault may be that of a template, whose change is no event of the schedule.
            return None if checked.problems else REFUSED_RETRY
        spec = checked.spec
        decision = decide_schedule(spec, _facts(schedule), runs, now)
        return await self._carry_out(schedule, decision, runs, suspended=spec.suspend)

    def _faults_of_runs(
        self, schedule: Mapping[str, Any], checked: Checked[WorkflowScheduleSpec]
    ) -> tuple[ManifestProblem, ...]:
        """Why the runs of a schedule could never start: what the admission of each would find.

        A template that is missing is no fault: a run waits for it. Admission reads the templates of now.
        """
        namespace = schedule["metadata"]["namespace"]

        def find(kind: str, name: str) -> Mapping[str, Any] | None:
            stored = self._store.templates if kind == AGENT_TEMPLATE.kind else self._store.workflow_templates
            return stored.get((namespace, name))

        admission = Admission(models=self._models, templates=StoredTemplates(find, self._models))
        return tuple(
            problem
            for workflow in checked.inner.values()
            for problem in check_workflow_spec(workflow, admission).problems
        )

    async def _carry_out(
        self,
        schedule: Mapping[str, Any],
        decision: ScheduleDecision,
        runs: list[ScheduledRun],
        *,
        suspended: bool,
    ) -> float | None:
        namespace = schedule["metadata"]["namespace"]
        before: Mapping[str, Any] = schedule.get("status") or {}
        for run in decision.cancel:
            await self._cancel(namespace, run)
        due, problem = decision.create, None
        active = [{"name": run.name, "uid": run.uid} for run in decision.active]
        if due is not None:
            known = next((run for run in runs if run.name == due.name), None)
            made = known or await self._create(schedule, due)
            if isinstance(made, _Problem):
                problem = made
            elif not made.finished:
                active.insert(0, {"name": made.name, "uid": made.uid})
        succeeded_at = await self._newest_success(namespace, before, runs, due)
        after = _remembered(before)
        if succeeded_at is not None:
            after["lastSuccessfulTime"] = max(after.get("lastSuccessfulTime", ""), timestamp(succeeded_at))
        if due is not None and problem is None:
            after["lastScheduleTime"] = timestamp(due.time)
        # The time of a run that could not be created stays the next one.
        next_time = due.time if due is not None and problem is not None else decision.next_time
        if next_time is not None:
            after["nextScheduleTime"] = timestamp(next_time)
        after |= _status(schedule, active, self._clock(), problem=problem, suspended=suspended)
        if problem is None and not suspended:
            message = decision.left_out or (_standing_message(schedule) if due is None else "")
            after |= {"message": message} if message else {}
        if decision.left_out:
            _log.info("scheduled runs left out", schedule=_place(schedule), message=decision.left_out)
        await self._write(schedule, after)
        for run in decision.delete:
            await self._kube.delete(WORKFLOW, namespace, run.name, uid=run.uid)
        longest = LONGEST_WAIT if problem is None else REFUSED_RETRY
        if decision.next_time is None:
            return None if problem is None else longest
        return min(longest, max(0.0, (decision.next_time - self._clock()).total_seconds()))

    async def _cancel(self, namespace: str, run: ScheduledRun) -> None:
        # The uid is a precondition, so that a new object of the same name is not cancelled.
        body = {"metadata": {"uid": run.uid}, "spec": {"desiredState": "Cancelled"}}
        try:
            there = await self._kube.patch(WORKFLOW, namespace, run.name, body)
        except ApiError as error:
            if not (error.not_found or error.conflict):
                raise
        else:
            self._store_run(there)

    def _store_run(self, run: Mapping[str, Any]) -> None:
        if (key := self._store.apply(WORKFLOW, run)) is not None:
            self._wake(key)

    async def _create(self, schedule: Mapping[str, Any], due: DueRun) -> ScheduledRun | _Problem:
        """The run, created now or by an earlier pass; or why there is none."""
        metadata = schedule["metadata"]
        namespace = metadata["namespace"]
        try:
            made = await self._kube.create(WORKFLOW, namespace, _workflow(schedule, due))
        except ApiError as error:
            if error.transient:
                raise
            if not error.conflict:
                _log.warning("run refused", schedule=_place(schedule), run=due.name, error=str(error))
                return _Problem(
                    reason=Reason.REFUSED,
                    message=f"the API server refuses the run {due.name}: {error.message}",
                )
            made = await self._kube.get(WORKFLOW, namespace, due.name)
            if not is_controlled_by(made, metadata["uid"]):
                return _Problem(
                    reason=Reason.NAME_CONFLICT,
                    message=f"a Workflow {due.name} exists and is not of this schedule: delete or rename it",
                )
        self._store_run(made)
        finished = (made.get("status") or {}).get("phase") in _ENDS
        return ScheduledRun(
            name=due.name,
            uid=made["metadata"]["uid"],
            created_at=read_time(made["metadata"]["creationTimestamp"]),
            finished=finished,
        )

    async def _newest_success(
        self, namespace: str, before: Mapping[str, Any], runs: list[ScheduledRun], due: DueRun | None
    ) -> datetime | None:
        """When the newest success since the last pass finished; None if there is none.

        Candidates are the runs that the status still lists as active, and a run whose pass was interrupted
        before the status listed it.
        """
        listed = {run["uid"] for run in before.get("active") or ()}
        newest = None
        for run in runs:
            if run.succeeded and (run.uid in listed or (due is not None and run.name == due.name)):
                there = await self._kube.find(WORKFLOW, namespace, run.name)
                if there is None:
                    continue
                finished_at = (there.get("status") or {}).get("finishedAt")
                if there["metadata"]["uid"] == run.uid and finished_at:
                    time = read_time(finished_at)
                    newest = time if newest is None else max(newest, time)
        return newest

    async def _write(self, schedule: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        metadata = schedule["metadata"]
        patch = status_patch(metadata["uid"], schedule.get("status") or {}, after)
        if not patch:
            return
        # A deposed leader that does not know it yet must not overwrite a newer status and repeat runs.
        patch.insert(
            1, {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]}
        )
        try:
            there = await self._kube.patch_status(SCHEDULE, metadata["namespace"], metadata["name"], patch)
        except ApiError as error:
            if error.not_found:
                return  # the schedule was deleted, and the garbage collector deletes its runs
            if error.status == 422:
                # A test of the patch failed, so the stored object is stale: read it, and decide again.
                there = await self._kube.get(SCHEDULE, metadata["namespace"], metadata["name"])
                self._store.apply(SCHEDULE, there)
            raise
        # The next pass must see this status, or it would create a run again whose history was deleted.
        self._store.apply(SCHEDULE, there)


_ENDS: Final = frozenset(phase.value for phase in Phase if phase.terminal)


def _run(root: Root) -> ScheduledRun:
    return ScheduledRun(
        name=root.key.name,
        uid=root.uid,
        created_at=root.created_at,
        finished=root.finished,
        succeeded=root.phase == Phase.SUCCEEDED.value,
        cancelled=root.desired_state == "Cancelled",
    )


def _facts(schedule: Mapping[str, Any]) -> ScheduleFacts:
    metadata, status = schedule["metadata"], schedule.get("status") or {}

    def time(name: str) -> datetime | None:
        return read_time(status[name]) if status.get(name) else None

    return ScheduleFacts(
        name=metadata["name"],
        created_at=read_time(metadata["creationTimestamp"]),
        generation=metadata.get("generation", 1),
        observed_generation=status.get("observedGeneration"),
        last_time=time("lastScheduleTime"),
        next_time=time("nextScheduleTime"),
    )


def _workflow(schedule: Mapping[str, Any], due: DueRun) -> dict[str, Any]:
    metadata, made = schedule["metadata"], schedule["spec"]["workflow"]
    given = made.get("metadata") or {}
    return {
        "apiVersion": API_VERSION,
        "kind": WORKFLOW,
        "metadata": {
            "name": due.name,
            "labels": {
                **(given.get("labels") or {}),
                LABEL_MANAGED_BY: MANAGED_BY,
                LABEL_SCHEDULE: metadata["name"],
            },
            "annotations": {**(given.get("annotations") or {}), ANNOTATION_TIME: timestamp(due.time)},
            "ownerReferences": [
                controller_reference(
                    api_version=API_VERSION, kind=SCHEDULE, name=metadata["name"], uid=metadata["uid"]
                )
            ],
        },
        "spec": made["spec"],
    }


# --- the status


def _remembered(before: Mapping[str, Any]) -> dict[str, Any]:
    """Times that stay in the status until there are newer ones."""
    kept = ("lastScheduleTime", "lastSuccessfulTime")
    return {name: before[name] for name in kept if name in before}


def _standing_message(schedule: Mapping[str, Any]) -> str:
    """The message about skipped times, while it is still the newest one."""
    before = schedule.get("status") or {}
    same = before.get("observedGeneration") == schedule["metadata"].get("generation", 1)
    fine = any(
        condition.get("type") == "Ready" and condition.get("reason") == Reason.SCHEDULED
        for condition in before.get("conditions") or ()
    )
    return str(before.get("message") or "") if same and fine else ""


def _status(
    schedule: Mapping[str, Any],
    active: list[dict[str, str]],
    now: datetime,
    *,
    problem: _Problem | None,
    suspended: bool = False,
) -> dict[str, Any]:
    """The status without the times. Ready is False if a due run cannot be created."""
    before: Mapping[str, Any] = schedule.get("status") or {}
    generation = schedule["metadata"].get("generation", 1)
    status: dict[str, Any] = {"observedGeneration": generation}
    if active:
        status["active"] = active[:MAX_ACTIVE]
    text = ""
    if problem is not None:
        text = shorten(problem.message, MAX_MESSAGE)
    elif suspended:
        text = "suspended: it makes no runs"
    if text:
        status["message"] = text
    standing = Reason.SUSPENDED if suspended else Reason.SCHEDULED
    reason = (problem.reason if problem else standing).value
    accepted = problem is None or problem.accepted
    values = {
        "Accepted": ("True", "Accepted", "") if accepted else ("False", reason, text),
        "Ready": ("True" if problem is None else "False", reason, text),
        "Stalled": ("False" if problem is None else "True", reason, "" if problem is None else text),
    }
    old = {condition.get("type"): condition for condition in before.get("conditions") or ()}
    status["conditions"] = [
        {
            "type": type,
            "status": value,
            "reason": word,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": (
                old[type]["lastTransitionTime"]
                if old.get(type, {}).get("status") == value
                else timestamp(now)
            ),
        }
        for type, (value, word, message) in values.items()
    ]
    return status


def _place(schedule: Mapping[str, Any]) -> str:
    return f"{schedule['metadata']['namespace']}/{schedule['metadata']['name']}"
