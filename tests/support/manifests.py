"""The parsers and the admission, bound to the step kinds of the product."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from perdure.api.agent import AgentContainer
from perdure.api.base import JsonObject
from perdure.api.validation import parse
from perdure.api.validation.parse import (
    Checked,
    InvalidManifest,
    ManifestProblem,
    check_agenttask,
    check_agenttemplate,
    parse_agenttask,
    parse_agenttemplate,
)
from perdure.api.workflowtemplate import WorkflowTemplateSpec
from perdure.domain.admission.accept import admit
from perdure.domain.admission.templates import ParsedTemplates
from perdure.steps.schema import MODELS

__all__ = [
    "Checked",
    "InvalidManifest",
    "ManifestProblem",
    "accept",
    "check_agenttask",
    "check_agenttemplate",
    "check_inline_workflow",
    "check_workflow",
    "check_workflowschedule",
    "check_workflowtemplate",
    "parse_agenttask",
    "parse_agenttemplate",
    "parse_inline_workflow",
    "parse_workflow",
    "parse_workflowschedule",
    "parse_workflowtemplate",
]

parse_workflow = partial(parse.parse_workflow, models=MODELS)
parse_workflowtemplate = partial(parse.parse_workflowtemplate, models=MODELS)
parse_workflowschedule = partial(parse.parse_workflowschedule, models=MODELS)
parse_inline_workflow = partial(parse.parse_inline_workflow, models=MODELS)
check_workflow = partial(parse.check_workflow, models=MODELS)
check_workflowtemplate = partial(parse.check_workflowtemplate, models=MODELS)
check_workflowschedule = partial(parse.check_workflowschedule, models=MODELS)
check_inline_workflow = partial(parse.check_inline_workflow, models=MODELS)


def accept(
    kind: str,
    spec: Mapping[str, Any],
    agents: Mapping[str, AgentContainer] | None = None,
    workflows: Mapping[str, WorkflowTemplateSpec] | None = None,
) -> JsonObject:
    """The snapshot of a spec. Raises Refused, or TemplateMissing."""
    templates = ParsedTemplates(agents or {}, workflows or {})
    manifest = {"metadata": {"name": "audit"}, "spec": spec}
    return admit(kind, manifest, models=MODELS, templates=templates).accepted()
