"""Workflow steps: a child Workflow does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.steps.workflow.rules import WorkflowRules
from perdure.steps.workflow.spec import WorkflowStepSpec

if TYPE_CHECKING:
    from perdure.control.runs.executor import Executor, ExecutorContext


class WorkflowKind(WorkflowStepSpec, WorkflowRules):
    """The step kind `workflow`."""

    def executor(self, context: ExecutorContext) -> Executor:
        # Imported late: `perdure lint` needs no client of the API server.
        from perdure.steps.workflow.executor import WorkflowExecutor

        return WorkflowExecutor(context, self.field)
