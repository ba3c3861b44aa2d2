"""Guarantees broken on purpose: each of these must make the simulation fail, or it would prove nothing.

A mutation is put in place of the code for as long as its context lasts. `python -m tests.simulated.mutations`
prints the first seed that finds each.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from unittest.mock import patch

from perdure.control.cluster_cache import run_objects, store
from perdure.control.evaluation.in_process import InProcessEvaluator
from perdure.control.leadership import leader
from perdure.control.leadership.fenced_kube import FencedKube
from perdure.control.live_run import LiveRun
from perdure.control.passed_over import PassedOver
from perdure.control.queue.slots import Slots
from perdure.control.runs import creation
from perdure.control.runs.actuator import Actuator
from perdure.control.runs.cleanup import Cleanup
from perdure.control.runs.observer import Observer
from perdure.control.runs.reconciler import Reconciler
from perdure.domain.engine import attempts, outcome
from perdure.domain.engine.attempt_step import AttemptStep
from perdure.domain.engine.changeset import ChangeSet
from perdure.domain.engine.outcome import Outcome
from perdure.domain.engine.plan import PlannedStep
from perdure.domain.engine.timer_step import TimerStep
from perdure.domain.engine.view import RunView
from perdure.domain.expressions.evaluation import Answer, EvaluationRequest
from perdure.domain.records import (
    Commit,
    Committed,
    LedgerError,
    LedgerUnavailable,
    Report,
    RunState,
    Signal,
    TaskKey,
    TaskRecord,
)
from perdure.steps.agent.attempt_pods import AttemptPods
from perdure.steps.agent.pod_creation import PodCreation
from tests.fakes.clients import LedgerClient
from tests.fakes.gateway import Client, Unavailable
from tests.fakes.ledger import FakeLedger, Rows
from tests.simulated.storm.__main__ import in_order
from tests.simulated.storm.scenario import simulate

#: Seeds within which each must be found.
WITHIN: Final = 500

Mutation = Callable[[], AbstractContextManager[Any]]


def _drop_the_agents_fence() -> AbstractContextManager[Any]:
    return patch.object(FakeLedger, "is_open", lambda self, rows, key, number: (key, number) in rows.attempts)


def _drop_the_epoch() -> AbstractContextManager[Any]:
    return patch.object(FakeLedger, "check_epoch", lambda self, epoch: None)


def _forget_the_version() -> AbstractContextManager[Any]:
    return patch.object(FakeLedger, "check_version", lambda self, rows, commit: None)


def _let_reports_leave_the_version() -> AbstractContextManager[Any]:
    report = FakeLedger.report

    def mutated(self: FakeLedger, session: Any, pod_uid: str, report_: Report) -> None:
        report(self, session, pod_uid, report_)
        rows = self.rows[session.workflow_uid]
        model = self._guarantees.runs[session.workflow_uid]
        rows.run = replace(rows.run, version=rows.run.version - 1)
        model.run = replace(model.run, version=rows.run.version)

    return patch.object(FakeLedger, "report", mutated)


def _let_signals_leave_the_version() -> AbstractContextManager[Any]:
    send = FakeLedger.send_signal

    def mutated(self: FakeLedger, uid: str, signal: Signal) -> bool:
        new = send(self, uid, signal)
        if new:
            rows = self.rows[uid]
            model = self._guarantees.runs[uid]
            rows.run = replace(rows.run, version=rows.run.version - 1)
            model.run = replace(model.run, version=rows.run.version)
        return new

    return patch.object(FakeLedger, "send_signal", mutated)


def _lose_signals_on_failover() -> AbstractContextManager[Any]:
    take = FakeLedger.take_epoch

    def mutated(self: FakeLedger) -> int:
        for rows in self.rows.values():
            rows.consumed.update(rows.signals)  # the ids stay known, so only the run misses its signals
        return take(self)

    return patch.object(FakeLedger, "take_epoch", mutated)


def _consume_signals_without_saying() -> AbstractContextManager[Any]:
    commit = ChangeSet.commit

    def mutated(self: ChangeSet) -> Commit | None:
        made = commit(self)
        return None if made is None else replace(made, consumed=())

    return patch.object(ChangeSet, "commit", mutated)


def _publish_before_the_commit() -> AbstractContextManager[Any]:
    commit = FakeLedger.commit

    def mutated(self: FakeLedger, commit_: Commit, *, epoch: int) -> Committed:
        rows = self.rows.get(commit_.run.uid)
        last = 0 if rows is None else rows.run.last_sequence
        self.outbox += [(commit_.run.uid, last + 1 + number) for number in range(len(commit_.events))]
        return commit(self, commit_, epoch=epoch)

    return patch.object(FakeLedger, "commit", mutated)


def _commit_without_events() -> AbstractContextManager[Any]:
    write = FakeLedger.write_event

    def mutated(self: FakeLedger, rows: Rows, type: str, task: str | None, at: Any) -> None:
        if type == "task.succeeded":
            rows.run = replace(rows.run, last_sequence=rows.run.last_sequence + 1)
        else:
            write(self, rows, type, task, at)

    return patch.object(FakeLedger, "write_event", mutated)


def _decide_without_saying() -> AbstractContextManager[Any]:
    event = ChangeSet.event

    def mutated(self: ChangeSet, type: str, **facts: Any) -> None:
        if type != "task.disrupted" and type != "task.cancelled":
            event(self, type, **facts)

    return patch.object(ChangeSet, "event", mutated)


def _act_before_the_commit() -> AbstractContextManager[Any]:
    take = Reconciler._decide_and_act

    class Hasty:
        """A ledger that creates the pods of a decision before its commit."""

        def __init__(self, ledger: Any, actor_: Actuator, live: LiveRun) -> None:
            self._ledger, self._actor, self._live = ledger, actor_, live

        def __getattr__(self, name: str) -> Any:
            return getattr(self._ledger, name)

        async def commit(self, commit: Commit, *, epoch: int) -> Committed:
            view = self._live.view
            state = RunState(run=view.run, steps=view.steps, tasks=view.tasks, attempts=view.attempts)
            guess = RunView(view.plan, state)
            guess.apply(commit, Committed(version=view.run.version + 1, last_sequence=0))
            hasty = LiveRun(key=self._live.key, view=guess, generation=1)
            keys = [attempt.key for attempt in commit.attempts]
            with contextlib.suppress(LedgerError):
                await self._actor.ensure(hasty, keys, epoch=epoch)
            committed: Committed = await self._ledger.commit(commit, epoch=epoch)
            return committed

    async def mutated(self: Reconciler, live: LiveRun, root: Any) -> Any:
        ledger = self._ledger
        if not isinstance(ledger, Hasty):
            self._ledger = Hasty(ledger, self._actor, live)
        try:
            return await take(self, live, root)
        finally:
            self._ledger = ledger

    return patch.object(Reconciler, "_decide_and_act", mutated)


def _take_silence_for_a_commit() -> AbstractContextManager[Any]:
    commit = LedgerClient.commit

    async def mutated(self: LedgerClient, commit_: Commit, *, epoch: int) -> Committed:
        try:
            return await commit(self, commit_, epoch=epoch)
        except LedgerUnavailable:
            sequence = commit_.run.last_sequence + len(commit_.events)
            return Committed(version=commit_.run.version + 1, last_sequence=sequence)

    return patch.object(LedgerClient, "commit", mutated)


def _trust_the_cache() -> AbstractContextManager[Any]:
    async def mutated(self: AttemptPods, live: LiveRun, attempt: Any) -> None:
        """Does not check whether a pod that the store lacks was really deleted."""

    return patch.multiple(AttemptPods, _get_pod=mutated, _list_pods=mutated)


def _overlook_reports() -> AbstractContextManager[Any]:
    reports = Observer._reports

    async def mutated(self: Observer, live: LiveRun, *args: Any, **kwargs: Any) -> Mapping[TaskKey, Any]:
        """Reads the reports and ignores them."""
        await reports(self, live, *args, **kwargs)
        return {}

    return patch.object(Observer, "_reports", mutated)


def _overlook_signals() -> AbstractContextManager[Any]:
    reports = Observer._reports

    async def mutated(self: Observer, live: LiveRun, *args: Any, **kwargs: Any) -> Mapping[TaskKey, Any]:
        """Reads the signals with the reports, and forgets the signals."""
        found = await reports(self, live, *args, **kwargs)
        live.updates.signals = {}
        return found

    return patch.object(Observer, "_reports", mutated)


def _adopt_what_is_there() -> AbstractContextManager[Any]:
    return patch.object(creation, "_check_owner", lambda obj, uid, name, what: None)


def _mistake_a_namesake() -> AbstractContextManager[Any]:
    read = run_objects.read_root
    uids: dict[Any, str] = {}

    def mutated(key: Any, obj: Mapping[str, Any], version: int) -> Any:
        if version < 3:
            uids.clear()  # another world
        uid = uids.setdefault(key, obj["metadata"]["uid"])
        return read(key, {**obj, "metadata": {**obj["metadata"], "uid": uid}}, version)

    return patch.object(store, "read_root", mutated)


def _leave_the_old_attempt_open() -> AbstractContextManager[Any]:
    commit = ChangeSet.commit

    def mutated(self: ChangeSet) -> Commit | None:
        made = commit(self)
        if made is None:
            return None
        opened = {attempt.key for attempt in made.attempts if attempt.closed_at is None}
        kept = tuple(
            replace(attempt, closed_at=None, outcome=None) if attempt.key in opened else attempt
            for attempt in made.attempts
        )
        return replace(made, attempts=kept)

    return patch.object(ChangeSet, "commit", mutated)


def _count_disruptions_as_retries() -> AbstractContextManager[Any]:
    def mutated(changes: ChangeSet, step: PlannedStep, task: TaskRecord, outcome: Outcome) -> None:
        attempts.after_failure(changes, step, task, outcome, again=task.retries < step.retry.limit)

    return patch.object(attempts, "after_disruption", mutated)


def _take_interruptions_for_failures() -> AbstractContextManager[Any]:
    return patch.object(outcome, "EXIT_INTERRUPTED", -1)


def _go_on_when_deposed() -> AbstractContextManager[Any]:
    return patch.object(FencedKube, "_check", lambda self: None)


def _reset_timers_on_pause() -> AbstractContextManager[Any]:
    @contextlib.contextmanager
    def reset() -> Iterator[None]:
        with contextlib.ExitStack() as patches:
            for family in (AttemptStep, TimerStep):
                patches.enter_context(patch.object(family, "resume", _losing_nothing(family.resume)))
            yield

    return reset()


def _losing_nothing(resume: Callable[..., None]) -> Callable[..., None]:
    def mutated(self: Any, changes: Any, step: Any, task: Any, lost: timedelta) -> None:
        resume(self, changes, step, task, timedelta(0))

    return mutated


def _start_while_paused() -> AbstractContextManager[Any]:
    return patch.object(ChangeSet, "paused", property(lambda self: False))


def _neither_wakes_nor_relists() -> AbstractContextManager[Any]:
    @contextlib.contextmanager
    def both() -> Iterator[None]:
        async def never(self: leader.Leader) -> None:
            """Never relists."""

        with (
            patch.object(FakeLedger, "wake", lambda self, wake: None),
            patch.object(leader.Leader, "_relist", never),
        ):
            yield

    return both()


def _prune_too_early() -> AbstractContextManager[Any]:
    def mutated(self: FakeLedger, rows: Rows, key: TaskKey) -> None:
        rows.checkpoints[key] = rows.checkpoints[key][-rows.kept :]

    return patch.object(FakeLedger, "prune", mutated)


def _acknowledge_at_once() -> AbstractContextManager[Any]:
    checkpoint = Client.checkpoint

    async def mutated(self: Client, part: int | None, text: str, *, order: int) -> int:
        with contextlib.suppress(Unavailable):
            return await checkpoint(self, part, text, order=order)
        return order

    return patch.object(Client, "checkpoint", mutated)


def _exceed_the_limit() -> AbstractContextManager[Any]:
    return patch.object(Slots, "grant", lambda self, uid, namespace, priority, order: None)


def _leave_pods_behind() -> AbstractContextManager[Any]:
    async def tidy(self: Cleanup, live: LiveRun, now: Any) -> None:
        """Deletes nothing while a run is live."""

    async def clean_finished(self: Cleanup, key: Any, now: Any) -> None:
        """Nor after it has ended."""

    return patch.multiple(Cleanup, tidy=tidy, clean_finished=clean_finished)


def _drop_the_guard_of_each_object() -> AbstractContextManager[Any]:
    @contextlib.contextmanager
    def unguarded(self: PassedOver, loop: str, what: object) -> Iterator[None]:
        yield

    return patch.object(PassedOver, "guard", unguarded)


def _let_the_attempt_before_work_on() -> AbstractContextManager[Any]:
    async def mutated(self: PodCreation, *args: Any) -> None:
        """Asks nothing to leave."""

    return patch.object(PodCreation, "_leave_before", mutated)


def _give_answers_to_other_requests() -> AbstractContextManager[Any]:
    evaluate = InProcessEvaluator.evaluate

    async def mutated(
        self: InProcessEvaluator, namespace: str, requests: Sequence[EvaluationRequest]
    ) -> Mapping[str, Answer]:
        answers = await evaluate(self, namespace, requests)
        keys = list(answers)
        return dict(zip(keys, [answers[key] for key in [*keys[1:], *keys[:1]]], strict=True))

    return patch.object(InProcessEvaluator, "evaluate", mutated)


def _lose_bodies_of_payloads() -> AbstractContextManager[Any]:
    return patch.object(FakeLedger, "task_payloads", lambda self, uid, keys, which: {})


#: What is broken, and the first seed that finds it, which --quick tries first.
MUTATIONS: Final[dict[Mutation, int]] = {
    _drop_the_agents_fence: 2,
    _drop_the_epoch: 2,
    _forget_the_version: 17,
    _let_reports_leave_the_version: 17,
    _publish_before_the_commit: 10,
    _commit_without_events: 0,
    _decide_without_saying: 10,
    _act_before_the_commit: 0,
    _take_silence_for_a_commit: 26,
    _trust_the_cache: 56,
    _overlook_reports: 1,
    _adopt_what_is_there: 75,
    _mistake_a_namesake: 48,
    _leave_the_old_attempt_open: 6,
    _count_disruptions_as_retries: 6,
    _take_interruptions_for_failures: 6,
    _go_on_when_deposed: 127,
    _reset_timers_on_pause: 4,
    _start_while_paused: 4,
    _neither_wakes_nor_relists: 293,
    _prune_too_early: 43,
    _acknowledge_at_once: 52,
    _exceed_the_limit: 26,
    _leave_pods_behind: 23,
    _let_signals_leave_the_version: 83,
    _lose_signals_on_failover: 16,
    _consume_signals_without_saying: 3,
    _overlook_signals: 3,
    _drop_the_guard_of_each_object: 0,
    _let_the_attempt_before_work_on: 261,
    _give_answers_to_other_requests: 6,
    _lose_bodies_of_payloads: 1,
}


def name_of(mutation: Mutation) -> str:
    """What a mutation does, in words."""
    return mutation.__name__.strip("_").replace("_", " ")


def find(mutation: Mutation, seeds: Iterable[int]) -> tuple[int, str] | None:
    """The first of these seeds that notices a mutation, and what it says; None if none does."""
    with mutation():
        for seed in seeds:
            violation = simulate(seed).violation
            if violation is not None:
                return seed, violation
    return None


def main() -> int:
    """Exit code 1 if a mutation is not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulated.mutations")
    parser.add_argument("names", nargs="*", help="words of the mutations to try; all if there are none")
    parser.add_argument("--within", type=int, default=WITHIN, help="seeds to try of each")
    parser.add_argument("--quick", action="store_true", help="begin with the seeds that are known to notice")
    arguments = parser.parse_args()
    in_order("tests.simulated.mutations")
    missed = 0
    for mutation, known in MUTATIONS.items():
        name = name_of(mutation)
        if arguments.names and not any(word in name for word in arguments.names):
            continue
        seeds = range(arguments.within)
        found = find(mutation, [known, *seeds] if arguments.quick else seeds)
        missed += found is None
        print(f"{name}: {'not found' if found is None else f'seed {found[0]}: {found[1]}'}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
