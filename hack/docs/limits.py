"""The generator of docs/limits.md: `python -m hack.docs.limits [--check]`.

`limits.toml` next to this module lists every limit: what is limited, for whom, what happens beyond it, and
the tests at its edge. A number is written there as `{module:NAME}` or `{module:Class.field}`, and comes from
the code, so that the page cannot fall behind. `|size` after the name counts in KiB and MiB, `|s` in units of
time.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import tomllib
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from perdure.api.codegen.generated import command

FILE: Final = Path("docs/limits.md")
TABLE: Final = Path(__file__).with_name("limits.toml")
_NUMBER: Final = re.compile(r"\{([\w.]+):([\w.]+)(?:\|(\w*))?\}")
_UNITS: Final = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (0.001, "ms"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """One row. Texts are Markdown, with their numbers filled in."""

    section: str
    what: str
    limit: str
    #: For whom it counts: a step, a run, a namespace, a gateway.
    scope: str
    beyond: str
    #: Tests at the edge, as `path::name`, or `path::name[parameter]`.
    tests: tuple[str, ...]
    #: The constants, as `module:NAME`.
    constants: frozenset[str]


def limits(text: str | None = None) -> list[Limit]:
    """The rows of `limits.toml`. Raises ValueError for a row without tests or with unknown names."""
    found = []
    for section, rows in tomllib.loads(TABLE.read_text() if text is None else text).items():
        for row in rows["limits"]:
            unknown = row.keys() - {"what", "limit", "scope", "beyond", "tests", "constants"}
            if unknown or not row.get("tests"):
                raise ValueError(
                    f"{row.get('what')}: needs tests, and has no fields of other names: {unknown}"
                )
            named = {
                f"{module}:{name}"
                for field in ("what", "limit", "scope", "beyond")
                for module, name, _ in _NUMBER.findall(row[field])
            }
            also = frozenset(row.get("constants", ()))
            for constant in also:
                value_of(constant)
            found.append(
                Limit(
                    section=rows["title"],
                    tests=tuple(row["tests"]),
                    constants=frozenset(named) | also,
                    **{field: _filled(row[field]) for field in ("what", "limit", "scope", "beyond")},
                )
            )
            assert section
    return found


def value_of(constant: str) -> Any:
    """The value of `module:NAME` or `module:Class.field`. Raises ValueError if there is none."""
    module, _, name = constant.partition(":")
    owner, _, field = name.rpartition(".")
    try:
        found = importlib.import_module(module)
        if not owner:
            return getattr(found, name)
        model = getattr(found, owner)
        if dataclasses.is_dataclass(model):
            (default,) = (each.default for each in dataclasses.fields(model) if each.name == field)
            return default
        return model.model_fields[field].default
    except (ImportError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{constant}: hack/docs/limits.toml names it, and the code has none") from error


def shown(value: Any, unit: str) -> str:
    """A number as people write it. `unit`: size (bytes), s (seconds), or '' for a count."""
    if unit == "size":
        for size, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
            if value and value % size == 0:
                return f"{value // size:,} {name}"
        return f"{value:,} bytes"
    if unit == "s":
        value = value.total_seconds() if isinstance(value, timedelta) else value
        for seconds, name in _UNITS:
            if value >= seconds and (value / seconds).is_integer() if value >= 1 else name == "ms":
                return f"{value / seconds:g} {name}"
        return f"{value:g} s"
    return f"{value:,g}" if isinstance(value, int | float) else str(value)


def _filled(text: str) -> str:
    return _NUMBER.sub(lambda match: shown(value_of(f"{match[1]}:{match[2]}"), match[3] or ""), text)


def page(_: str = "") -> str:
    """The page."""
    lines = [
        "# Limits",
        "",
        "Every limit, for whom it counts, and what happens beyond it. Sizes are counted on compact UTF-8",
        "JSON. This page is generated from `hack/docs/limits.toml` and the constants of the code; each limit",
        "names the tests at its edge.",
    ]
    before = None
    for limit in limits():
        if limit.section != before:
            before = limit.section
            lines += [
                "",
                f"## {before}",
                "",
                "| what | limit | counts for | beyond it | tests |",
                "|---|---|---|---|---|",
            ]
        files = dict.fromkeys(test.partition("::")[0] for test in limit.tests)
        tests = ", ".join(f"[{number}](../{file})" for number, file in enumerate(files, start=1))
        lines.append(f"| {limit.what} | {limit.limit} | {limit.scope} | {limit.beyond} | {tests} |")
    lines += [
        "",
        "The API server checks limits of manifests that are in the CRDs, which are generated from",
        "`operator/perdure/api`. It does not check the Workflow inside a WorkflowSchedule or a `workflow`",
        "step: the conditions of the schedule or the run report faults there. `perdure lint` reports all",
        "faults before a manifest is applied.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    return command("hack.docs.limits", FILE, page, arguments)


if __name__ == "__main__":
    sys.exit(main())
