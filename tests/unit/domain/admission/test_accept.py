"""Acceptance: every refusal with its path, and several faults in one pass."""

from typing import Any

import pytest
from tests.support.manifests import accept
from tests.unit.domain.builders import IMAGE, snapshot, workflow

from perdure.domain.admission.accept import Refused
from perdure.domain.engine.plan import compile_plan
from perdure.steps import KINDS


def problems(spec: dict[str, Any], templates: dict[str, dict[str, Any]] | None = None) -> dict[str, str]:
    with pytest.raises(Refused) as raised:
        snapshot(spec, templates)
    found = raised.value.problems
    assert str(raised.value) == "; ".join(f"{problem.path}: {problem.message}" for problem in found)
    return {problem.path: problem.message for problem in found}


def step(name: str = "a", **fields: Any) -> dict[str, Any]:
    return {"name": name, **fields}


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        # Steps that do not exist.
        (workflow(step(dependsOn=["b"])), "spec.steps[0].dependsOn[0]", "there is no step 'b'"),
        (
            workflow(step("analyse"), step(dependsOn=["analyse", "analyze"])),
            "spec.steps[1].dependsOn[1]",
            "there is no step 'analyze'; did you mean 'analyse'?",
        ),
        (
            workflow(step(input={"x": ["${steps.b.output}"]})),
            "spec.steps[0].input.x[0]",
            "there is no step 'b'",
        ),
        (workflow(step(forEach="${steps.b.outputs}")), "spec.steps[0].forEach", "there is no step 'b'"),
        (workflow(step(), outputs={"r": "${steps.b.output}"}), "spec.outputs.r", "there is no step 'b'"),
        (
            workflow(step("a-b"), step("c", input="${steps.a-b.output}")),
            "spec.steps[1].input",
            "there is no step 'a'; for 'a-b' write steps[\"a-b\"]",
        ),
        # Names.
        (
            workflow(step(input="${input.x}")),
            "spec.steps[0].input",
            "unknown name 'input': known here are inputs",
        ),
        (workflow(step(input="${item}")), "spec.steps[0].input", "'item': only a step with forEach has it"),
        (
            workflow(step(input="${index}")),
            "spec.steps[0].input",
            "'index': only a step with forEach or repeat",
        ),
        (
            workflow(step(forEach=["${item}"])),
            "spec.steps[0].forEach[0]",
            "'item': only a step with forEach has it",
        ),
        (workflow(step(forEach="${[index]}")), "spec.steps[0].forEach", "'index': only a step with forEach"),
        (workflow(step(), outputs={"o": "${item}"}), "spec.outputs.o", "'item': only a step with forEach"),
        (workflow(step(input="${state.x}")), "spec.steps[0].input", "a literal ${ is written $${"),
        # Expressions.
        (workflow(step(input="${1 +}")), "spec.steps[0].input", "at character 4"),
        (workflow(step(input="${f(1)}")), "spec.steps[0].input", "unknown function 'f'"),
        (workflow(step(input="${steps}")), "spec.steps[0].input", "write steps.name or"),
        (workflow(step(input="a ${x")), "spec.steps[0].input", "without '}'; write $${ for a literal ${"),
        (workflow(step(forEach="${1 +}")), "spec.steps[0].forEach", "at character 4"),
        # The agent block.
        (
            workflow(step(agent={"args": ["a", "${item}"]})),
            "spec.steps[0].agent.args[1]",
            "only a step with forEach",
        ),
        (workflow(step(agent={"command": ["${x}"]})), "spec.steps[0].agent.command[0]", "unknown name 'x'"),
        (
            workflow(step(agent={"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "${x}"}]})),
            "spec.steps[0].agent.env[1].value",
            "unknown name 'x'",
        ),
        (
            workflow(step(agent={"image": "agents:${inputs.tag}"})),
            "spec.steps[0].agent.image",
            "takes no expressions; use env, args or input",
        ),
        (
            workflow(
                step(
                    agent={
                        "env": [
                            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "${inputs.k}"}}}
                        ]
                    }
                )
            ),
            "spec.steps[0].agent.env[0].valueFrom.secretKeyRef.key",
            "takes no expressions; use env, args or input",
        ),
        (
            {"steps": [step(agent={"templateRef": "t"})]},
            "spec.steps[0].agent.image",
            "an image is needed, here, in defaults.agent or in a template",
        ),
        # forEach is a list, a map, or one expression.
        (
            workflow(step(forEach="a ${inputs.x}")),
            "spec.steps[0].forEach",
            "must be a list, a map, or one ${}",
        ),
        (
            workflow(step(forEach="$${inputs.x}")),
            "spec.steps[0].forEach",
            "must be a list, a map, or one ${}",
        ),
        # Cycles, with the field that closes them.
        (
            workflow(step("a", dependsOn=["b"]), step("b", dependsOn=["a"])),
            "spec.steps[0].dependsOn[0]",
            "the steps wait for each other: a -> b -> a; break the cycle",
        ),
        (
            workflow(step("a", input={"x": "${steps.b.output}"}), step("b", dependsOn=["a"])),
            "spec.steps[0].input.x",
            "a -> b -> a",
        ),
        (
            workflow(step("a", input="${steps.a.output}")),
            "spec.steps[0].input",
            "step 'a' cannot wait for itself; refer to other steps",
        ),
        (
            workflow(step("a", repeat={"until": "${steps.a.output.done}", "maxIterations": 2})),
            "spec.steps[0].repeat.until",
            "the newest output of its repeat is `last`",
        ),
        (
            workflow(
                step("z"), step("a", dependsOn=["z", "c"]), step("b"), step("c", forEach="${steps.a.output}")
            ),
            "spec.steps[1].dependsOn[1]",
            "a -> c -> a",
        ),
    ],
)
def test_refusals(spec: dict[str, Any], path: str, message: str) -> None:
    found = problems(spec, {"t": {"command": ["x"]}})
    assert list(found) == [path]
    assert message in found[path]


def test_all_faults_are_found_in_one_pass() -> None:
    found = problems(
        {
            "steps": [
                step("a", agent={"image": "i", "args": ["${1 +}", "${nope}"]}, dependsOn=["gone", "b"]),
                step(
                    "b", agent={"templateRef": "late", "args": ["${item}"]}, input="${steps.a.output + lost}"
                ),
                step("c", agent={"image": "i"}, forEach="x ${inputs.l}"),
            ],
            "outputs": {"r": "${steps.missing.output}"},
        }
    )
    assert list(found) == [
        "spec.steps[0].agent.args[0]",
        "spec.steps[0].agent.args[1]",
        "spec.steps[0].dependsOn[0]",
        # Its template is not there yet, and its own faults are found all the same.
        "spec.steps[1].input",
        "spec.steps[1].agent.args[0]",
        "spec.steps[2].forEach",
        "spec.steps[0].dependsOn[1]",  # the cycle
        "spec.outputs.r",
    ]


@pytest.mark.parametrize(
    "steps",
    [
        [step(input="${inputs.x + workflow.name}")],
        [step(forEach=[1, "${inputs.x}"], input={"item": "${item}", "n": "${index}"})],
        [step(forEach={"a": "${inputs.x}"}, agent={"args": ["${item.key}", "${item.value}"]})],
        [step(forEach="${inputs.l}", agent={"env": [{"name": "I", "value": "${index}"}]})],
        [step("a-b"), step("c", input='${steps["a-b"].output}')],
        [step(input="$${not.an.expression} $(HOME) ${'${'}")],
        # A macro's own variable may have any name, in a step without forEach too.
        [step(input="${inputs.l.map(item, item.path)}")],
        [step(forEach=[])],
        [step(forEach={})],
    ],
)
def test_what_is_accepted_compiles(steps: list[dict[str, Any]]) -> None:
    spec = workflow(*steps, inputs={"x": "1", "l": []}, outputs={"n": "${workflow.name}", "c": None})
    plan = compile_plan(snapshot(spec), KINDS)
    assert list(plan.steps) == [entry["name"] for entry in steps]


def test_every_reference_is_a_dependency() -> None:
    agent = {
        "command": ["${steps.cmd.output}"],
        "args": ["x ${steps.arg.output}"],
        "env": [{"name": "E", "value": "${steps.env.output}"}],
    }
    fields = {"forEach": "${steps.items.output}", "input": {"x": ["${steps.into.output}"]}, "agent": agent}
    accepted = snapshot(
        workflow(
            step("report", dependsOn=["lint"], **fields),
            *(step(name) for name in ("lint", "items", "into", "cmd", "arg", "env", "other")),
            outputs={"o": "${steps.other.output}"},
        )
    )
    assert accepted["steps"][0]["dependsOn"] == ["arg", "cmd", "env", "into", "items", "lint"]
    plan = compile_plan(accepted, KINDS)
    assert plan.order == ("lint", "items", "into", "cmd", "arg", "env", "report", "other")


# --- standalone AgentTasks


def task(**fields: Any) -> dict[str, Any]:
    return accept("AgentTask", fields)


def test_a_standalone_task_is_a_run_of_one_step_without_a_name() -> None:
    accepted = task(
        agent=IMAGE,
        input={"for": "${workflow.name}"},
        retry={"limit": 1, "on": "${attempt.exitCode != 2}"},
        timeout="1m",
        retention={"pods": "Never"},
    )
    assert accepted["steps"] == [
        {
            "name": "",
            "dependsOn": [],
            "sees": [],
            "continueOnFailure": False,
            "agent": IMAGE,
            "input": {"for": "${workflow.name}"},
            "retry": {
                "limit": 1,
                "backoff": {"initial": "1s", "factor": 2, "max": "1m", "jitter": 0.1},
                "on": "${attempt.exitCode != 2}",
            },
            "disruptions": {"limit": 10},
            "timeout": "1m",
        }
    ]
    assert accepted["retention"] == {"ttlAfterFinished": "168h", "checkpointsPerTask": 10, "pods": "Never"}
    assert task(agent=IMAGE)["steps"][0]["input"] == {}
    assert compile_plan(accepted, KINDS).order == ("",)


@pytest.mark.parametrize(
    ("fields", "path", "message"),
    [
        (
            {"agent": IMAGE, "input": "${inputs.x}"},
            "spec.input",
            "unknown name 'inputs': known here are workflow",
        ),
        ({"agent": IMAGE, "input": ["${item}"]}, "spec.input[0]", "only a step with forEach has it"),
        ({"agent": IMAGE, "input": "${steps.a.output}"}, "spec.input", "unknown name 'steps'"),
        ({"agent": {**IMAGE, "args": ["${1 +}"]}}, "spec.agent.args[0]", "at character 4"),
        ({"agent": {"image": "a:${workflow.name}"}}, "spec.agent.image", "takes no expressions"),
        ({"agent": IMAGE, "input": "${attempt.number}"}, "spec.input", "only retry.on has it"),
        ({"agent": IMAGE, "retry": {"on": "${last}"}}, "spec.retry.on", "only a step with repeat"),
    ],
)
def test_refusals_of_standalone_tasks(fields: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(Refused) as raised:
        task(**fields)
    (problem,) = raised.value.problems
    assert problem.path == path
    assert message in problem.message
