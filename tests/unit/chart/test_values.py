"""What values are accepted, and what is said about those that are not."""

from __future__ import annotations

import json

import pytest
import yaml

from .helm import CHART, EVALUATION, EXTERNAL, VALUES, helm, template


@pytest.mark.parametrize("values", [None, *VALUES], ids=lambda file: file.stem if file else "defaults")
def test_helm_lint_finds_no_fault(values):
    done = helm("lint", "--strict", CHART, *(["--values", values] if values else []))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_a_chart_without_stores_names_both_remedies():
    done = template()
    assert done.returncode != 0
    assert "Not set: database.existingSecret and nats.existingSecret" in done.stderr
    assert "--set evaluation.enabled=true" in done.stderr
    assert "kubectl create secret generic perdure-database-url -n perdure-system" in done.stderr


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ("database.existingSecret", "nats.existingSecret"),
        ("nats.existingSecret", "database.existingSecret"),
    ],
)
def test_a_chart_with_one_store_is_refused(given, missing):
    done = template(f"{given}=something")
    assert done.returncode != 0
    assert f"Not set: {missing}." in done.stderr


@pytest.mark.parametrize("given", ["database.existingSecret", "nats.existingSecret"])
def test_evaluation_and_a_store_of_ones_own_exclude_each_other(given):
    done = template(*EVALUATION, f"{given}=something")
    assert done.returncode != 0
    assert f"{given} is set too" in done.stderr
    assert "set evaluation.enabled=false" in done.stderr


@pytest.mark.parametrize(
    ("value", "place", "what"),
    [
        ("evalution.enabled=true", "''", "'evalution' not allowed"),
        ("operator.replica=2", "'/operator'", "'replica' not allowed"),
        ("operator.replicas=two", "'/operator/replicas'", "want integer"),
        ("operator.workers=1000", "'/operator/workers'", "maximum"),
        ("operator.lease.retry=0", "'/operator/lease/retry'", "exclusiveMinimum"),
        ("image.pullPolicy=Sometimes", "'/image/pullPolicy'", "'Always', 'IfNotPresent', 'Never'"),
        ("image.digest=abc", "'/image/digest'", "pattern"),
        ("logging.level=loud", "'/logging/level'", "'debug', 'info', 'warning', 'error'"),
        ("gateway.url=http://gateway/path", "'/gateway/url'", "pattern"),
        ("gateway.service.port=70000", "'/gateway/service/port'", "maximum"),
        ("watchNamespaces={Team_A}", "'/watchNamespaces/0'", "pattern"),
        ("migrations.wait=long", "'/migrations/wait'", "pattern"),
        ("database.poolSize=1", "'/database/poolSize'", "minimum"),
        ("evaluation.postgres.runAsUser=0", "'/evaluation/postgres/runAsUser'", "minimum"),
        ("evaluation.postgres.persistence.size=big", "'/evaluation/postgres/persistence/size'", "pattern"),
        ("policy.rules[0].podTemplate=Deny", "'/policy/rules/0'", "missing property 'name'"),
        ("policy.rules[0].name=Team_A", "'/policy/rules/0/name'", "pattern"),
        ("policy.rules[0].podTemplate=Maybe", "'/policy/rules/0/podTemplate'", "'Allow', 'Deny'"),
        ("policy.rules[0].namespaceSelector.names=a", "'/policy/rules/0/namespaceSelector'", "'names' not"),
        ("policy.rules[0].images={registry.example.com/team-a}", "'/policy/rules/0/images/0'", "pattern"),
        ("policy.rules[0].images={busybox}", "'/policy/rules/0/images/0'", "pattern"),
        ("policy.rules[0].serviceAccounts={a b}", "'/policy/rules/0/serviceAccounts/0'", "pattern"),
        ("operator.extraEnv[0].valeu=x", "'/operator/extraEnv/0'", "'valeu' not allowed"),
    ],
)
def test_a_bad_value_is_refused_by_its_path(value, place, what):
    done = template(*EXTERNAL, value)
    assert done.returncode != 0
    assert f"at {place}" in done.stderr
    assert what in done.stderr


def test_schema_and_values_name_the_same_fields():
    """So that no value is undocumented, and none is documented in vain."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    # Those that have no default worth showing.
    silent = {"global", "operator.podDisruptionBudget.maxUnavailable"}
    silent |= {"gateway.podDisruptionBudget.maxUnavailable"}

    def fields(node, path):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if node.get("additionalProperties") is not False or path.endswith("resources"):
            return {path}
        assert node["type"] == "object", path
        return {
            field
            for name, child in node["properties"].items()
            for field in fields(child, f"{path}.{name}".lstrip("."))
        }

    def given(node, path, known):
        if path in known or not isinstance(node, dict):
            return {path}
        return {
            field
            for name, child in node.items()
            for field in given(child, f"{path}.{name}".lstrip("."), known)
        }

    known = fields(schema, "")
    assert given(values, "", known) == known - silent


def test_every_object_of_the_schema_is_closed():
    schema = json.loads((CHART / "values.schema.json").read_text())
    # Kubernetes' own types, which the API server checks.
    open_ended = {"affinity", "global", "valueFrom"}

    def walk(node, name):
        if isinstance(node, dict):
            if node.get("type") == "object" and name not in open_ended and name != "items":
                assert "additionalProperties" in node, name
            for key, child in node.items():
                walk(child, key)
        elif isinstance(node, list):
            for child in node:
                walk(child, name)

    walk(schema, "")
