"""Arguments and variables that expressions computed: what is passed, what is refused, what is shown."""

from typing import Any

import pytest
from tests.unit.control.lives import Live
from tests.unit.control.loop_fixture import A, ControlLoopFixture, played

from perdure.api.agent import MAX_TEXT
from perdure.control.runs.creation import MAX_OBJECT_BYTES
from perdure.domain.expressions.cel import ExpressionError
from perdure.domain.expressions.templating import compact
from perdure.domain.phases import Phase, Reason
from perdure.steps.agent.arguments import MAX_ARGUMENT_BYTES, MAX_ARGUMENTS_BYTES, SHOWN, check_arguments

FIELDS = {
    "agent.command[0]": lambda text: {"command": [text]},
    "agent.args[1]": lambda text: {"args": ["x", text]},
    "agent.env.LONG": lambda text: {"env": [{"name": "LONG", "value": text}]},
}


@pytest.mark.parametrize("path", FIELDS)
@pytest.mark.parametrize("unit", ["x", "é", "$$"])
def test_one_argument_at_its_limit_and_beyond(path: str, unit: str) -> None:
    """The limit counts bytes as the agent receives them: the kubelet reads `$$` as `$`."""
    size = 2 if unit == "é" else 1
    most = unit * (MAX_ARGUMENT_BYTES // size)
    check_arguments(FIELDS[path](most))
    with pytest.raises(ExpressionError) as caught:
        check_arguments(FIELDS[path](most + unit))
    text = f"{path}: {MAX_ARGUMENT_BYTES + size} bytes; the limit of one argument or variable is 98304: pass"
    assert str(caught.value).startswith(text)


def test_all_arguments_at_their_limit_and_beyond() -> None:
    agent: dict[str, Any] = {
        "command": ["x" * MAX_ARGUMENT_BYTES],
        "args": ["x" * MAX_ARGUMENT_BYTES] * 4,
        "env": [
            {"name": "REST", "value": "x" * (MAX_ARGUMENTS_BYTES - 5 * MAX_ARGUMENT_BYTES - 9)},
            {"name": "NAMED", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        ],
    }
    check_arguments(agent)
    del agent["env"][1]
    agent["env"].append({"name": "NAMED2"})
    with pytest.raises(ExpressionError, match="have 524290 bytes; the limit of all together is 524288"):
        check_arguments(agent | {"args": [*agent["args"], "x"]})


def test_a_step_whose_computed_arguments_are_too_long_fails() -> None:
    block = "x" * 50_000
    step = {"name": "a", "agent": {"image": "i", "args": ["${inputs.b + inputs.b}"]}}
    task = Live(step, inputs={"b": block}).tasks[A]
    assert (task.phase, task.reason) == (Phase.FAILED, Reason.EXPRESSION_ERROR)
    assert task.message.startswith(
        "agent.args[0]: 100000 bytes; the limit of one argument or variable is 98304"
    )


def test_a_long_computed_argument_reaches_the_pod_and_is_shortened_in_the_agent_task() -> None:
    async def scenario() -> None:
        block = "x" * 45_000
        agent = {
            "image": "i",
            "args": ["${inputs.b}", "${inputs.b.substring(0, 32768)}"],
            "env": [{"name": "LONG", "value": "${inputs.b}"}],
        }
        stage = ControlLoopFixture({"name": "a", "agent": agent}, inputs={"b": block})
        await stage.ensure()
        container = stage.only("Pod")["spec"]["containers"][0]
        assert container["args"] == [block, block[:32768]]
        assert {"name": "LONG", "value": block} in container["env"]
        displayed = stage.only("AgentTask")["spec"]["agent"]
        short = f"{'x' * SHOWN}… (43976 more characters; the pod has all)"
        assert displayed["args"] == [short, block[:MAX_TEXT]]
        assert displayed["env"] == [{"name": "LONG", "value": short}]

    played(scenario())


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_object_at_the_limit_and_beyond(beyond: int) -> None:
    async def scenario() -> None:
        def fixture(filler: str) -> ControlLoopFixture:
            template = {"spec": {"containers": [{"name": "helper", "image": "i", "args": [filler]}]}}
            return ControlLoopFixture({"name": "a", "agent": {"image": "i", "podTemplate": template}})

        probe = fixture("")
        await probe.ensure()
        pod = probe.only("Pod")
        sent = {
            **pod,
            "metadata": {
                name: value
                for name, value in pod["metadata"].items()
                if name not in ("uid", "generation", "creationTimestamp", "resourceVersion")
            },
        }
        stage = fixture("x" * (MAX_OBJECT_BYTES - len(compact(sent)) + beyond))
        await stage.ensure()
        if not beyond:
            assert len(stage.cluster.all("Pod")) == 1
            return
        refusal = stage.live.objects.refusals[A]
        assert refusal.reason is Reason.INVALID_CONFIG
        assert refusal.message.startswith("the Pod would have 1310721 bytes of JSON; the limit is 1310720: ")
        assert not stage.cluster.all("Pod")

    played(scenario())
