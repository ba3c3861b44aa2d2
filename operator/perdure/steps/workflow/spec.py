"""The manifest side of workflow steps: a child Workflow, from a template or written out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Final

from pydantic import WithJsonSchema, model_validator

from perdure.api.base import JsonMap, JsonObject, Model, ObjectName
from perdure.api.graph import MAX_INPUT_BYTES
from perdure.api.raw_spec import Found, Raw
from perdure.api.step import Step
from perdure.api.step_kind import BlockRepair, Excluded
from perdure.api.validation.cross_field import check_size
from perdure.api.validation.parse import check_inline_workflow
from perdure.domain.admission.context import CheckedStep, StepContext
from perdure.domain.admission.expression_check import check_value
from perdure.domain.admission.graph_check import analyze_graph
from perdure.domain.admission.parameters import check_literals, check_parameters
from perdure.domain.admission.step_kind import StepAdmission
from perdure.domain.admission.templates import NO_TEMPLATES

#: Unlike other free-form objects, because CEL rules must see whether the field is there.
_InlineSpec = Annotated[
    dict[str, Any], WithJsonSchema({"type": "object", "x-kubernetes-preserve-unknown-fields": True})
]
#: A child with which nothing is wrong.
_UNKNOWN: Final[JsonObject] = {"spec": {"steps": [{"name": "unknown", "agent": {"image": "unknown"}}]}}


class ChildWorkflow(Model):
    """A step that is a Workflow of its own; its outputs are the step's output."""

    #: Name of a WorkflowTemplate in the same namespace.
    template_ref: ObjectName | None = None
    #: The Workflow written out instead: the fields of a WorkflowTemplate but `parameters`. Its expressions
    #: are its own: they see its inputs and steps, not those of the workflow around it.
    spec: _InlineSpec | None = None
    #: Its inputs; strings may hold `${}` expressions of the workflow around it.
    inputs: JsonMap = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> ChildWorkflow:
        if (self.template_ref is None) == (self.spec is None):
            raise ValueError("takes exactly one of templateRef and spec")
        return self


class WorkflowStepSpec(StepAdmission):
    """A child Workflow: a run of its own, with templates and expressions of its own."""

    field = "workflow"
    noun = "a workflow"
    block: ClassVar[type[Model]] = ChildWorkflow
    description = "Runs another workflow instead of an agent."
    stand_in = _UNKNOWN
    repair = BlockRepair(fields=_UNKNOWN, one_of=("spec", "templateRef"))
    excludes: ClassVar[tuple[Excluded, ...]] = (
        Excluded(fields=("input",), remedy="give it in workflow.inputs"),
        Excluded(
            fields=("pendingTimeout", "idleTimeout"),
            remedy="give it to the steps of that workflow",
            remedy_for_all="they belong to that workflow's steps",
        ),
    )
    cel_rules: ClassVar[tuple[tuple[str, str], ...]] = (
        (
            "!has(s.workflow) || has(s.workflow.templateRef) != has(s.workflow.spec)",
            "workflow takes exactly one of templateRef and spec",
        ),
    )
    misplaced: ClassVar[Mapping[str, str]] = {
        "inputs": "an agent takes input, and a workflow workflow.inputs"
    }
    shape = ("[[", "]]")

    def check_block(self, block: Raw, found: Found) -> None:
        check_size(block.at("inputs"), MAX_INPUT_BYTES, found)

    def inner_workflows(self, block: Raw) -> Iterator[Raw]:
        yield block.at("spec")

    def marks(self, block: ChildWorkflow) -> Iterator[str]:
        if block.template_ref is not None:
            yield f"of {block.template_ref}"

    def check(self, step: Step, block: ChildWorkflow, context: StepContext) -> CheckedStep:
        path = f"{context.path}.workflow"
        needed = check_value(block.inputs, f"{path}.inputs", context.scope, context.findings)
        if block.spec is not None:
            _check_inline(block.spec, f"{path}.spec", context)
            source: JsonObject = {"spec": block.spec}
        else:
            _check_template(block, path, context)
            source = {"templateRef": block.template_ref}
        return CheckedStep({"workflow": {**source, "inputs": dict(block.inputs)}}, needed)


def _check_inline(spec: JsonObject, path: str, context: StepContext) -> None:
    """Check a child that is written out. Its faults are faults of the manifest around it."""
    graph = context.graph
    where = graph.checked.where(path)
    # The problems of parsing were reported with those of the whole manifest.
    checked = graph.checked.inner.get(where) or check_inline_workflow(spec, path, context.admission.models)
    if checked.spec is None:
        return
    outer = graph.outer
    # The child finds its own AgentTemplates when it starts, so their absence is no reason to wait now.
    analyze_graph(checked, outer if outer.children else replace(outer, templates=NO_TEMPLATES, missing={}))


def _check_template(block: ChildWorkflow, path: str, context: StepContext) -> None:
    """Check a child's inputs against its template, if templates of children are needed now."""
    if block.template_ref is None or not context.admission.children:
        return
    template = context.admission.workflow_template(block.template_ref, f"{path}.templateRef")
    # Values cannot be checked against a faulty schema, whose faults are reported with the template.
    if template is not None and template.parameters is not None and not check_parameters(template.parameters):
        context.findings.extend(check_literals(template.parameters, block.inputs, f"{path}.inputs"))
