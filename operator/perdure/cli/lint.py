"""`perdure lint`: the problems of manifests, for people, scripts and reviews."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

import orjson

from perdure.api.spec_models import SpecModels
from perdure.cli.arguments import LintOutput
from perdure.cli.checks import Checkup, Finding, check_files
from perdure.cli.output import print_line


def lint_files(
    files: Sequence[tuple[str, str]], models: SpecModels, *, strict: bool, output: LintOutput
) -> bool:
    """Check files and print the findings. True if there are no faults."""
    checkup = check_files(files, models, strict=strict)
    if output is LintOutput.JSON:
        print_line(orjson.dumps(_as_json(checkup, len(files)), option=orjson.OPT_INDENT_2).decode())
    else:
        line = github_line if output is LintOutput.GITHUB else text_line
        for finding in checkup.findings:
            print_line(line(finding), styled="" if finding.note else "red")
        sys.stderr.write(f"{summary(checkup)}\n")
    return not checkup.faults


def text_line(finding: Finding) -> str:
    """One finding on one line, in the form that editors and terminals turn into links."""
    parts = [f"{finding.file}:{finding.line}", _object(finding), "note" if finding.note else "", finding.path]
    return _on_one_line(": ".join(part for part in (*parts, finding.message) if part))


def github_line(finding: Finding) -> str:
    """One finding as an annotation of GitHub Actions."""
    level = "notice" if finding.note else "error"
    places = {"file": finding.file, "line": str(finding.line), "title": _object(finding)}
    shown = ",".join(f"{name}={_escaped(value, ':,')}" for name, value in places.items() if value)
    message = f"{finding.path}: {finding.message}" if finding.path else finding.message
    return f"::{level} {shown}::{_escaped(message)}"


def summary(checkup: Checkup) -> str:
    """The findings in one sentence."""
    faults, notes = len(checkup.faults), len(checkup.findings) - len(checkup.faults)
    parts = [f"{_count(faults, 'fault')} in {_count(len(checkup.objects), 'object')}"]
    if notes:
        parts.append(_count(notes, "note"))
    if checkup.skipped:
        parts.append(f"{_count(checkup.skipped, 'document')} of other kinds skipped")
    return "; ".join(parts)


def _as_json(checkup: Checkup, files: int) -> dict[str, object]:
    return {
        "findings": [asdict(finding) for finding in checkup.findings],
        "files": files,
        "objects": len(checkup.objects),
        "faults": len(checkup.faults),
        "skipped": checkup.skipped,
    }


def _object(finding: Finding) -> str:
    return f"{finding.kind}/{finding.name or '?'}" if finding.kind else ""


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


def _on_one_line(text: str) -> str:
    """Text without line breaks and control characters, which could steer a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _escaped(text: str, also: str = "") -> str:
    for character in f"%\r\n{also}":
        text = text.replace(character, f"%{ord(character):02X}")
    return text
