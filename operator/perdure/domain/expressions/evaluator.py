"""The CEL library, without the command line that it imports along: a prompt, a highlighter, half a second."""

from __future__ import annotations

from perdure.import_guards import hollow

with hollow("cel.cli"):
    from cel import Context, Program, compile
    from cel.stdlib import STDLIB_FUNCTIONS

__all__ = ["STDLIB_FUNCTIONS", "Context", "Program", "compile"]
