"""Workflow steps: a child Workflow does the work."""

from __future__ import annotations

from perdure.steps.workflow.spec import WorkflowStepSpec


class WorkflowKind(WorkflowStepSpec):
    """The step kind `workflow`."""
