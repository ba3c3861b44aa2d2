"""One version: every file that states it agrees, and one command sets it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hack.version import PLACES, ROOT, main, read


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for file, _ in PLACES:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def test_every_file_states_the_same_version() -> None:
    assert main([]) == 0
    assert len({version for _, version in read(ROOT)}) == 1


def test_one_command_sets_the_version_everywhere_and_nothing_else(copy: Path) -> None:
    before = {file: (copy / file).read_text().splitlines() for file, _ in PLACES}
    assert main(["12.34.56"], copy) == 0
    assert {version for _, version in read(copy)} == {"12.34.56"}
    for file, lines in before.items():
        after = (copy / file).read_text().splitlines()
        changed = [new for old, new in zip(lines, after, strict=True) if old != new]
        assert len(changed) == sum(name == file for name, _ in PLACES)
        assert all("12.34.56" in line for line in changed)


def test_a_file_that_differs_is_reported_with_the_remedy(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chart = copy / "charts/perdure/Chart.yaml"
    chart.write_text(chart.read_text().replace("appVersion: ", "appVersion: 9."))
    assert main([], copy) == 1
    output = capsys.readouterr().out
    assert "Chart.yaml says 9." in output
    assert "python hack/version.py" in output


@pytest.mark.parametrize("version", ["0.2", "v0.2.0", "0.2.0rc1", "latest"])
def test_a_version_is_three_numbers(copy: Path, version: str) -> None:
    with pytest.raises(SystemExit, match="is not a version"):
        main([version], copy)
