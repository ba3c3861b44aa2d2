"""Markdown report of the audit."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from code_audit.validation import RANKS

#: Rows of the table of findings. The whole report must fit a Workflow's status.
MAX_ROWS = 30


def markdown(audit: dict[str, Any], *, query: str = "") -> str:
    """A report of a few KiB on the output of `validate`."""
    findings = audit["findings"]
    lines = ["# Code audit", ""]
    if query:
        lines += [f"> {query}", ""]
    severities = Counter(finding["severity"] for finding in findings)
    counts = ", ".join(f"{severities[rank]} {rank.lower()}" for rank in RANKS if severities[rank])
    dropped, least = audit["dropped"], audit["thresholds"]
    lines += [
        f"{audit['files']} files of the Python standard library, {len(findings)} findings"
        + (f" ({counts})." if counts else "."),
        f"Dropped: {dropped['belowThreshold']} below {least['severity'].lower()} severity or "
        f"{least['confidence'].lower()} confidence, {dropped['repeated']} repeated.",
        "",
    ]
    if audit["resumptions"]:
        lines += [f"Agents went on from a checkpoint {audit['resumptions']} time(s) while it was made.", ""]
    if findings:
        lines += ["## Findings", "", "| severity | confidence | where | rule |", "|---|---|---|---|"]
        lines += [
            f"| {finding['severity']} | {finding['confidence']} | {finding['file']}:{finding['line']} "
            f"| {finding['test']} |"
            for finding in findings[:MAX_ROWS]
        ]
        if len(findings) > MAX_ROWS:
            lines += ["", f"… and {len(findings) - MAX_ROWS} more."]
        lines += ["", "## Rules", ""]
        lines += [f"- {test}: {_escaped(text)}" for test, text in audit["rules"].items()]
        lines += ["", "## Files with most findings", ""]
        most = Counter(finding["file"] for finding in findings).most_common(5)
        lines += [f"- {file}: {count}" for file, count in most]
    if audit["skipped"]:
        lines += ["", "## Not examined", ""]
        lines += [f"- {entry['file']}: {entry['skipped']}" for entry in audit["skipped"]]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Escape Markdown in names such as `__init__` and `<module>`."""
    return re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", text)
