"""The same agent without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure_agent import Environment, connect


async def test_a_dry_run_from_start_to_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = Environment(local_directory=tmp_path / "state", input_json='{"n": 3}')
    async with connect(environment) as agent:
        assert agent.input == {"n": 3}
        assert await agent.restore() is None
        assert await agent.checkpoint({"done": 1}, label="one") == 1
        assert await agent.checkpoint(b"\n\nraw") == 2
        await agent.progress(50, "half")
    async with connect(environment) as agent:
        saved = await agent.restore()
        assert saved is not None
        assert (saved.sequence, saved.label, saved.data) == (2, None, b"\n\nraw")
        await agent.failure("not yet", retryable=True)
    async with connect(environment) as agent:
        assert await agent.restore() is not None
        await agent.result({"n": 3})
    async with connect(environment) as agent:
        assert await agent.restore() is None
    printed = capsys.readouterr()
    assert printed.out == '{"n":3}\n'
    assert "checkpoint 1: 10 bytes (one)" in printed.err
    assert "progress: 50 % half" in printed.err
    assert "failed (may be tried again): not yet" in printed.err


async def test_an_input_that_is_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PERDURE_INPUT is not JSON"):
        async with connect(Environment(local_directory=tmp_path, input_json="{")):
            pass


async def test_the_kubelet_s_file_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubelets = tmp_path / "termination-log"
    monkeypatch.setattr("perdure_agent.termination.DEFAULT_TERMINATION_LOG", kubelets)
    async with connect(Environment(local_directory=tmp_path, termination_log=kubelets)) as agent:
        await agent.result(1)
    assert not kubelets.exists()
