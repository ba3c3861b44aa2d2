"""The CEL library, without the command line that it imports along: a prompt, a highlighter, half a second.

The library is written in Rust, and a fault of it is a panic, which arrives as a `BaseException`: past every
`except Exception`, up to the end of the process. The functions here are the only places where the library is
called with what people wrote, and raise ordinary errors.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Mapping
from typing import Any

from perdure.import_guards import hollow

with hollow("cel.cli"):
    import cel
    from cel import Context, Program
    from cel.stdlib import STDLIB_FUNCTIONS

__all__ = ["STDLIB_FUNCTIONS", "Context", "Program", "compile", "execute", "references"]

#: With these a task, a generator or the process is ended from outside: no fault of an expression.
_ENDINGS = (CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit)
#: With these the evaluator says what is wrong with a value.
_COMPLAINTS = (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError)


def compile(text: str) -> Program:
    """The program of CEL text. Raises ValueError if there is none, whatever the library raises."""
    try:
        return cel.compile(text)
    except (*_ENDINGS, ValueError):
        raise
    except BaseException as error:
        raise ValueError(_failure(error)) from error


def references(program: Program) -> Mapping[str, Any]:
    """The names of the `variables` and `functions` that a program refers to. Raises ValueError."""
    try:
        return program.references()
    except (*_ENDINGS, ValueError):
        raise
    except BaseException as error:
        raise ValueError(_failure(error)) from error


def execute(program: Program, variables: dict[str, Any] | Context) -> Any:
    """What a program gives for these variables.

    Raises ArithmeticError, LookupError, TypeError, ValueError, RuntimeError and MemoryError, as the library
    does, and ValueError for whatever else the library raises.
    """
    try:
        return program.execute(variables)
    except (*_ENDINGS, *_COMPLAINTS, MemoryError):
        raise
    except BaseException as error:
        raise ValueError(_failure(error)) from error


def _failure(error: BaseException) -> str:
    return (
        f"the evaluator failed ({type(error).__name__}: {str(error)[:200]}); write the expression differently"
    )
