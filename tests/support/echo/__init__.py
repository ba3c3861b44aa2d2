"""A step kind that only tests know: it waits for a signal, and its output is the signal's payload."""

from __future__ import annotations

from perdure.steps import KINDS
from tests.support.echo.rules import EchoRules
from tests.support.echo.spec import EchoSpec


class EchoKind(EchoSpec, EchoRules):
    """The step kind `echo`."""

    def executor(self, context: object) -> None:
        """None: an echo has no object in the cluster."""


ECHO = EchoKind()
#: The kinds of the product and this one.
WITH_ECHO = (*KINDS, ECHO)
