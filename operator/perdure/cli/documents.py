"""Manifests in files, read as kubectl reads them, with the line of every field.

kubectl follows YAML 1.1: a bare `on` or `y` is a truth value, even as a key, `017` is fifteen, and a time is
text. A check that read a file in another way would find faults that are none, and miss others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import yaml

_TAG: Final = "tag:yaml.org,2002:"
_TRUE: Final = "y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON"
_FALSE: Final = "n|N|no|No|NO|false|False|FALSE|off|Off|OFF"
_INTEGER: Final = r"[-+]?(0[xX][0-9a-fA-F_]+|0[bB][01_]+|0[oO]?[0-7_]*|[1-9][0-9_]*)"
_FLOAT: Final = (
    r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)

#: Values in one document, aliases expanded: more are an attack (a "billion laughs" bomb) or a mistake.
_MOST: Final = 200_000
#: Levels of one document. The parser would recurse until the stack overflows, which ends the process.
_DEEPEST: Final = 200
_MARKER: Final = re.compile(r"^---(?=\s|$)", re.MULTILINE)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc] # C where there is C
    yaml_implicit_resolvers: dict[str, list[Any]] = {}


for _name, _pattern in (
    ("bool", f"{_TRUE}|{_FALSE}"),
    ("int", _INTEGER),
    ("float", _FLOAT),
    ("null", "~|null|Null|NULL|"),
    ("merge", "<<"),
):
    _Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), None)


@dataclass(slots=True)
class Place:
    """The line of a value, and of the values inside it."""

    line: int
    parts: dict[str | int, Place] = field(default_factory=dict)

    def line_of(self, path: str) -> int:
        """The line of a field, or of the nearest one around it that is there."""
        place, rest = self, f".{path}"
        while rest:
            name = max(
                (part for part in place.parts if _starts(rest, part)),
                key=lambda part: len(str(part)),
                default=None,
            )
            if name is None:
                break
            place = place.parts[name]
            rest = rest[_starts(rest, name) :]
        return place.line


@dataclass(frozen=True, slots=True)
class Slip:
    """A problem of the text itself. `path` is '' where no field is known."""

    line: int
    path: str
    message: str
    #: Whether the problem is a name that YAML takes for another value.
    of_name: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """One YAML document: an object, or any other value."""

    value: Any
    place: Place
    slips: tuple[Slip, ...] = ()


def read_documents(text: str) -> Iterator[Document | Slip]:
    """All documents of a file, each item of a List as one; a document that cannot be read is a Slip."""
    offset = 0
    while True:
        loader = _Loader(text)
        try:
            _check_depth(text)
            while loader.check_node():
                node = loader.get_node()
                if node is not None and not _is_empty(node):
                    yield from _objects(_Reader(offset), node)
            return
        except yaml.YAMLError as error:
            slip, line = _syntax_slip(error, offset, text)
            yield slip
        except _TooDeep as error:
            yield Slip(offset + error.line, "", f"is nested deeper than {_DEEPEST} levels")
            return
        finally:
            loader.dispose()
        # An unreadable document does not hide the documents after it.
        lines = text.splitlines(keepends=True)
        rest = "".join(lines[line:])
        marker = _MARKER.search(rest)
        if marker is None:
            return
        offset += line + rest.count("\n", 0, marker.start())
        text = rest[marker.start() :]


def _objects(reader: _Reader, node: yaml.Node) -> Iterator[Document | Slip]:
    place = Place(node.start_mark.line + 1 + reader.offset)
    try:
        value = reader.read(node, "", place)
    except _TooMuch:
        yield Slip(place.line, "", f"has more than {_MOST} values, counting each use of an alias")
        return
    items = value.get("items") if isinstance(value, dict) and value.get("kind") == "List" else None
    if not isinstance(items, list):
        yield Document(value, place, tuple(reader.slips))
        return
    for number, item in enumerate(items):
        start = f"items[{number}]"
        slips = [
            replace(slip, path=slip.path[len(start) :].lstrip("."))
            for slip in reader.slips
            if slip.path == start or slip.path.startswith((f"{start}.", f"{start}["))
        ]
        yield Document(item, place.parts["items"].parts[number], tuple(slips))
    for slip in reader.slips:
        if not slip.path.startswith("items["):
            yield slip


class _TooDeep(Exception):
    """A document of more than `_DEEPEST` levels."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def _check_depth(text: str) -> None:
    """Raises _TooDeep. Only a text with brackets or indentation enough to be too deep is parsed for that."""
    if text.count("[") + text.count("{") + max(map(len, text.splitlines()), default=0) < _DEEPEST:
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                raise _TooDeep(1 if event.start_mark is None else event.start_mark.line + 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _is_empty(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == f"{_TAG}null"


class _TooMuch(Exception):
    """A document of more than `_MOST` values."""


class _Reader:
    """Values of nodes, as kubectl would send them to the API server."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.slips: list[Slip] = []
        self._left = _MOST
        self._within: set[int] = set()

    def read(self, node: yaml.Node, path: str, place: Place) -> Any:
        self._left -= 1
        if self._left < 0:
            raise _TooMuch
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if id(node) in self._within:
            raise _TooMuch  # An alias inside its own anchor.
        self._within.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                value = []
                for number, item in enumerate(node.value):
                    place.parts[number] = Place(self._line(item))
                    value.append(self.read(item, f"{path}[{number}]", place.parts[number]))
                return value
            return self._map(node, path, place)
        finally:
            self._within.discard(id(node))

    def _map(self, node: yaml.Node, path: str, place: Place) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        value: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = self._line(key_node)
            if key_node.tag == f"{_TAG}merge":
                sources = value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                for source in reversed(sources):
                    found = self.read(source, path, place)
                    if isinstance(found, dict):
                        merged |= found
                continue
            key = self._key(key_node, path, line)
            child = f"{path}.{key}" if path else key
            if key in value:
                before = place.parts[key].line
                self.slips.append(Slip(line, child, f"is given twice, here and in line {before}: remove one"))
            place.parts[key] = Place(line)
            value[key] = self.read(value_node, child, place.parts[key])
        return {**merged, **value}

    def _key(self, node: yaml.Node, path: str, line: int) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.slips.append(Slip(line, path, "a list or a map cannot be the name of a field"))
            return "?"
        text = str(node.value)
        # `retry.on` means the same to us when it was read as true.
        taken = text == "on" and path.rpartition(".")[2] == "retry"
        if node.tag in (f"{_TAG}bool", f"{_TAG}null") and text not in ("true", "false") and not taken:
            means = "null" if node.tag == f"{_TAG}null" else str(_scalar(node)).lower()
            place = f"{path}.{text}" if path else text
            message = f"in YAML the bare key {text!r} means {means}: put it in quotes"
            self.slips.append(Slip(line, place, message, of_name=True))
        return text

    def _line(self, node: yaml.Node) -> int:
        return int(node.start_mark.line) + 1 + self.offset


def _scalar(node: yaml.ScalarNode) -> Any:
    text = str(node.value)
    kind = node.tag.removeprefix(_TAG)
    plain = text.replace("_", "")
    if kind == "null":
        return None
    if kind == "bool":
        return re.fullmatch(_TRUE, text) is not None
    if kind == "int" and re.fullmatch(_INTEGER, text):
        sign = -1 if plain.startswith("-") else 1
        digits = plain.lstrip("+-")
        octal = re.fullmatch(r"0[oO]?([0-7]+)", digits)
        return sign * (int(octal[1], 8) if octal else int(digits, 0))
    if kind == "float" and re.fullmatch(_FLOAT, text):
        number = float(re.sub(r"\.(?=[a-zA-Z])", "", plain))
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return text


def _starts(rest: str, part: str | int) -> int:
    """How much of a path names `part` first; 0 if another does."""
    forms = (f"[{part}]",) if isinstance(part, int) else (f".{part}", f'["{part}"]')
    for form in forms:
        if rest.startswith(form) and rest[len(form) : len(form) + 1] in ("", ".", "["):
            return len(form)
    return 0


def _syntax_slip(error: yaml.YAMLError, offset: int, text: str) -> tuple[Slip, int]:
    """The parser's complaint, and the number of lines before what is still to be read."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line if mark is not None else _line_of_character(error, text)
    line = min(line, max(len(text.splitlines()) - 1, 0))
    complaint = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).split("\n")[0]
    # The text begins with a marker of its own.
    return Slip(offset + line + 1, "", f"is not YAML: {complaint}"), max(line, 1)


def _line_of_character(error: yaml.YAMLError, text: str) -> int:
    position = getattr(error, "position", 0)
    return text.count("\n", 0, position if isinstance(position, int) else 0)
