"""The example's manifest against the models, and against what its image can do."""

from __future__ import annotations

import re

import pytest
import yaml
from code_audit import scanner

from perdure.api.agenttemplate import AgentTemplateSpec
from perdure.steps.schema import MODELS

from .conftest import EXAMPLE


@pytest.fixture
def manifests():
    documents = yaml.safe_load_all((EXAMPLE / "workflow.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_manifests_hold_nothing_but_known_fields(manifests):
    assert {document["apiVersion"] for document in manifests.values()} == {"perdure.dev/v1alpha1"}
    template = AgentTemplateSpec.model_validate(manifests["AgentTemplate"]["spec"])
    workflow = MODELS.workflow.model_validate(manifests["Workflow"]["spec"])
    assert template.image == "perdure/code-audit:dev"
    assert [step.name for step in workflow.steps] == ["analyse", "validate", "report"]
    assert workflow.defaults.agent is not None
    assert workflow.defaults.agent.template_ref == manifests["AgentTemplate"]["metadata"]["name"]


def test_every_step_calls_a_role_that_the_agent_has(manifests):
    roles = set(re.findall(r'^    "(\w+)": \w+,$', (EXAMPLE / "agent.py").read_text(), re.MULTILINE))
    assert roles == {"analyse", "validate", "report"}
    for step in manifests["Workflow"]["spec"]["steps"]:
        assert step["agent"]["args"][0] in roles


def test_the_audited_files_exist_and_are_in_one_batch_each(manifests):
    batches = manifests["Workflow"]["spec"]["inputs"]["batches"]
    files = [file for batch in batches for file in batch["files"]]
    assert len(files) == len(set(files)) == 32
    assert scanner.check_names(files) == files
    # Enough of them in each batch to kill an agent in the middle.
    assert all(len(batch["files"]) == 8 for batch in batches)


def test_the_image_installs_the_bandit_that_is_tested():
    from importlib.metadata import version

    pinned = re.search(r"^bandit==(\S+)$", (EXAMPLE / "requirements.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert pinned[1] == version("bandit")
