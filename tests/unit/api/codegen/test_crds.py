"""The generated CustomResourceDefinitions: complete, small, reproducible, and fresh in the tree."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import yaml
from hack.docs import crds as crds_command
from pydantic import Field

from perdure.api.base import Model
from perdure.api.codegen import crds
from perdure.api.codegen.schema import UnsupportedSchema, spec_schema, status_schema
from perdure.api.custom_resources import CustomResource
from perdure.steps.schema import RESOURCES

ROOT = Path(__file__).parents[4]

#: Of each, and of all together, as sent to the API server.
SIZE_LIMIT = 96 * 1024
TOTAL_LIMIT = 224 * 1024

TAKEN_SHORT_NAMES = {"wf", "tp", "tb", "ag", "ar"}
#: Short names of the built-in kinds (kubectl api-resources).
BUILT_IN_SHORT_NAMES = set(
    "cm cs csr crd crds deploy ds ep ev hpa ing limits netpol no ns pc pdb po pv pvc quota rc rs sa sc sts"
    " svc".split()
)


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a schema with its path."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for key, suffix in (("items", "[]"), ("additionalProperties", ".*")):
        if key in schema:
            yield from nodes(schema[key], path + suffix)


def root_of(kind: CustomResource) -> dict[str, Any]:
    (version,) = crds.crd(kind)["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


@pytest.fixture(params=RESOURCES, ids=lambda kind: kind.kind)
def kind(request: pytest.FixtureRequest) -> CustomResource:
    found: CustomResource = request.param
    return found


@pytest.mark.parametrize("folder", crds.FOLDERS, ids=str)
def test_committed_files_are_fresh(folder: Path) -> None:
    assert crds.stale(ROOT / folder, crds.files(RESOURCES)) == [], "run: make crds"


def test_generator_gives_the_same_bytes_in_another_process() -> None:
    script = (
        "from perdure.api.codegen import crds; from perdure.steps.schema import RESOURCES; "
        "print(''.join(crds.files(RESOURCES).values()), end='')"
    )
    for seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        assert printed.decode() == "".join(crds.files(RESOURCES).values())


def test_check_finds_what_is_stale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "crds"
    arguments = ["--output", str(folder)]
    assert crds_command.main([*arguments, "--check"]) == 1, "nothing has been written yet"
    assert crds_command.main(arguments) == 0
    assert crds_command.main([*arguments, "--check"]) == 0

    (folder / "perdure.dev_agenttasks.yaml").write_text("changed")
    (folder / "perdure.dev_workflows.yaml").unlink()
    (folder / "perdure.dev_formers.yaml").write_text("of a kind that was deleted")
    (folder / "kustomization.yaml").write_text("not ours")
    capsys.readouterr()
    assert crds_command.main([*arguments, "--check"]) == 1
    said = capsys.readouterr().err
    for name in ("perdure.dev_agenttasks.yaml", "perdure.dev_workflows.yaml", "perdure.dev_formers.yaml"):
        assert name in said
    assert "kustomization" not in said and "perdure.dev_agenttemplates.yaml" not in said
    assert (folder / "perdure.dev_agenttasks.yaml").read_text() == "changed", "a check changes nothing"

    assert crds_command.main(arguments) == 0
    assert crds_command.main([*arguments, "--check"]) == 0
    assert not (folder / "perdure.dev_formers.yaml").exists()
    assert (folder / "kustomization.yaml").exists()


def test_every_field_is_described(kind: CustomResource) -> None:
    root = root_of(kind)
    for part in ("spec", "status"):
        for path, node in nodes(root["properties"].get(part, {"description": "none"}), part):
            leaf_of_container = path.endswith(("[]", ".*"))
            if not leaf_of_container or "properties" in node:
                assert node.get("description", "").strip(), f"{kind.kind} {path} has no description"


def test_a_field_keeps_its_own_description_over_its_type_s() -> None:
    schema = root_of(RESOURCES[0])["properties"]["spec"]["properties"]["steps"]["items"]["properties"]
    assert schema["agent"]["description"].startswith("The container that does the work")
    assert schema["forEach"]["description"].endswith("`index`."), (
        "a comment of several lines is one description"
    )


def test_specs_are_bounded(kind: CustomResource) -> None:
    for path, node in nodes(root_of(kind)["properties"]["spec"], "spec"):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if node.get("type") == "string" and "enum" not in node:
            assert "maxLength" in node, path
        if node.get("type") == "integer":
            assert "maximum" in node, path


def test_structural(kind: CustomResource) -> None:
    for path, node in nodes(root_of(kind)):
        assert not node.keys() & {"$ref", "$defs", "title", "default", "allOf", "oneOf", "const"}, path
        assert not ({"properties", "additionalProperties"} <= node.keys()), path
        free = node.get("x-kubernetes-preserve-unknown-fields") or node.get("x-kubernetes-int-or-string")
        assert free or "type" in node, path


def test_free_json_stays_free() -> None:
    spec = root_of(RESOURCES[0])["properties"]["spec"]["properties"]
    step = spec["steps"]["items"]["properties"]
    for node in (step["forEach"], step["input"]):
        assert node["x-kubernetes-preserve-unknown-fields"] is True
        assert node["nullable"] is True, "a null is a value"
        assert "type" not in node
    pod = step["agent"]["properties"]["podTemplate"]["properties"]
    for node in (spec["inputs"], spec["outputs"], step["workflow"]["properties"]["inputs"], pod["spec"]):
        assert node["type"] == "object"
        assert node["additionalProperties"] == {
            "nullable": True,
            "x-kubernetes-preserve-unknown-fields": True,
        }
    child = step["workflow"]["properties"]["spec"]
    assert child["type"] == "object" and child["x-kubernetes-preserve-unknown-fields"] is True


def test_lists_merge_by_key() -> None:
    step = root_of(RESOURCES[0])["properties"]["spec"]["properties"]["steps"]["items"]["properties"]
    env = step["agent"]["properties"]["env"]
    assert env["x-kubernetes-list-type"] == "map" and env["x-kubernetes-list-map-keys"] == ["name"]
    assert step["dependsOn"]["x-kubernetes-list-type"] == "set"


def test_what_cannot_change_is_owned_as_a_whole_but_for_desired_state() -> None:
    spec = root_of(RESOURCES[0])["properties"]["spec"]
    assert "x-kubernetes-map-type" not in spec, "who pauses a run must not own its steps"
    owned = {name: node for name, node in spec["properties"].items() if "type" in node}
    for name in ("inputs", "outputs", "defaults"):
        assert owned[name]["x-kubernetes-map-type"] == "atomic"
    for name in ("steps", "finally"):
        assert owned[name]["x-kubernetes-list-type"] == "atomic"


@pytest.mark.parametrize("kind", [kind for kind in RESOURCES if kind.fixed], ids=lambda kind: kind.kind)
def test_every_field_but_desired_state_is_fixed(kind: CustomResource) -> None:
    fields = root_of(kind)["properties"]["spec"]["properties"]
    unseen = {
        name
        for name, node in fields.items()
        if node.get("additionalProperties", node).get("x-kubernetes-preserve-unknown-fields")
    }
    assert unseen == ({"input"} if kind.kind == "AgentTask" else {"inputs", "outputs"}), "the policy's part"
    assert {*kind.fixed} == fields.keys() - {"desiredState"} - unseen


def test_status_never_stands_in_the_way_of_a_newer_operator(kind: CustomResource) -> None:
    status = root_of(kind)["properties"].get("status")
    assert (status is None) == kind.kind.endswith("Template")
    for path, node in nodes(status or {}, "status"):
        assert not node.keys() & {"enum", "maxLength", "maxItems", "pattern", "maximum", "minimum"}, path
        if "properties" in node:
            assert node["x-kubernetes-preserve-unknown-fields"] is True, path
    if status:
        conditions = status["properties"]["conditions"]
        assert conditions["x-kubernetes-list-map-keys"] == ["type"]
        assert conditions["items"]["required"] == ["type"]


def test_columns() -> None:
    shown = {
        kind.kind: (
            [column.name for column in kind.columns if not column.wide],
            [column.name for column in kind.columns if column.wide],
        )
        for kind in RESOURCES
    }
    assert shown == {
        "Workflow": (["Phase", "Progress", "Message", "Age"], ["Attempts", "Events"]),
        "AgentTask": (["Phase", "Attempt", "Reason", "Checkpoint", "Age"], ["Pod", "Progress", "Message"]),
        "AgentTemplate": (["Image", "Age"], []),
        "WorkflowTemplate": (["Age"], []),
        "WorkflowSchedule": (["Schedule", "Suspended", "Last", "Next", "Age"], ["Active", "Message"]),
    }


def test_column_paths_exist_in_the_schema(kind: CustomResource) -> None:
    root = root_of(kind)
    for column in kind.columns:
        if column.path.startswith(".metadata."):
            continue
        node = root
        path, _, union = column.path.partition("[")
        for part in path.strip(".").split("."):
            node = node["properties"][part]
        if union.startswith("*]."):
            assert union.removeprefix("*].") in node["items"]["properties"], column.path
            continue
        for name in union.rstrip("]").replace("'", "").split(",") if union else ():
            assert name in node["properties"], column.path


def test_names() -> None:
    short_names = [kind.short_name for kind in RESOURCES]
    assert len(set(short_names)) == len(RESOURCES)
    assert not set(short_names) & (TAKEN_SHORT_NAMES | BUILT_IN_SHORT_NAMES)
    for kind in RESOURCES:
        made = crds.crd(kind)["spec"]
        assert made["names"]["categories"] == ["perdure"]
        assert made["scope"] == "Namespaced"


def test_schemas_stay_small() -> None:
    sizes = {name: len(text.encode()) for name, text in crds.files(RESOURCES).items()}
    assert max(sizes.values()) < SIZE_LIMIT and sum(sizes.values()) < TOTAL_LIMIT, sizes


def test_files_are_plain_yaml() -> None:
    for name, text in crds.files(RESOURCES).items():
        assert "&id" not in text and "*id" not in text, f"{name}: anchors are for machines"
        kind = next(kind for kind in RESOURCES if name == f"perdure.dev_{kind.plural}.yaml")
        assert yaml.safe_load(text) == crds.crd(kind)


class Nothing(Model):
    """No schema says this."""


class Union(Model):
    """A union that the dialect does not have."""

    #: Either.
    either: str | int


class Tuple(Model):
    """A tuple, likewise."""

    #: Two.
    pair: tuple[int, str]


class Bounded(Model):
    """A multiple, which the structural dialect has but we have not needed."""

    #: Even.
    number: Annotated[int, Field(multiple_of=2)]


@pytest.mark.parametrize("model", [Union, Tuple, Bounded])
def test_what_cannot_be_said_is_an_error(model: type[Model]) -> None:
    with pytest.raises(UnsupportedSchema, match=model.__name__):
        spec_schema(model)


def test_an_empty_model_is_an_object() -> None:
    assert spec_schema(Nothing) == {
        "description": "No schema says this.",
        "type": "object",
        "properties": {},
    }
    assert status_schema(Nothing)["x-kubernetes-preserve-unknown-fields"] is True
