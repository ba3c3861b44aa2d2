"""A raw spec, as its author wrote it: locations, the objects in it, and the edits that repair it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final

#: The place of a field: names and positions from the root of the spec.
Location = tuple[int | str, ...]
#: Takes the report of a problem: the location in the raw spec, and the message.
Found = Callable[[Location, str], None]

#: Characters of a name in a path: a misspelt one may have a megabyte.
_SHOWN_NAME: Final = 253

_PART: Final = re.compile(r'\.([A-Za-z_][\w-]*)|\[(\d+)\]|\["([^"]*)"\]')


def path_of(location: Location, root: str) -> str:
    """The path of a location under `root`, such as `spec`."""
    return root + "".join(map(part_of_path, location))


def part_of_path(part: int | str) -> str:
    """One step of a path, to an entry by its position or name."""
    if isinstance(part, int):
        return f"[{part}]"
    shown = part if len(part) <= _SHOWN_NAME else f"{part[: _SHOWN_NAME - 1]}…"
    return f".{shown}" if re.fullmatch(r"[A-Za-z_][\w-]*…?", shown) else f'["{shown}"]'


@dataclass(slots=True)
class Repair:
    """A raw spec and the edits that make it valid. Locations of edits are those in the raw spec."""

    raw: Any
    dropped: set[Location] = field(default_factory=set)
    renamed: dict[Location, str] = field(default_factory=dict)
    replaced: dict[Location, Any] = field(default_factory=dict)
    added: dict[Location, dict[str, Any]] = field(default_factory=dict)
    #: The locations above those of `dropped`, and these themselves.
    _parted: set[Location] = field(default_factory=set)
    #: Names and positions of what is dropped, by container.
    _dropped_in: dict[Location, set[int | str]] = field(default_factory=dict)
    #: For each container in which entries have moved: where each came from.
    _moved: dict[Location, dict[int | str, int | str]] = field(default_factory=dict)

    @property
    def edits(self) -> int:
        """The number of edits."""
        added = sum(map(len, self.added.values()))
        return len(self.dropped) + len(self.renamed) + len(self.replaced) + added

    def drop(self, *locations: Location) -> None:
        """Leave out what is at these locations."""
        self.dropped.update(locations)
        for at in locations:
            if at:
                self._dropped_in.setdefault(at[:-1], set()).add(at[-1])
        self._parted.update(at[:length] for at in locations for length in range(len(at) + 1))

    def is_parted(self, location: Location) -> bool:
        """Whether what is at a location, or a part of it, is left out."""
        return location in self._parted

    def dropped_in(self, location: Location) -> AbstractSet[int | str]:
        """The entries of the container at a location that are left out."""
        return self._dropped_in.get(location, frozenset())

    def repaired(self) -> Any:
        """The raw spec with all edits applied. Unchanged parts are shared with the raw spec."""
        self._moved = {}
        return self._copy(self.raw, ()) if self.edits else self.raw

    def origin(self, location: Location) -> Location:
        """The location in the raw spec of what is at `location` in the repaired one."""
        found: Location = ()
        for part in location:
            found += (self._moved.get(found, {}).get(part, part),)
        return found

    def origin_of_path(self, path: str) -> str:
        """The same for the text of a path without its root, such as `.steps[2].agent`."""
        if not self._moved:
            return path
        found: Location = ()
        text = ""
        end = 0
        while match := _PART.match(path, end):
            name, number, key = match.groups()
            part: int | str = int(number) if number else str(name or key)
            origin = self._moved.get(found, {}).get(part, part)
            found += (origin,)
            text += match.group() if origin == part else part_of_path(origin)
            end = match.end()
        return text + path[end:]

    def get(self, location: Location) -> Any:
        """The raw value at a location, under the name that its author gave it; None if there is none."""
        value = self.raw
        if not self.renamed:
            for part in location:
                if isinstance(value, dict) and isinstance(part, str):
                    value = value.get(part)
                elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                    value = value[part]
                else:
                    return None
            return value
        found: Location = ()
        for part in location:
            if isinstance(value, dict) and isinstance(part, str):
                name = next(
                    (at[-1] for at, new in self.renamed.items() if at[:-1] == found and new == part), part
                )
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                name = part
            else:
                return None
            value = value.get(name) if isinstance(value, dict) else value[part]
            found += (name,)
        return value

    def named(self, location: Location) -> Location:
        """A location as its author wrote it, misspelt names included."""
        if not self.renamed:
            return location
        found: Location = ()
        for part in location:
            found += (
                next((at[-1] for at, new in self.renamed.items() if at[:-1] == found and new == part), part),
            )
        return found

    def _copy(self, value: Any, location: Location) -> Any:
        if location in self.replaced:
            return self.replaced[location]
        if isinstance(value, dict):
            made = {}
            for key, child in value.items():
                at = (*location, key)
                if at not in self.dropped:
                    name: str = self.renamed.get(at) or key
                    if name != key:
                        self._moved.setdefault(location, {})[name] = key
                    made[name] = self._copy(child, at)
            return made | self.added.get(location, {})
        if isinstance(value, list):
            items: list[Any] = []
            for index, child in enumerate(value):
                at = (*location, index)
                if at not in self.dropped:
                    if len(items) != index:
                        self._moved.setdefault(location, {})[len(items)] = index
                    items.append(self._copy(child, at))
            return items
        return value


@dataclass(frozen=True, slots=True)
class Raw:
    """A value in a raw spec, with its fields under the names that they should have."""

    repair: Repair
    location: Location
    #: Locations of objects with unknown fields.
    misspelt: frozenset[Location]

    def at(self, *location: int | str) -> Raw:
        return Raw(self.repair, (*self.location, *location), self.misspelt)

    @property
    def value(self) -> Any:
        return self.repair.get(self.location)

    @property
    def given(self) -> bool:
        return self.value is not None

    @property
    def named(self) -> Location:
        """The location as its author wrote it."""
        return self.repair.named(self.location)

    @property
    def uncertain(self) -> bool:
        """True if the object has unknown fields: what seems to be missing may be one of those."""
        return self.named in self.misspelt

    def items(self) -> Iterator[Raw]:
        """The objects in a list; nothing if the value is no list."""
        if isinstance(self.value, list):
            for index, item in enumerate(self.value):
                if isinstance(item, dict):
                    yield self.at(index)
