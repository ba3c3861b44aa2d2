"""Wait steps: a timer, and nothing runs."""

from __future__ import annotations

from perdure.steps.wait.spec import WaitSpec


class WaitKind(WaitSpec):
    """The step kind `wait`."""
