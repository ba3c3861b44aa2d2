"""The rule that no module outside `steps` compares the name of a step kind: a new kind changes none."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import perdure
from perdure.steps import KINDS

ROOT = Path(perdure.__file__).parent
NAMES = {kind.field for kind in KINDS}


def compared(source: str) -> Iterator[int]:
    """Lines of a module that compare something with the name of a kind."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            if any(_is_kind(operand) and _is_name(other) for operand in operands for other in operands):
                yield node.lineno


def _is_kind(node: ast.expr) -> bool:
    """True for `….kind` and `….kind.field`."""
    text = ast.unparse(node)
    return text.endswith((".kind", ".kind.field")) or text == "kind"


def _is_name(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Constant) and part.value in NAMES for part in ast.walk(node))


def test_no_module_outside_steps_compares_the_name_of_a_kind() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted(ROOT.rglob("*.py"))
        if path.relative_to(ROOT).parts[0] != "steps"
        for line in compared(path.read_text())
    ]
    assert found == []


def test_a_comparison_is_found() -> None:
    source = "a = step.kind == 'wait'\nb = 'agent' != step.kind.field\nc = step.kind in ('workflow',)\n"
    assert list(compared(source)) == [1, 2, 3]
