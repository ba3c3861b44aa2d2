"""A run in a world where anything may be observed, and requested, at any time.

After every action the world checks the invariants of a run that has settled; `runs.Run` checks those of each
decision.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support.echo import ECHO
from tests.unit.domain.graphs import Choose, once_in, some
from tests.unit.domain.runs import FAILURE, FATAL, SUCCESS, Run

from perdure.domain.engine.decide import decide
from perdure.domain.engine.observed import Observed, Refusal
from perdure.domain.engine.pod_facts import ContainerExit
from perdure.domain.engine.timer_step import TimerStep
from perdure.domain.payloads import payload_of
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import CachedResult, Report, TaskKey

MESSAGES = ["", "text", '{"n": 2}', "[1, 2]", "null"]
CODES = [0, 0, 1, 75, 76, 137]
SIGHTS = [
    *["running", "report", "exit", "running", "report"],
    *["exit", "pending", "evicted", "deleting", "failed", "gone", "refusal", "both"],
]
CHILDREN = [Phase.RUNNING, Phase.SUCCEEDED, Phase.PENDING, Phase.PAUSED, Phase.FAILED, Phase.CANCELLED]
SECONDS = [1, 0, 0.001, 10, 30, 61, 3600]
MILLISECOND = timedelta(milliseconds=1)
ENDS = {"task.succeeded", "task.failed", "task.cancelled", "task.skipped"}


class World:
    """What happens to one run; `choose` says what."""

    def __init__(self, run: Run, choose: Choose) -> None:
        self.run = run
        self.choose = choose
        run.notes_pods = not once_in(choose, 6)
        run.want(choose(["Running"] * 7 + ["Paused"]))

    def live(self, actions: int) -> None:
        """Let so much happen, then let everything go well until the run has ended."""
        for _ in range(actions):
            self.choose(ACTIONS)(self)
        self.end()

    def settle(self, observed: Observed | None = None, *, seconds: float = 0) -> None:
        """Decisions until nothing is new; then time alone changes something exactly when it is said to."""
        run = self.run
        run.settle(observed, now=run.moment(seconds))
        # The observer reads pods that are gone, and the cache, again in each pass.
        still = run.standing(replace(observed or Observed(), gone=frozenset(), cached={}))
        decision = run.decide(still)
        assert decision.commit is None, "the same facts seen again say nothing new"
        due = decision.requeue_at
        if due is None:
            assert decide(run.view, still, run.moment(10**8)).commit is None, (
                "no pass would have come for this change"
            )
            return
        if due - MILLISECOND > run.now:
            assert decide(run.view, still, due - MILLISECOND).commit is None
        assert decide(run.view, still, due).commit is not None

    # --- what is observed

    def observation(self) -> Observed:
        """What may be true, is late, is about others, or contradicts itself."""
        run, choose = self.run, self.choose
        pods, reports, refusals, children = {}, {}, {}, {}
        signs = dict(run.signs)
        gone: set[TaskKey] = set()
        # Mostly of what may still end.
        known = run.open if run.open and not once_in(choose, 4) else sorted(run.tasks)
        for key in some(choose, known, 4):
            newest = run.tasks[key].attempt
            kind = run.view.plan.steps[key.step].kind.field
            if kind == "wait" or not newest:
                continue
            if kind == "workflow":
                phase = choose([*CHILDREN, None])
                if phase is None:
                    gone.add(key)
                else:
                    children[key] = run.child(key, phase, outputs={"n": 1}, message="so it is")
                continue
            number = choose([newest, newest, newest, newest - 1])
            sight = choose(SIGHTS)
            facts = self._facts()
            if sight in facts:
                pods[key] = run.pod(key, attempt=number, **facts[sight])
            elif sight == "gone":
                gone.add(key)
            elif sight == "refusal":
                refusals[key] = Refusal(attempt=number, reason=Reason.INVALID_CONFIG, message="no")
            if sight in ("report", "both"):
                reports[key] = (number, self._report())
            signs[key] = (number, run.now)
        return Observed(
            pods=pods,
            gone=frozenset(gone),
            reports=reports,
            refusals=refusals,
            children=children,
            signs=signs,
        )

    def _report(self) -> Report:
        output = self.choose([{"n": 1}, "text", None])
        success = Report(outcome="Succeeded", output=payload_of(output), at=self.run.now)
        return self.choose([success, success, FAILURE, FATAL])

    def _facts(self) -> dict[str, dict[str, Any]]:
        code, message = self.choose(CODES), self.choose(MESSAGES)
        ends = ContainerExit(code=code, reason="OOMKilled" if code == 137 else "", message=message)
        return {
            "pending": {"phase": "Pending", "started_at": None},
            "running": {},
            "exit": {"exit": ends},
            "both": {"exit": ends},
            "evicted": {"exit": ends, "disruption": "Evicted: low on memory"},
            "deleting": {"deletion": self.run.moment(30)},
            "failed": {"phase": "Failed", "started_at": None},
        }

    # --- what may happen

    def signal(self) -> None:
        """Signals from users: early, late, repeated, or of a name for which no step waits."""
        run, choose = self.run, self.choose
        steps = [name for name, step in run.view.plan.steps.items() if isinstance(step.kind, TimerStep)]
        keys = sorted({*(TaskKey(name) for name in steps), *(key for key in run.tasks if key.step in steps)})
        for key in some(choose, keys, 2):
            run.send(key, choose(["go", "go", "other"]), choose([{"n": 1}, "text", None]))
        self.settle()

    def observe(self) -> None:
        run, observed = self.run, self.observation()
        run.signs = dict(observed.signs)
        decision = decide(run.view, run.standing(observed), run.now)
        in_time = run.standing(_without_what_is_late(run, observed))
        assert decision == decide(run.view, in_time, run.now), "facts of an earlier attempt change nothing"
        self.settle(observed)

    def observe_in_vain(self) -> None:
        """A decision that is never committed, on a wish that was taken back."""
        observed = self.run.standing(self.observation())
        desired = self.choose([self.run.desired, self.run.desired, "Running", "Paused", "Cancelled"])
        decide(self.run.view, replace(observed, desired=desired), self.run.now)

    def wait(self) -> None:
        self.settle(seconds=self.choose(SECONDS))

    def wait_for_the_next_moment(self) -> None:
        if self.run.requeue_at is not None:
            self.settle(seconds=(self.run.requeue_at - self.run.now).total_seconds())

    def succeed_all(self) -> None:
        run = self.run
        agents = [key for key in run.open if run.view.plan.steps[key.step].kind.field == "agent"]
        children = [key for key in run.open if key not in agents]
        for key in sorted(run.view.live):
            if run.view.plan.steps[key.step].kind is ECHO:
                run.send(key, "go", {"n": 1})
        self.settle(
            Observed(
                reports={key: (run.tasks[key].attempt, SUCCESS) for key in agents},
                children={key: run.child(key, Phase.SUCCEEDED, outputs={"n": 1}) for key in children},
            )
        )

    def leave(self) -> None:
        """The pods of all attempts that were asked to leave are gone."""
        view = self.run.view
        keys = [key for key in view.open if view.attempts[key].stopping is not None]
        self.settle(Observed(gone=frozenset(keys)))

    def pause(self) -> None:
        if self.run.desired != "Cancelled":
            self.run.desired = "Paused"
            self.settle()

    def resume(self) -> None:
        if self.run.desired != "Cancelled":
            self.run.desired = "Running"
            self.settle()

    def cancel(self) -> None:
        """Late in the run's life, or it would rarely grow old."""
        run = self.run
        if len(run.events) < 12:
            return
        run.desired = "Cancelled"
        self.settle()
        main = [key for key in run.view.live if not run.view.plan.steps[key.step].is_finally]
        assert not main, "a cancel stops the main steps at once"

    def limit(self) -> None:
        """Other runs take, or leave, slots."""
        self.run.limit = self.choose([None, 0, 1, 3])
        self.settle()

    def fill_cache(self) -> None:
        """Other runs come to results that this one has asked for, or will ask for again."""
        asked = {cache_key for keys in self.run.asked for cache_key in keys.values()}
        for cache_key in some(self.choose, sorted(asked), 3):
            self.run.cache[cache_key] = CachedResult(
                output=payload_of({"n": 1}), workflow="other", task="other-a"
            )

    def restart(self) -> None:
        """Another operator takes over, with nothing but the ledger."""
        self.run.view = self.run.reloaded()

    def note_pods(self) -> None:
        self.run.note_pods()

    def delete(self) -> None:
        before = self.run.phase
        if len(self.run.events) < 20:
            return
        self.run.settle(Observed(deleted=True))
        assert self.run.phase is (before if before.terminal else Phase.CANCELLED)

    # --- the end

    def end(self) -> None:
        """A run whose agents all succeed, and that is not paused, comes to its end."""
        run = self.run
        run.limit = None
        if run.desired == "Paused":
            run.desired = "Running"
        for _ in range(60):
            if run.phase.terminal:
                break
            self.leave()
            self.succeed_all()
            self.wait_for_the_next_moment()
        assert run.phase.terminal
        _check_history(run)


ACTIONS: list[Callable[[World], None]] = [
    *[World.observe] * 8,
    *[World.wait_for_the_next_moment] * 3,
    *[World.wait, World.succeed_all, World.limit, World.pause, World.leave, World.resume, World.signal] * 2,
    *[World.observe_in_vain, World.restart, World.fill_cache, World.note_pods, World.cancel],
    World.delete,
]


def _without_what_is_late(run: Run, observed: Observed) -> Observed:
    newest = {key: task.attempt for key, task in run.tasks.items()}
    return replace(
        observed,
        pods={key: pod for key, pod in observed.pods.items() if pod.attempt == newest[key]},
        reports={key: report for key, report in observed.reports.items() if report[0] == newest[key]},
        refusals={
            key: refusal for key, refusal in observed.refusals.items() if refusal.attempt == newest[key]
        },
        signs={key: sign for key, sign in observed.signs.items() if sign[0] == newest[key]},
    )


def _check_history(run: Run) -> None:
    types = run.types()
    if run.run.kind == "Workflow":
        assert types[0] == "workflow.created"
        assert [type for type in types if type.startswith("workflow.")][-1] == types[-1]
        assert types.count("workflow.paused") - types.count("workflow.resumed") in (0, 1)
    else:
        assert not any(type.startswith("workflow.") for type in types)
    assert run.run.last_sequence == len(types)
    for task in run.tasks.values():
        own = [event.type for event in run.events if event.task == task.name]
        assert [type for type in own if type in ENDS] == [f"task.{task.phase.value.lower()}"]
        assert own[-1] in ENDS
        assert own.count("task.scheduled") == task.attempt
        assert own.count("task.retrying") == task.retries
        assert own.count("task.disrupted") == task.disruptions
    assert run.decide(Observed(deleted=True)).commit is None
