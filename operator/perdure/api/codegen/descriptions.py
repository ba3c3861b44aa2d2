"""Field descriptions, read from the `#:` comments above the fields.

People who change a field read the comment above it, so the comment is the one source: `kubectl explain` shows
it, and the models need no second copy as an argument. Only models that are built at run time, such as the
Step of a registry, have no source; their fields carry the description themselves. Reading source is slow and
needs the files, so the generators do it, and the operator never does.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache

from pydantic import BaseModel


@cache
def _own_comments(cls: type[BaseModel]) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(cls))
    except OSError:
        fields = {name: cls.model_fields[name].description for name in cls.__annotations__}
        return {name: text for name, text in fields.items() if text is not None}
    lines = source.splitlines()
    (node,) = ast.parse(source).body
    if not isinstance(node, ast.ClassDef):  # pragma: no cover - a class's source is a class
        raise TypeError(f"{cls} is no class statement")
    found = {}
    for statement in node.body:
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        comment: list[str] = []
        for line in reversed(lines[: statement.lineno - 1]):
            if not line.strip().startswith("#:"):
                break
            comment.insert(0, line.strip().removeprefix("#:").strip())
        if comment:
            found[statement.target.id] = " ".join(comment)
    return found


def field_descriptions(cls: type[BaseModel]) -> dict[str, str]:
    """Descriptions by field name, inherited ones included. Fields without a description are missing."""
    merged: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is not BaseModel and issubclass(base, BaseModel):
            merged.update(_own_comments(base))
    return {name: text for name, text in merged.items() if name in cls.model_fields}
