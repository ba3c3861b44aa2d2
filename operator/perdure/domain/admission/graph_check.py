"""The static analysis of a graph of steps: every fault in one pass, and what the run needs to know.

The same holds for a Workflow, for a WorkflowTemplate and for a workflow that a step writes out; and also for
what error recovery has left of a faulty one, so that all faults are reported at once, each of them once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from perdure.api.base import JsonObject
from perdure.api.graph import Graph
from perdure.api.step import Step
from perdure.api.validation.checked import Checked
from perdure.domain.admission.context import Admission, GraphContext
from perdure.domain.admission.expression_check import Findings, Scope, check_value, too_late, unknown_step
from perdure.domain.admission.step_check import check_step
from perdure.domain.expressions.templating import compact
from perdure.domain.graph import Cycle, topological_order

#: Cycles of one graph that are reported: a graph where everything waits for everything has very many.
_REPORTED_CYCLES: Final = 10
#: Compact JSON of the steps of one workflow with templates and defaults filled in: 500 steps may share
#: defaults of a megabyte. The ledger keeps the steps, and each leader compiles them.
MAX_FILLED_BYTES: Final = 4 * 1024 * 1024


def analyze_graph(checked: Checked[Graph], admission: Admission, *, path: str = "") -> JsonObject:
    """Find all faults of a graph beyond those of parsing. Returns its steps, finally steps and outputs.

    `path` is that of the graph if the graph is not in the manifest that was parsed.
    """
    graph = checked.spec
    assert graph is not None, "there is no graph to analyze"
    own = replace(admission, findings=Findings(admission.findings.suggestions), missing={})
    context = GraphContext(graph, checked, path or checked.root, own, admission, {})
    main, last = _names(context, "steps", graph.steps), _names(context, "finally", graph.finally_)
    complete = _complete(context, "steps")
    context.scopes = {
        "steps": Scope(steps=main, too_late=frozenset(last), complete=complete),
        "finally": Scope(
            steps=main | last, failures=True, complete=complete and _complete(context, "finally")
        ),
    }
    made: JsonObject = {}
    filled = 0
    for part, steps, among in (("steps", graph.steps, main), ("finally", graph.finally_, last)):
        made[part] = []
        waits: dict[str, dict[str, str]] = {}
        for position, step in enumerate(steps):
            scope = context.scopes[part]
            where = f"{context.path}.{part}[{position}]"
            if filled > MAX_FILLED_BYTES:
                break
            analyzed = check_step(step, context, (part, position), scope)
            filled += len(compact(analyzed.snapshot))
            sees = analyzed.needed | _dependencies(step, where, scope, own.findings)
            waits[step.name] = {name: field for name, field in sees.items() if name in among}
            order = {"dependsOn": sorted(waits[step.name]), "sees": sorted(sees)}
            made[part].append({"name": step.name, **order, **analyzed.snapshot})
        _find_cycles(waits, {step.name: step for step in steps}, own.findings)
    if filled > MAX_FILLED_BYTES:
        own.findings.add(
            f"{context.path}.steps",
            f"with defaults and templates filled in, the steps have more than {MAX_FILLED_BYTES} bytes of "
            "JSON: let agents fetch what is long, or make several Workflows",
        )
    check_value(graph.outputs, f"{context.path}.outputs", context.scopes["finally"], own.findings)
    made["outputs"] = dict(graph.outputs)
    admission.findings.extend(own.findings.moved(checked.where))
    for missing in own.missing:
        admission.missing[replace(missing, path=checked.where(missing.path))] = None
    return made


def _names(context: GraphContext, part: str, steps: list[Step]) -> dict[str, bool | None]:
    """The names of steps as written, and whether they have `forEach`; None if that is not known."""
    written = context.checked.names.steps if part == "steps" else context.checked.names.finally_
    names: dict[str, bool | None] = {}
    for position, step in enumerate(steps):
        if context.checked.repair is None or step.name in written:
            unclear = context.lost(part, position) or context.altered(part, position, "forEach")
            names[step.name] = None if unclear else step.for_each is not None
    return names | {name: None for name in sorted(written) if name not in names}


def _complete(context: GraphContext, part: str) -> bool:
    """True if no step of a list can have a name that could not be read."""
    repair = context.checked.repair
    if repair is None:
        return True
    steps = repair.get((part,))
    if not steps:
        return part == "finally" and not context.lost()
    return context.checked.names.complete or (
        isinstance(steps, list)
        and all(
            isinstance(step, dict) and isinstance(repair.get((part, position, "name")), str)
            for position, step in enumerate(steps)
        )
    )


def _dependencies(step: Step, path: str, scope: Scope, findings: Findings) -> dict[str, str]:
    """The steps that `dependsOn` names, each with its entry."""
    named: dict[str, str] = {}
    assert scope.steps is not None
    for position, name in enumerate(step.depends_on):
        where = f"{path}.dependsOn[{position}]"
        if name in scope.steps:
            named[name] = where
        elif name in scope.too_late:
            findings.add(where, too_late(name))
        elif scope.complete:
            findings.add(where, unknown_step(name, scope.steps, findings.suggestions))
    return named


def _find_cycles(waits: Mapping[str, dict[str, str]], steps: Mapping[str, Step], findings: Findings) -> None:
    edges = {
        name: {other: where for other, where in needed.items() if other in waits}
        for name, needed in waits.items()
    }
    for _ in range(_REPORTED_CYCLES):
        try:
            topological_order({name: needed.keys() for name, needed in edges.items()})
            return
        except Cycle as cycle:
            first, second = (cycle.steps * 2)[:2]
            message = f"the steps wait for each other: {cycle}; break the cycle"
            if first == second:
                repeats = steps[first].repeat is not None
                hint = "the newest output of its repeat is `last`" if repeats else "refer to other steps"
                message = f"step {first!r} cannot wait for itself; {hint}"
            findings.add(edges[first][second], message)
            # Without this wait there may be another cycle.
            del edges[first][second]
