"""Which agent a step gets: its own fields, its template, the run's defaults."""

from typing import Any

import pytest
from tests.support.manifests import accept
from tests.unit.domain.builders import snapshot

from perdure.domain.admission.accept import Refused, TemplateMissing

TEMPLATES: dict[str, dict[str, Any]] = {
    "auditor": {
        "image": "auditor:1",
        "command": ["audit"],
        "args": ["--deep"],
        "env": [{"name": "A", "value": "template"}, {"name": "T", "value": "template"}],
        "serviceAccountName": "auditor",
        "resources": {"limits": {"memory": "1Gi"}},
    },
    "writer": {"image": "writer:1"},
    "imageless": {"command": ["x"]},
}


def agent(own: dict[str, Any] | None, defaults: dict[str, Any] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = {"steps": [{"name": "a", **({"agent": own} if own is not None else {})}]}
    if defaults is not None:
        spec["defaults"] = {"agent": defaults}
    resolved: dict[str, Any] = snapshot(spec, TEMPLATES)["steps"][0]["agent"]
    return resolved


@pytest.mark.parametrize(
    ("own", "defaults", "wanted"),
    [
        ({"image": "i"}, None, {"image": "i"}),
        (None, {"image": "d"}, {"image": "d"}),
        (
            {"image": "i"},
            {"image": "d", "serviceAccountName": "s"},
            {"image": "i", "serviceAccountName": "s"},
        ),
        ({"templateRef": "auditor"}, None, TEMPLATES["auditor"]),
        (None, {"templateRef": "writer"}, {"image": "writer:1"}),
        # Own fields win over the template's.
        ({"templateRef": "writer", "image": "i"}, None, {"image": "i"}),
        ({"image": "i"}, {"templateRef": "writer"}, {"image": "i"}),
        (None, {"templateRef": "writer", "image": "d"}, {"image": "d"}),
        # A step that names a template means that one, whatever the defaults say.
        ({"templateRef": "writer"}, {"templateRef": "auditor"}, {"image": "writer:1"}),
        ({"templateRef": "writer"}, {"image": "d", "args": ["x"]}, {"image": "writer:1", "args": ["x"]}),
        (
            {"templateRef": "writer", "serviceAccountName": "own"},
            {"templateRef": "auditor", "serviceAccountName": "default"},
            {"image": "writer:1", "serviceAccountName": "own"},
        ),
    ],
)
def test_who_wins(
    own: dict[str, Any] | None, defaults: dict[str, Any] | None, wanted: dict[str, Any]
) -> None:
    assert agent(own, defaults) == wanted


@pytest.mark.parametrize(
    ("own", "command", "args"),
    [
        ({"args": ["x"]}, ["audit"], ["x"]),
        # As in a pod: a new command does not get the old one's arguments.
        ({"command": ["sh"]}, ["sh"], None),
        ({"command": ["sh"], "args": ["-c"]}, ["sh"], ["-c"]),
        ({"args": []}, ["audit"], []),
        ({}, ["audit"], ["--deep"]),
    ],
)
def test_commands_and_arguments(own: dict[str, Any], command: list[str], args: list[str] | None) -> None:
    resolved = agent({"templateRef": "auditor", **own})
    assert (resolved["command"], resolved.get("args")) == (command, args)


def test_environments_are_joined_by_name() -> None:
    own = [{"name": "A", "value": "own"}, {"name": "O", "value": "own"}]
    resolved = agent({"templateRef": "auditor", "env": own}, {"env": [{"name": "D", "value": "default"}]})
    # The kubelet expands $(NAME) only of variables that come before: those from below come first.
    assert [(variable["name"], variable["value"]) for variable in resolved["env"]] == [
        ("D", "default"),
        ("T", "template"),
        ("A", "own"),
        ("O", "own"),
    ]


def test_a_variable_may_change_where_it_comes_from() -> None:
    source = {"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    resolved = agent({"templateRef": "auditor", "env": [source]})
    assert source in resolved["env"]
    assert {"name": "T", "value": "template"} not in resolved["env"]


def test_expressions_of_a_template_are_checked_where_it_is_used() -> None:
    templates = {"t": {"image": "i", "args": ["${item}"]}}
    spec = {"steps": [{"name": "a", "agent": {"templateRef": "t"}}]}
    with pytest.raises(Refused) as raised:
        snapshot(spec, templates)
    (problem,) = raised.value.problems
    assert problem.path == "AgentTemplate t: spec.args[0]"
    assert problem.message.endswith("only a step with forEach has it (step 'a' takes it from here)")
    spec["steps"][0]["forEach"] = [1]  # type: ignore[assignment]
    assert snapshot(spec, templates)["steps"][0]["agent"] == templates["t"]


def test_a_snapshot_does_not_follow_its_template() -> None:
    templates = {"t": {"image": "i:1"}}
    accepted = snapshot({"steps": [{"name": "a", "agent": {"templateRef": "t"}}]}, templates)
    templates["t"]["image"] = "i:2"
    assert accepted["steps"][0]["agent"] == {"image": "i:1"}


def test_missing_templates_are_all_named_and_not_yet_a_fault() -> None:
    spec = {
        "defaults": {"agent": {"templateRef": "base"}},
        "steps": [
            {"name": "a"},
            {"name": "b", "agent": {"templateRef": "late"}},
            {"name": "c", "agent": {"templateRef": "writer"}},
        ],
    }
    with pytest.raises(TemplateMissing) as raised:
        snapshot(spec, TEMPLATES)
    assert [(reference.path, reference.message) for reference in raised.value.references] == [
        ("spec.defaults.agent.templateRef", "there is no AgentTemplate 'base' in this namespace; apply it"),
        ("spec.steps[1].agent.templateRef", "there is no AgentTemplate 'late' in this namespace; apply it"),
    ]
    assert [(it.kind, it.name) for it in raised.value.references] == [
        ("AgentTemplate", "base"),
        ("AgentTemplate", "late"),
    ]


def test_a_template_that_lacks_an_image_is_a_fault_where_no_layer_gives_one() -> None:
    with pytest.raises(Refused, match=r"spec.steps\[0\].agent.image: an image is needed"):
        agent({"templateRef": "imageless"})
    assert agent({"templateRef": "imageless"}, {"image": "d"})["image"] == "d"


def test_a_standalone_tasks_template() -> None:
    spec = {"agent": {"templateRef": "late", "args": ["x"]}}
    with pytest.raises(TemplateMissing, match=r"spec.agent.templateRef: there is no AgentTemplate 'late'"):
        accept("AgentTask", spec)
