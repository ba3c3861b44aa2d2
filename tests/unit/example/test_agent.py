"""The agent as a program: killed without warning, and started again; in the SDK's local mode."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from .conftest import EXAMPLE

FILES = ["shelve.py", "uuid.py", "plistlib.py", "getpass.py"]


def _environment(folder, task_input, attempt=1):
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    return {
        **ours,
        "PERDURE_INPUT": json.dumps(task_input),
        "PERDURE_LOCAL_DIRECTORY": str(folder),
        "PERDURE_TERMINATION_LOG": str(folder / "termination-log"),
        "PERDURE_ATTEMPT": str(attempt),
    }


def _run(folder, role, task_input, attempt=1):
    return subprocess.run(
        [sys.executable, str(EXAMPLE / "agent.py"), *role],
        env=_environment(folder, task_input, attempt),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _saved(folder):
    """Number of the newest checkpoint; 0 without one."""
    return max((int(file.stem) for file in folder.glob("*/*.checkpoint")), default=0)


def test_killed_in_the_middle_it_goes_on_and_does_no_file_twice(tmp_path):
    task_input = {"batch": "some", "files": FILES}
    # In a session of its own, so that bandit, its child, dies with it.
    first = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "agent.py"), "analyse"],
        env=_environment(tmp_path, task_input),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while _saved(tmp_path) < 2:
            assert first.poll() is None, "it ended before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    checkpoint = _saved(tmp_path)
    assert 2 <= checkpoint < len(FILES)

    second = _run(tmp_path, ["analyse"], task_input, attempt=2)
    assert second.returncode == 0, second.stderr
    output = json.loads(second.stdout)
    assert output["resumptions"] == [{"attempt": 2, "checkpoint": checkpoint}]
    assert [(entry["file"], entry["attempt"]) for entry in output["journal"]] == [
        (file, 1 if position < checkpoint else 2) for position, file in enumerate(FILES)
    ]
    assert {finding["file"] for finding in output["findings"]} <= set(FILES)


def test_the_three_roles_fit_together(tmp_path):
    analysed = [
        json.loads(_run(tmp_path, ["analyse"], {"batch": file, "files": [file]}).stdout)
        for file in ("shelve.py", "uuid.py")
    ]
    audit = json.loads(_run(tmp_path, ["validate"], {"batches": analysed}).stdout)
    assert audit["files"] == 2
    assert audit["thresholds"] == {"severity": "MEDIUM", "confidence": "MEDIUM"}
    text = json.loads(_run(tmp_path, ["report"], {"audit": audit, "query": "Why?"}).stdout)
    assert text.startswith("# Code audit\n\n> Why?\n")
    assert "shelve.py" in text


@pytest.mark.parametrize(
    ("role", "task_input", "message"),
    [
        (
            ["analyse"],
            {"files": ["nonsense.py"]},
            "input: files[0]: nonsense.py is not in the standard library",
        ),
        (["analyse"], {}, "input: files must be a list"),
        (["validate"], {"batches": [], "minimumSeverity": "X"}, "input: minimumSeverity is 'X'"),
        (["dance"], {}, "args: the first argument must be one of: analyse, validate, report"),
        ([], {}, "args: the first argument must be one of: analyse, validate, report"),
    ],
)
def test_a_mistake_in_the_manifest_fails_for_good_and_is_named(tmp_path, role, task_input, message):
    done = _run(tmp_path, role, task_input)
    assert done.returncode == 1
    assert f"failed (for good): {message}" in done.stderr
