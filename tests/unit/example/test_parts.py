"""The audit's parts that need neither cluster nor gateway."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest
from code_audit import report, scanner, validation
from code_audit.errors import BadInput
from code_audit.scanner import Scan
from code_audit.trail import Trail


def _finding(file="a.py", line=1, test="B602", severity="HIGH", confidence="HIGH"):
    return {"file": file, "line": line, "test": test, "severity": severity, "confidence": confidence}


def _scan(*findings, skipped=""):
    rules = {finding["test"]: f"about {finding['test']}" for finding in findings}
    return Scan(findings=findings, rules=rules, seconds=0.5, skipped=skipped)


# ------------------------------------------------------------------------------------------------ trail


def test_a_trail_survives_being_saved():
    trail = Trail().with_file("a.py", attempt=1, scan=_scan(_finding()))
    trail = trail.resumed(attempt=2, sequence=1).with_file("b.py", attempt=2, scan=_scan(skipped="syntax"))
    assert Trail.load(json.loads(json.dumps(trail.dump()))) == trail


def test_a_trail_names_the_attempt_that_did_each_file():
    trail = Trail().with_file("a.py", attempt=1, scan=_scan(_finding(), _finding(line=2)))
    trail = trail.resumed(attempt=3, sequence=1).with_file("b.py", attempt=3, scan=_scan())
    assert trail.done == {"a.py", "b.py"}
    assert [(entry["file"], entry["attempt"], entry["findings"]) for entry in trail.journal] == [
        ("a.py", 1, 2),
        ("b.py", 3, 0),
    ]
    assert trail.resumptions == ({"attempt": 3, "checkpoint": 1},)
    assert trail.rules == {"B602": "about B602"}


@pytest.mark.parametrize("saved", [None, [], {}, {"format": 99}])
def test_a_strange_checkpoint_is_refused(saved):
    with pytest.raises(BadInput, match="start a new run"):
        Trail.load(saved)


# ---------------------------------------------------------------------------------------------- scanner


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.py", "a/../../b.py", 7, None])
def test_only_files_within_the_library_are_examined(name):
    with pytest.raises(BadInput, match=r"files\[1\]: .* is not a path within"):
        scanner.check_names(["os.py", name])


def test_a_missing_file_is_named_with_the_folder():
    with pytest.raises(
        BadInput, match=r"files\[0\]: nonsense.py is not in the standard library of this image"
    ):
        scanner.check_names(["nonsense.py"])


@pytest.mark.parametrize("files", [None, [], "os.py", {}])
def test_a_batch_is_a_list(files):
    with pytest.raises(BadInput, match="files must be a list"):
        scanner.check_names(files)


def test_a_batch_names_each_file_once():
    assert scanner.check_names(["os.py", "ast.py", "os.py"]) == ["os.py", "ast.py"]


async def test_bandit_really_runs():
    scan = await scanner.scan("pickle.py")
    assert scan.findings
    assert {finding["file"] for finding in scan.findings} == {"pickle.py"}
    assert {finding["test"] for finding in scan.findings} == set(scan.rules)
    assert all(len(text) <= scanner.MAX_TEXT for text in scan.rules.values())


async def test_a_scan_that_is_given_up_leaves_no_process(monkeypatch, tmp_path):
    sleeper = tmp_path / "python"
    pid = tmp_path / "pid"
    sleeper.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 1000\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    task = asyncio.create_task(scanner.scan("os.py"))
    async with asyncio.timeout(10):
        # A process sets no Event.
        while not pid.exists() or not pid.read_text().strip():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    # Reaped: the pid is nobody's any more.
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_what_bandit_could_not_read_is_kept_as_skipped():
    output = {"results": [], "errors": [{"filename": "x", "reason": "syntax error\nwhile parsing"}]}
    scan = scanner.read_output(output, file="x.py", seconds=1.234)
    assert scan == Scan(findings=(), rules={}, seconds=1.23, skipped="syntax error while parsing")


# ------------------------------------------------------------------------------------------- validation


def _batch(*findings, journal=("a.py",), resumptions=()):
    return {
        "journal": [{"file": file, "attempt": 1} for file in journal],
        "resumptions": list(resumptions),
        "findings": list(findings),
        "rules": {finding["test"]: "text" for finding in findings},
    }


def _validate(*batches, severity="LOW", confidence="LOW"):
    return validation.validate(list(batches), minimum_severity=severity, minimum_confidence=confidence)


def test_findings_of_all_batches_are_joined_worst_first():
    audit = _validate(
        _batch(_finding(severity="LOW"), _finding(line=9, severity="MEDIUM")),
        _batch(_finding(file="z.py"), _finding(file="b.py", confidence="LOW"), journal=["z.py", "b.py"]),
    )
    order = [(finding["file"], finding["severity"]) for finding in audit["findings"]]
    assert order == [("z.py", "HIGH"), ("b.py", "HIGH"), ("a.py", "MEDIUM"), ("a.py", "LOW")]
    assert audit["files"] == 3


def test_the_same_finding_counts_once():
    audit = _validate(_batch(_finding(), _finding()), _batch(_finding(), _finding(test="B101")))
    assert len(audit["findings"]) == 2
    assert audit["dropped"] == {"repeated": 2, "belowThreshold": 0}


@pytest.mark.parametrize(
    ("severity", "confidence", "kept"), [("LOW", "LOW", 3), ("medium", "LOW", 2), ("LOW", "HIGH", 1)]
)
def test_thresholds(severity, confidence, kept):
    batch = _batch(
        _finding(line=1, severity="HIGH", confidence="LOW"),
        _finding(line=2, severity="MEDIUM", confidence="HIGH"),
        _finding(line=3, severity="LOW", confidence="MEDIUM"),
    )
    audit = _validate(batch, severity=severity, confidence=confidence)
    assert len(audit["findings"]) == kept
    assert audit["dropped"]["belowThreshold"] == 3 - kept


def test_only_rules_of_kept_findings_are_explained():
    audit = _validate(_batch(_finding(), _finding(test="B101", severity="LOW")), severity="HIGH")
    assert audit["rules"] == {"B602": "text"}


def test_an_unknown_threshold_is_named():
    with pytest.raises(BadInput, match="minimumSeverity is 'GRAVE'; it must be one of: HIGH, MEDIUM, LOW"):
        _validate(severity="GRAVE")
    with pytest.raises(BadInput, match="batches must be the list"):
        validation.validate(None, minimum_severity="LOW", minimum_confidence="LOW")


# ----------------------------------------------------------------------------------------------- report


def test_the_report_shows_the_worst_and_counts_the_rest():
    findings = [_finding(line=line) for line in range(report.MAX_ROWS + 5)]
    text = report.markdown(_validate(_batch(*findings)), query="What is wrong?")
    assert text.startswith("# Code audit\n\n> What is wrong?\n")
    assert text.count("| HIGH | HIGH | a.py:") == report.MAX_ROWS
    assert "… and 5 more." in text
    assert f"- a.py: {report.MAX_ROWS + 5}" in text


def test_the_report_fits_a_status_whatever_was_found():
    findings = [
        _finding(file=f"{'deep/' * 6}module_{line}.py", line=line, test=f"B{100 + line % 60}")
        for line in range(500)
    ]
    batch = _batch(*findings) | {"rules": {finding["test"]: "x" * scanner.MAX_TEXT for finding in findings}}
    assert len(report.markdown(_validate(batch)).encode()) < 16 * 1024


def test_an_audit_without_findings_is_still_a_report():
    text = report.markdown(_validate(_batch()))
    assert "1 files of the Python standard library, 0 findings." in text
    assert "## Findings" not in text


def test_markup_in_rules_is_escaped_and_skipped_files_are_listed():
    batch = _batch(_finding()) | {"rules": {"B602": "see __main__ | <script>"}}
    batch["journal"][0]["skipped"] = "syntax error"
    batch["resumptions"] = [{"attempt": 2, "checkpoint": 3}]
    text = report.markdown(_validate(batch))
    assert r"\_\_main\_\_ \| \<script\>" in text
    assert "## Not examined\n\n- a.py: syntax error" in text
    assert "went on from a checkpoint 1 time(s)" in text
