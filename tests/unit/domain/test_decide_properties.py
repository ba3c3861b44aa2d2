"""Random graphs under random observations: the rules hold, and every run comes to its end.

`runs.Run` checks each decision: made again, and made from the records as a restarted operator reads them, it
is the same; and its commit keeps the rules of `rules.py`.
"""

from datetime import timedelta
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from tests.unit.domain.builders import view_of_task, view_of_workflow
from tests.unit.domain.runs import FAILURE, FATAL, SUCCESS, Run

from perdure.domain.decide import decide
from perdure.domain.facts import ContainerExit
from perdure.domain.observed import Observed, Refusal
from perdure.domain.phases import Phase, Reason
from perdure.domain.records import Report, TaskKey

MESSAGES = ["", "text", '{"n": 2}', "[1, 2]", "null"]
CODES = [0, 0, 1, 75, 76, 137]


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Graphs of up to six steps, in any order of the manifest, with expressions that may fail."""
    steps = []
    for number in range(draw(st.integers(1, 6))):
        before = [f"s{other}" for other in range(number)]
        needed = draw(st.lists(st.sampled_from(before), unique=True, max_size=2)) if before else []
        step: dict[str, Any] = {"name": f"s{number}", "dependsOn": needed}
        for_each = draw(st.sampled_from(["none", "literal", "literal", "inputs", "empty", "step"]))
        if for_each == "literal":
            step["forEach"] = list(range(draw(st.integers(2, 5))))
        elif for_each == "inputs":
            step["forEach"] = "${inputs.items}"
        elif for_each == "empty":
            step["forEach"] = {}
        elif for_each == "step" and needed:
            # A list, if the step gave one.
            step["forEach"] = f"${{has(steps.{needed[0]}.output) ? steps.{needed[0]}.output : ['x']}}"
        uses = draw(st.sampled_from(["nothing", "nothing", "inputs", "output", "item"]))
        if uses == "inputs":
            step["input"] = {"all": "${inputs}", "run": "${workflow.phase}"}
        elif uses == "output" and needed:
            step["input"] = f"${{steps.{needed[-1]}.output.n}}"  # not every step gives one
        elif uses == "item" and "forEach" in step:
            step["input"] = {"item": "${item}", "index": "${index}"}
        step["retry"] = {"limit": draw(st.sampled_from([0, 0, 1, 2]))}
        steps.append(step)
    spec: dict[str, Any] = {
        "steps": draw(st.permutations(steps)),
        "inputs": {"items": draw(st.lists(st.integers(0, 9), max_size=3))},
    }
    parallelism = draw(st.sampled_from([None, 1, 2, 3]))
    if parallelism is not None:
        spec["parallelism"] = parallelism
    if draw(st.booleans()):
        spec["outputs"] = {"first": draw(st.sampled_from(["${steps.s0.phase}", "${steps.s0.output.n}"]))}
    return spec


class Runs(RuleBasedStateMachine):
    """A run in a world where anything may be observed at any time."""

    run: Run

    @initialize(spec=specs())
    def begin(self, spec: dict[str, Any]) -> None:
        self.run = Run(view_of_workflow(*spec.pop("steps"), **spec))
        self.run.settle()

    def observation(self, data: st.DataObject) -> Observed:
        """What may be true, is late, is about others, or contradicts itself."""
        run = self.run
        known = sorted(run.tasks) or [TaskKey("s0")]
        pods, reports, refusals = {}, {}, {}
        gone: set[TaskKey] = set()
        for key in data.draw(st.lists(st.sampled_from(known), unique=True, min_size=1, max_size=4), "tasks"):
            if key not in run.tasks:
                continue
            newest = run.tasks[key].attempt
            number = data.draw(st.sampled_from([newest, newest, newest, newest - 1]), "attempt")
            sight = data.draw(
                st.sampled_from(
                    [
                        "pending",
                        "running",
                        "exit",
                        "evicted",
                        "deleting",
                        "failed",
                        "report",
                        "gone",
                        "refusal",
                        "both",
                    ]
                ),
                "sight",
            )
            code = data.draw(st.sampled_from(CODES), "code")
            message = data.draw(st.sampled_from(MESSAGES), "message")
            ends = ContainerExit(code=code, reason="OOMKilled" if code == 137 else "", message=message)
            if sight == "pending":
                pods[key] = run.pod(key, attempt=number, phase="Pending", started_at=None)
            elif sight == "running":
                pods[key] = run.pod(key, attempt=number)
            elif sight in ("exit", "both"):
                pods[key] = run.pod(key, attempt=number, exit=ends)
            elif sight == "evicted":
                pods[key] = run.pod(key, attempt=number, exit=ends, disruption="Evicted: low on memory")
            elif sight == "deleting":
                pods[key] = run.pod(key, attempt=number, deletion=run.now + timedelta(seconds=30))
            elif sight == "failed":
                pods[key] = run.pod(key, attempt=number, phase="Failed", started_at=None)
            elif sight == "gone":
                gone.add(key)
            elif sight == "refusal":
                refusals[key] = Refusal(attempt=number, reason=Reason.INVALID_CONFIG, message="no")
            if sight in ("report", "both"):
                output = {"n": 1} if message == "" else message
                told = Report(outcome="Succeeded", output=output, at=run.now)
                reports[key] = (number, data.draw(st.sampled_from([told, told, FAILURE, FATAL]), "report"))
        return Observed(pods=pods, gone=frozenset(gone), reports=reports, refusals=refusals)

    @rule(data=st.data())
    def observe(self, data: st.DataObject) -> None:
        observed = self.observation(data)
        newest = {key: self.run.tasks[key].attempt for key in self.run.tasks}
        late = {key for key, (number, _) in observed.reports.items() if number != newest[key]}
        late |= {
            key for key, told in (observed.refusals | observed.pods).items() if told.attempt != newest[key]
        }
        before = dict(self.run.attempts)
        self.run.settle(observed)
        # What is said of an earlier attempt changes nothing about the newest.
        for key in late - observed.gone:
            assert self.run.attempts.get((key, newest[key])) == before.get((key, newest[key]))
        # The same facts seen again say nothing new; of pods that are gone the observer asks each time anew.
        again = Observed(pods=observed.pods, reports=observed.reports, refusals=observed.refusals)
        assert self.run.decide(again).commit is None

    @rule(data=st.data())
    def observe_in_vain(self, data: st.DataObject) -> None:
        """A decision that is never committed."""
        decide(self.run.view, self.observation(data), self.run.now)

    @rule(seconds=st.sampled_from([0, 0.001, 1, 30, 61, 3600]))
    def wait(self, seconds: float) -> None:
        self.run.settle(now=self.run.now + timedelta(seconds=seconds))

    @rule()
    def succeed_all(self) -> None:
        self.run.settle(
            Observed(reports={key: (self.run.tasks[key].attempt, SUCCESS) for key in self.run.open})
        )

    @rule()
    def restart(self) -> None:
        """Another operator takes over, with nothing but the ledger."""
        self.run.view = self.run.reloaded()

    @precondition(lambda self: len(self.run.events) > 12)
    @rule()
    def delete(self) -> None:
        ended = self.run.phase.terminal
        before = self.run.phase
        self.run.settle(Observed(deleted=True))
        assert self.run.phase is (before if ended else Phase.CANCELLED)

    def teardown(self) -> None:
        if not hasattr(self, "run"):
            return
        run = self.run
        for _ in range(60):
            if run.phase.terminal:
                break
            self.succeed_all()
            self.wait(61)
        assert run.phase.terminal, "a run whose agents all succeed comes to its end"
        _check_history(run)


def _check_history(run: Run) -> None:
    types = run.types()
    assert types[0] == "workflow.created"
    assert [type for type in types if type.startswith("workflow.")][-1] == types[-1]
    assert run.run.last_sequence == len(types)
    ends = {"task.succeeded", "task.failed", "task.cancelled"}
    for task in run.tasks.values():
        own = [event.type for event in run.events if event.task == task.name]
        assert [type for type in own if type in ends] == [f"task.{task.phase.value.lower()}"]
        assert own[-1] in ends
        assert own.count("task.scheduled") == task.attempt
        assert own.count("task.retrying") == task.retries
        assert own.count("task.disrupted") == task.disruptions
    assert run.decide(Observed(deleted=True)).commit is None


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=80,
    stateful_step_count=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class Tasks(Runs):
    """The same for an AgentTask that stands alone."""

    @initialize(spec=st.just({}), limit=st.integers(0, 2))
    def begin(self, spec: dict[str, Any], limit: int) -> None:
        self.run = Run(view_of_task("alone", retry={"limit": limit}))
        self.run.settle()

    def teardown(self) -> None:
        if hasattr(self, "run"):
            for _ in range(5):
                self.succeed_all()
                self.wait(61)
            assert self.run.phase.terminal
            assert not any(type.startswith("workflow.") for type in self.run.types())


TestTasks = Tasks.TestCase
TestTasks.settings = settings(TestRuns.settings, max_examples=20)
