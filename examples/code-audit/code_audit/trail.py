"""State of an analysing agent: its findings so far, and a journal of the attempts.

The journal is the agents' own evidence, besides the ledger's: each file has the attempt that examined it, so
that repeated work would be visible.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from code_audit.errors import BadInput
from code_audit.scanner import Finding, Scan

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trail:
    """State of one batch. Its JSON is the checkpoint and, at the end, the task's output."""

    #: One entry for each file examined: {file, attempt, seconds, findings[, skipped]}.
    journal: tuple[dict[str, Any], ...] = ()
    #: One entry for each attempt that went on from a checkpoint: {attempt, checkpoint}.
    resumptions: tuple[dict[str, Any], ...] = ()
    findings: tuple[Finding, ...] = ()
    rules: dict[str, str] = field(default_factory=dict)

    @property
    def done(self) -> frozenset[str]:
        """Examined files."""
        return frozenset(entry["file"] for entry in self.journal)

    def resumed(self, *, attempt: int, sequence: int) -> Trail:
        """The trail of an attempt that goes on from checkpoint `sequence`."""
        return replace(self, resumptions=(*self.resumptions, {"attempt": attempt, "checkpoint": sequence}))

    def with_file(self, file: str, *, attempt: int, scan: Scan) -> Trail:
        """The trail after one more file."""
        entry: dict[str, Any] = {
            "file": file,
            "attempt": attempt,
            "seconds": scan.seconds,
            "findings": len(scan.findings),
        }
        if scan.skipped:
            entry["skipped"] = scan.skipped
        return replace(
            self,
            journal=(*self.journal, entry),
            findings=(*self.findings, *scan.findings),
            rules=self.rules | scan.rules,
        )

    def dump(self) -> dict[str, Any]:
        """The trail as JSON."""
        return {
            "format": FORMAT,
            "journal": list(self.journal),
            "resumptions": list(self.resumptions),
            "findings": list(self.findings),
            "rules": self.rules,
        }

    @staticmethod
    def load(data: Any) -> Trail:
        """The trail that `dump` wrote. Raises BadInput for a checkpoint of another program."""
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise BadInput("the checkpoint was not saved by this version of the agent: start a new run")
        return Trail(
            journal=tuple(data["journal"]),
            resumptions=tuple(data["resumptions"]),
            findings=tuple(data["findings"]),
            rules=data["rules"],
        )
