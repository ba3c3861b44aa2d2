"""Join of all batches' findings into one list."""

from __future__ import annotations

from typing import Any

from code_audit.errors import BadInput
from code_audit.scanner import Finding, names

#: From worst to least. Bandit ranks severity and confidence alike.
RANKS = ("HIGH", "MEDIUM", "LOW", "UNDEFINED")


def validate(batches: object, *, minimum_severity: str, minimum_confidence: str) -> dict[str, Any]:
    """The audit: findings sorted worst first, and counts of what was dropped and why.

    Raises BadInput, naming the field, for thresholds that bandit does not know.
    """
    if not isinstance(batches, list):
        raise BadInput("batches must be the list of the analyse step's outputs")
    severity = _rank(minimum_severity, field="minimumSeverity")
    confidence = _rank(minimum_confidence, field="minimumConfidence")
    joined: list[Finding] = [finding for batch in batches for finding in batch["findings"]]
    unique = {(finding["file"], finding["line"], finding["test"]): finding for finding in joined}.values()
    kept = [
        finding
        for finding in unique
        if RANKS.index(finding["severity"]) <= severity and RANKS.index(finding["confidence"]) <= confidence
    ]
    rules = {test: text for batch in batches for test, text in batch["rules"].items()}
    journal = [entry for batch in batches for entry in batch["journal"]]
    return {
        "findings": sorted(kept, key=_order),
        "rules": {test: rules[test] for test in sorted({finding["test"] for finding in kept})},
        "files": len(names(journal)),
        "skipped": [entry for entry in journal if "skipped" in entry],
        "resumptions": sum(len(batch["resumptions"]) for batch in batches),
        "dropped": {"repeated": len(joined) - len(unique), "belowThreshold": len(unique) - len(kept)},
        "thresholds": {"severity": RANKS[severity], "confidence": RANKS[confidence]},
    }


def _rank(name: str, *, field: str) -> int:
    try:
        return RANKS.index(name.upper())
    except (ValueError, AttributeError):
        raise BadInput(f"{field} is {name!r}; it must be one of: {', '.join(RANKS[:3])}") from None


def _order(finding: Finding) -> tuple[int, int, str, int]:
    return (
        RANKS.index(finding["severity"]),
        RANKS.index(finding["confidence"]),
        finding["file"],
        finding["line"],
    )
