"""A graph of steps drawn: as a Mermaid flowchart for Markdown, or by level for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A step as the drawing has it."""

    name: str
    #: The step's name in the drawing.
    label: str
    #: The field of the step's kind.
    kind: str
    #: The brackets around the label in Mermaid.
    shape: tuple[str, str]
    #: Notes under the label, such as `forEach` or `repeat ≤ 5`.
    marks: tuple[str, ...]
    #: Steps of the same list that it waits for, and whether only its `when` refers to them.
    needs: Mapping[str, bool]
    #: Main steps that a finally step refers to, likewise.
    sees: Mapping[str, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """A graph of steps, ready to be drawn."""

    title: str
    steps: Sequence[Node]
    finally_: Sequence[Node]


def mermaid(drawing: Drawing) -> Iterator[str]:
    """The lines of a Mermaid flowchart. References of `when` are dashed."""
    # Names such as `end` are keywords of Mermaid, so nodes get keys of our own.
    keys = {node.name: f"s{number}" for number, node in enumerate(drawing.steps)}
    keys |= {node.name: f"f{number}" for number, node in enumerate(drawing.finally_)}
    yield "---"
    yield f"title: {drawing.title}"
    yield "---"
    yield "flowchart TD"
    indent = "  "
    if drawing.finally_:
        yield f"{indent}subgraph steps"
        indent = "    "
    for node in drawing.steps:
        yield f"{indent}{keys[node.name]}{_shape(node)}"
    for node in drawing.steps:
        for need, only_when in node.needs.items():
            yield f"{indent}{keys[need]} {_arrow(only_when)} {keys[node.name]}"
    if not drawing.finally_:
        return
    yield "  end"
    yield "  subgraph finally"
    for node in drawing.finally_:
        yield f"{indent}{keys[node.name]}{_shape(node)}"
    for node in drawing.finally_:
        for need, only_when in node.needs.items():
            yield f"{indent}{keys[need]} {_arrow(only_when)} {keys[node.name]}"
    yield "  end"
    yield "  steps ==> finally"
    for node in drawing.finally_:
        for name, only_when in node.sees.items():
            yield f"  {keys[name]} {_arrow(only_when)} {keys[node.name]}"


def text(drawing: Drawing) -> Iterator[str]:
    """Lines with the steps by level: each step below all the steps that it waits for."""
    yield drawing.title
    for heading, nodes in (("", drawing.steps), ("finally", drawing.finally_)):
        if heading and nodes:
            yield ""
            yield heading
        rows = list(_rows(nodes))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _rows(nodes: Sequence[Node]) -> Iterator[tuple[str, str, str, str]]:
    shown = None
    levels = _levels(nodes)
    for node in sorted(nodes, key=lambda node: levels[node.name]):
        level = levels[node.name]
        names = [f"{name}?" if only_when else name for name, only_when in {**node.needs, **node.sees}.items()]
        arrow = f"<- {', '.join(names)}" if names else ""
        yield "" if level == shown else str(level), node.label, " ".join((node.kind, *node.marks)), arrow
        shown = level


def _levels(nodes: Sequence[Node]) -> dict[str, int]:
    """The length of the longest path to each step, from 1. Steps of a cycle come last."""
    levels: dict[str, int] = {}
    left = {node.name: node for node in nodes}
    level = 0
    while left:
        level += 1
        ready = [name for name, node in left.items() if not node.needs.keys() & left.keys()] or list(left)
        for name in ready:
            levels[name] = level
            del left[name]
    return levels


def _shape(node: Node) -> str:
    before, after = node.shape
    label = "<br/>".join((node.label, *node.marks)).replace('"', "#quot;")
    return f'{before}"{label}"{after}'


def _arrow(only_when: bool) -> str:
    return "-.->" if only_when else "-->"
