"""Wait steps: a timer, and nothing runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.steps.wait.rules import WaitRules
from perdure.steps.wait.spec import WaitSpec

if TYPE_CHECKING:
    from perdure.control.runs.executor import ExecutorContext


class WaitKind(WaitSpec, WaitRules):
    """The step kind `wait`."""

    def executor(self, context: ExecutorContext) -> None:
        """None: a wait has no object in the cluster."""
