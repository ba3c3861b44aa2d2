"""The arguments of the command line, and their meaning."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import PurePath

import typer

from perdure.domain.records import RunKind

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}


def program_name(path: str) -> str:
    """The name of the program in usage texts: `kubectl perdure` if kubectl runs it as a plugin."""
    name = PurePath(path).name
    return "kubectl perdure" if name.startswith("kubectl-perdure") else "perdure"


def seconds(text: str) -> float:
    """Seconds from `60`, `60s`, `1.5m`, `500ms` or `1h`. Raises typer.BadParameter."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration: write for example 60s or 2m")
    return float(match[1]) * _UNITS[match[2]]


def run_kind(text: str | None) -> RunKind | None:
    kinds: dict[str, RunKind] = {"workflow": "Workflow", "agenttask": "AgentTask"}
    if text is None:
        return None
    found = kinds.get(text.lower().removesuffix("s"))
    if found is None:
        raise typer.BadParameter(f"{text!r} is neither Workflow nor AgentTask", param_hint="--kind")
    return found


class Output(StrEnum):
    """The form in which events are printed."""

    TEXT = "text"
    #: One CloudEvent a line, as published.
    JSON = "json"


class LintOutput(StrEnum):
    """The form of the findings of `perdure lint`."""

    #: `FILE:LINE: KIND/NAME: FIELD: MESSAGE`, one a line.
    TEXT = "text"
    #: One object with all findings.
    JSON = "json"
    #: Annotations for GitHub Actions.
    GITHUB = "github"


class GraphFormat(StrEnum):
    """The form of the drawing of `perdure graph`."""

    #: Steps by level, for a terminal.
    TEXT = "text"
    #: A flowchart for Markdown.
    MERMAID = "mermaid"


class UnclearRun(ValueError):
    """A command line that does not say which run it means."""


def run_name(name: str, namespace: str | None) -> tuple[str, str]:
    """(namespace, name) from `NAMESPACE/NAME`, or from NAME and `--namespace`. Raises UnclearRun."""
    before, slash, after = name.rpartition("/")
    if slash and (not before or not after or "/" in before):
        raise UnclearRun(f"{name!r} is not NAMESPACE/WORKFLOW")
    if slash and namespace and namespace != before:
        raise UnclearRun(f"{name!r} names namespace {before!r}, --namespace says {namespace!r}")
    found = before or namespace
    if not found:
        raise UnclearRun(f"no namespace given for {name!r}: write NAMESPACE/{name}, or add -n NAMESPACE")
    return found, after
