"""A step kind that only tests know: it waits for a signal, and its output is the signal's payload."""

from __future__ import annotations

from perdure.steps import KINDS
from tests.support.echo.spec import EchoSpec


class EchoKind(EchoSpec):
    """The step kind `echo`."""


ECHO = EchoKind()
#: The kinds of the product and this one.
WITH_ECHO = (*KINDS, ECHO)
