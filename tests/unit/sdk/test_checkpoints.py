"""Sources of checkpoints, and the choice of the checkpoint to restore; over HTTP."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.sdk.records import orders, refuse, saved, sent

from perdure_agent import Agent, DamagedCheckpoint, Environment, GatewayError, Options, connect, testing

LARGE = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
async def agent(environment: Environment, options: Options) -> AsyncIterator[Agent]:
    async with connect(environment, options=options) as connected:
        yield connected


async def test_the_list_is_complete_and_newest_first(agent: Agent) -> None:
    assert await agent.checkpoints() == []
    for number in range(1, 6):
        await agent.checkpoint(b"x" * number, label="ä" if number == 2 else None, recoverable=number != 4)
    found = await agent.checkpoints()
    assert [(info.sequence, info.size, info.recoverable) for info in found] == [
        (5, 5, True),
        (4, 4, False),
        (3, 3, True),
        (2, 2, True),
        (1, 1, True),
    ]
    (labelled,) = await agent.checkpoints(label="ä")
    assert (labelled.sequence, labelled.label, labelled.attempt) == (2, "ä", 1)
    assert labelled.at.tzinfo is not None
    assert labelled.content_type == "application/octet-stream"


async def test_a_list_of_several_pages_is_complete() -> None:
    # The gateway gives 1,000 entries at a time.
    given = [testing.Saved(data=b"x", label="odd" if number % 2 else "even") for number in range(1, 2004)]
    async with (
        testing.Gateway(checkpoints=given, checkpoints_per_task=5000) as gateway,
        gateway.connect() as agent,
    ):
        assert [info.sequence for info in await agent.checkpoints()] == [*range(2003, 0, -1)]
        assert [info.sequence for info in await agent.checkpoints(label="odd")] == [*range(2003, 0, -2)]
    assert sent(gateway) == ["GET /checkpoints"] * 5


async def test_the_time_of_a_checkpoint_is_read_with_its_zone() -> None:
    async with testing.Gateway() as gateway, gateway.connect() as agent:
        await gateway.clock.advance(0.123456)
        await agent.checkpoint(b"x")
        (info,) = await agent.checkpoints()
    assert info.at == datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)


async def test_a_checkpoint_is_chosen_by_number_by_label_and_by_default(agent: Agent) -> None:
    await agent.checkpoint(b"1", label="plan")
    await agent.checkpoint(b"2", label="plan")
    await agent.checkpoint(b"3", label="half & half")
    await agent.checkpoint(b"4", label="plan", recoverable=False)
    for asked, data in (
        ({}, b"3"),
        ({"label": "plan"}, b"2"),
        ({"sequence": 1}, b"1"),
        ({"sequence": 4}, b"4"),
    ):
        found = await agent.restore(**asked)  # type: ignore[arg-type]
        assert found is not None
        assert (found.data, found.skipped) == (data, ())
    assert await agent.restore(label="none") is None
    assert await agent.restore(sequence=9) is None
    with pytest.raises(ValueError, match="not both"):
        await agent.restore(sequence=1, label="plan")


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 100_000):
        yield data[at : at + 100_000]


@pytest.mark.parametrize("data", [b"", b"small", LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("source", ["bytes", "bytearray", "path", "file", "stream", "pipe"])
async def test_every_source_survives_a_retry_whole(
    gateway: testing.Gateway, agent: Agent, tmp_path: Path, source: str, data: bytes
) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"head" + data)
    given: object = data
    if source == "bytearray":
        given = bytearray(data)
    elif source == "path":
        file.write_bytes(data)
        given = file
    elif source == "file":
        given = io.FileIO(file)
        given.seek(4)
    elif source == "stream":
        given = pieces(data)
    elif source == "pipe":
        given = NotSeekable(data)
    gateway.script(refuse("busy", 503))
    gateway.script(testing.Unreachable())
    gateway.script(refuse("checksum-mismatch", 422))
    assert await agent.checkpoint(given) == 1
    (kept,) = gateway.checkpoints
    assert (kept.data, kept.content_type, kept.label) == (data, "application/octet-stream", None)
    assert len(sent(gateway)) == 4
    if isinstance(given, io.FileIO):
        given.close()


class NotSeekable:
    """A pipe's end: it can be read once."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


async def test_the_content_type_can_be_named(gateway: testing.Gateway, agent: Agent) -> None:
    await agent.checkpoint(b"x", content_type="text/plain")
    await agent.checkpoint({"n": 1}, content_type="application/x-plan+json")
    assert [kept.content_type for kept in gateway.checkpoints] == ["text/plain", "application/x-plan+json"]
    found = await agent.restore()
    assert found is not None
    assert found.content_type == "application/x-plan+json"


async def test_a_file_of_text_and_a_missing_file_are_refused(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="mode 'rb'"):
        await agent.checkpoint(io.StringIO("text"))
    with pytest.raises(FileNotFoundError):
        await agent.checkpoint(tmp_path / "missing")


@pytest.mark.parametrize("source", ["bytes", "path", "stream"])
async def test_the_limit_is_checked_before_anything_is_sent(
    gateway: testing.Gateway,
    agent: Agent,
    tmp_path: Path,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("perdure_agent._payload.LIMIT", 300_000)

    def given(size: int) -> object:
        file = tmp_path / "state"
        file.write_bytes(bytes(size))
        return {"bytes": bytes(size), "path": file, "stream": pieces(bytes(size))}[source]

    assert await agent.checkpoint(given(300_000)) == 1
    with pytest.raises(GatewayError, match="reference") as caught:
        await agent.checkpoint(given(300_001))
    assert (caught.value.status, caught.value.kind) == (413, "too-large")
    assert sent(gateway) == ["PUT /checkpoints"]


async def test_an_upload_that_is_damaged_at_each_try_fails(gateway: testing.Gateway, agent: Agent) -> None:
    gateway.script(refuse("checksum-mismatch", 422), times=3)
    with pytest.raises(GatewayError, match="checksum-mismatch"):
        await agent.checkpoint(b"x")
    assert len(sent(gateway)) == 3


async def test_a_file_is_replaced_by_a_checkpoint_or_stays_as_it_is(
    gateway: testing.Gateway, agent: Agent, tmp_path: Path
) -> None:
    target = tmp_path / "restored" / "state"
    target.parent.mkdir()
    target.write_bytes(b"older")
    assert await agent.restore_to(target) is None
    assert target.read_bytes() == b"older"
    await agent.checkpoint(LARGE, label="half")
    gateway.script(testing.Unreachable())
    restored = await agent.restore_to(target, label="half")
    assert restored is not None
    assert (restored.sequence, restored.label, restored.path) == (1, "half", target)
    assert target.read_bytes() == LARGE
    gateway.damage(1, in_transit=True)
    target.write_bytes(b"mine")
    with pytest.raises(DamagedCheckpoint):
        await agent.restore_to(target)
    assert target.read_bytes() == b"mine"
    assert os.listdir(target.parent) == ["state"]


async def test_the_fallback_skips_damaged_checkpoints(
    gateway: testing.Gateway, agent: Agent, tmp_path: Path
) -> None:
    for number in range(1, 6):
        await agent.checkpoint(b"%d" % number, recoverable=number != 4)
    gateway.damage(5)
    gateway.damage(3, in_transit=True)
    with pytest.raises(DamagedCheckpoint) as caught:
        await agent.restore()
    assert caught.value.sequence == 5
    found = await agent.restore(fallback=True)
    assert found is not None
    # The fourth is sound, but not recoverable.
    assert (found.sequence, found.data, found.skipped) == (2, b"2", (5, 3))
    restored = await agent.restore_to(tmp_path / "file", fallback=True)
    assert restored is not None
    assert (restored.sequence, restored.skipped) == (2, (5, 3))
    assert (tmp_path / "file").read_bytes() == b"2"


async def test_the_fallback_stays_within_the_label_and_may_find_nothing(
    gateway: testing.Gateway, agent: Agent
) -> None:
    for label in ("a", "b", "a", "b"):
        await agent.checkpoint(label.encode(), label=label)
    gateway.damage(3)
    found = await agent.restore(label="a", fallback=True)
    assert found is not None
    assert (found.sequence, found.label, found.skipped) == (1, "a", (3,))
    gateway.damage(1)
    with pytest.raises(DamagedCheckpoint) as caught:
        await agent.restore(label="a", fallback=True)
    assert caught.value.sequence == 3


async def test_concurrent_calls_are_sent_in_the_order_of_the_calls(
    gateway: testing.Gateway, agent: Agent
) -> None:
    gateway.script(refuse("busy", 503), times=3)
    numbers = await asyncio.gather(*(agent.checkpoint(number) for number in range(8)))
    assert numbers == list(range(1, 9))
    assert saved(gateway) == [b"%d" % number for number in range(8)]
    assert orders(gateway) == sorted(set(orders(gateway)))


async def test_a_second_program_of_the_agent_goes_on_with_the_order(
    gateway: testing.Gateway, environment: Environment, options: Options
) -> None:
    for _ in range(3):
        async with connect(environment, options=options) as agent:
            await agent.checkpoint(b"x")
    assert len(saved(gateway)) == 3
    assert orders(gateway) == sorted(set(orders(gateway)))
