"""The sum of the expressions of one object.

Each expression is compiled when the object is accepted, and again by each leader. One has its own limits
(`domain/expressions/cel.py`); the sum bounds what all of them cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from perdure.api.validation.problems import ManifestProblem
from perdure.domain.expressions.templating import has_expression, walk_strings
from perdure.domain.expressions.tokens import end_of_expression

#: Characters of all expressions of one object, without `${` and `}`: the text that is compiled.
MAX_EXPRESSIONS: Final = 64 * 1024


def excess_problem(spec: Mapping[str, Any], path: str) -> ManifestProblem | None:
    """The problem of a spec whose expressions have more than MAX_EXPRESSIONS characters; None if it has none.

    Expressions are counted where they stand, those of workflows that steps write out included, and not for
    each step that takes them from the defaults.
    """
    left = MAX_EXPRESSIONS
    # The inputs of a run are data, and so is the schema of a template's parameters.
    compiled = {name: value for name, value in spec.items() if name not in ("inputs", "parameters")}
    for where, text in walk_strings(compiled, path):
        if not has_expression(text):
            continue
        start = text.find("${")
        while start >= 0:
            if start and text[start - 1] == "$":
                start = text.find("${", start + 2)
                continue
            end = end_of_expression(text, start + 2)
            if end is None:
                end = len(text)
            left -= len(text[start + 2 : end].strip())
            if left < 0:
                return ManifestProblem(
                    where,
                    f"with this, the expressions of the object have more than {MAX_EXPRESSIONS:,} characters "
                    "together: pass what is long as an input, or make several objects",
                )
            start = text.find("${", end)
    return None
