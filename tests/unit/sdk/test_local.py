"""The agent in local mode, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from perdure_agent import DamagedCheckpoint, Environment, connect


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


async def test_checkpoints_are_listed_and_chosen_as_in_a_cluster(tmp_path: Path) -> None:
    async with connect(Environment(local_directory=tmp_path)) as agent:
        assert await agent.checkpoints() == []
        for number in range(1, 4):
            await agent.checkpoint(number, label="odd" if number % 2 else "even")
        for number in range(4, 16):
            await agent.checkpoint_soon(number, recoverable=False)
            await agent.flush()
        listed = await agent.checkpoints()
        assert [info.sequence for info in listed] == [*range(15, 5, -1), 3]
        assert [info.recoverable for info in listed] == [False] * 10 + [True]
        for asked, data in (({}, 3), ({"label": "odd"}, 3), ({"sequence": 9}, 9)):
            saved = await agent.restore(**asked)  # type: ignore[arg-type]
            assert saved is not None
            assert saved.json() == data
        assert await agent.restore(label="even") is None
        assert await agent.restore(sequence=1) is None
        assert await agent.restore_to(tmp_path / "restored") is not None
        assert (tmp_path / "restored").read_bytes() == b"3"


async def test_a_damaged_file_is_noticed(tmp_path: Path) -> None:
    async with connect(Environment(local_directory=tmp_path)) as agent:
        await agent.checkpoint(b"sound")
        await agent.checkpoint(b"damaged")
        file = tmp_path / "local" / "2.checkpoint"
        file.write_bytes(file.read_bytes() + b"!")
        with pytest.raises(DamagedCheckpoint, match="checkpoint 2"):
            await agent.restore()
        saved = await agent.restore(fallback=True)
        assert saved is not None
        assert (saved.data, saved.skipped) == (b"sound", (2,))


async def test_an_input_that_is_not_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PERDURE_INPUT is not JSON"):
        async with connect(Environment(local_directory=tmp_path, input_json="{")):
            pass


async def test_the_kubelet_s_file_is_never_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubelets = tmp_path / "termination-log"
    monkeypatch.setattr("perdure_agent._termination_message.DEFAULT_TERMINATION_LOG", kubelets)
    async with connect(Environment(local_directory=tmp_path, termination_log=kubelets)) as agent:
        await agent.result(1)
    assert not kubelets.exists()
