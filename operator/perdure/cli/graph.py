"""`perdure graph`: the steps of a Workflow or WorkflowTemplate, and what waits for what."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from perdure.api.base import JsonObject
from perdure.api.custom_resources import WORKFLOW, WORKFLOW_SCHEDULE, WORKFLOW_TEMPLATE
from perdure.api.graph import Graph
from perdure.api.spec_models import SpecModels
from perdure.api.step import Step
from perdure.api.validation.checked import Checked
from perdure.cli import drawing
from perdure.cli.arguments import GraphFormat
from perdure.cli.checks import Checkup, Object, check_files
from perdure.cli.drawing import Drawing, Node
from perdure.cli.lint import text_line
from perdure.cli.output import print_line
from perdure.domain.admission.context import Admission
from perdure.domain.admission.graph_check import analyze_graph

_KINDS = (WORKFLOW.kind, WORKFLOW_TEMPLATE.kind, WORKFLOW_SCHEDULE.kind)


class NothingToDraw(Exception):
    """A file without a graph, with several, or without the one that was asked for."""


def print_graph(
    files: Sequence[tuple[str, str]], models: SpecModels, *, name: str | None, form: GraphFormat
) -> bool:
    """Draw a graph as far as it can be read. True if its manifest has no faults.

    Faults go to standard error. Raises NothingToDraw.
    """
    checkup = check_files(files, models)
    entry = _chosen(checkup, name)
    faults = [fault for fault in checkup.faults if fault.name == entry.name or not fault.kind]
    for fault in faults:
        sys.stderr.write(f"{text_line(fault)}\n")
    drawn = _drawing(f"{entry.kind} {entry.name}", _graph_of(checkup, entry), models)
    for line in drawing.mermaid(drawn) if form is GraphFormat.MERMAID else drawing.text(drawn):
        print_line(line)
    return not faults


def _chosen(checkup: Checkup, name: str | None) -> Object:
    candidates = [entry for entry in checkup.objects if entry.kind in _KINDS]
    chosen = [entry for entry in candidates if name in (None, entry.name, f"{entry.kind}/{entry.name}")]
    if len(chosen) == 1:
        return chosen[0]
    if not candidates:
        broken = [text_line(fault) for fault in checkup.faults]
        raise NothingToDraw("\n".join(["there is no Workflow or WorkflowTemplate to draw", *broken]))
    there = ", ".join(f"{entry.kind}/{entry.name}" for entry in candidates)
    if not chosen:
        raise NothingToDraw(f"there is no {name!r}; there are {there}")
    raise NothingToDraw(f"there are several: give the name of one of {there}")


def _graph_of(checkup: Checkup, entry: Object) -> Checked[Graph]:
    """The graph of an object: its own, that of the Workflow in it, or that of the template that it names."""
    checked = entry.checked
    if entry.kind == WORKFLOW_SCHEDULE.kind:
        checked = next(iter(checked.inner.values()), checked)
    reference = getattr(checked.spec, "template_ref", None)
    if reference is not None:
        template = next(
            (it for it in checkup.objects if it.kind == WORKFLOW_TEMPLATE.kind and it.name == reference), None
        )
        if template is None:
            raise NothingToDraw(
                f"its steps are those of WorkflowTemplate {reference}, which is not in the file:"
                " give the template's file too"
            )
        checked = template.checked
    if not isinstance(checked.spec, Graph):
        raise NothingToDraw("it has no steps that can be read; see `perdure lint`")
    return checked


def _drawing(title: str, checked: Checked[Graph], models: SpecModels) -> Drawing:
    graph = checked.spec
    assert graph is not None
    made = analyze_graph(checked, Admission(models=models))
    # A step that is needed also without the conditions is needed for another reason.
    bare = graph.model_copy(
        update={"steps": _without_when(graph.steps), "finally_": _without_when(graph.finally_)}
    )
    needed = analyze_graph(Checked(spec=bare, problems=()), Admission(models=models))
    nodes = {
        part: [
            _node(step, _label(checked, part, position, step), made[part][position], needed[part][position])
            for position, step in enumerate(steps)
        ]
        for part, steps in (("steps", graph.steps), ("finally", graph.finally_))
    }
    return Drawing(title=title, steps=nodes["steps"], finally_=nodes["finally"])


def _label(checked: Checked[Graph], part: str, position: int, step: Step) -> str:
    """The name as it is written: error recovery replaces a faulty one."""
    written = None if checked.repair is None else checked.repair.get((part, position, "name"))
    return written if isinstance(written, str) and written else step.name


def _without_when(steps: Sequence[Step]) -> list[Step]:
    return [step.model_copy(update={"when": None}) for step in steps]


def _node(step: Step, label: str, made: JsonObject, needed: JsonObject) -> Node:
    kind, marks = step.kind, []
    if step.for_each is not None:
        marks.append("forEach")
    if step.repeat is not None:
        marks.append(f"repeat ≤ {step.repeat.max_iterations}")
    if step.when is not None:
        marks.append("when")
    if step.block is not None:
        marks += kind.marks(step.block)
    return Node(
        name=step.name,
        label=label,
        kind=kind.field,
        shape=kind.shape,
        marks=tuple(marks),
        needs={name: name not in needed["dependsOn"] for name in made["dependsOn"]},
        # A finally step waits for all main steps, whether it refers to them or not.
        sees={name: name not in needed["sees"] for name in made["sees"] if name not in made["dependsOn"]},
    )
