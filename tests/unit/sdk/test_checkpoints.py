"""What can be saved, and which of it comes back."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.sdk.misbehaving import MisbehavingGateway, drop, refuse

from perdure_agent import Agent, DamagedCheckpoint, Environment, GatewayError, Options, connect

LARGE = bytes(range(256)) * 8192  # 2 MiB


@pytest.fixture
async def agent(environment: Environment, options: Options) -> AsyncIterator[Agent]:
    async with connect(environment, options=options) as connected:
        yield connected


async def test_the_list_is_complete_and_newest_first(gateway: MisbehavingGateway, agent: Agent) -> None:
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
    assert labelled.at == datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    assert labelled.content_type == "application/octet-stream"


async def test_by_number_by_label_and_by_default(agent: Agent) -> None:
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
        saved = await agent.restore(**asked)  # type: ignore[arg-type]
        assert saved is not None
        assert (saved.data, saved.skipped) == (data, ())
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
    gateway: MisbehavingGateway, agent: Agent, tmp_path: Path, source: str, data: bytes
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
    gateway.faults.extend([refuse("busy", 503), drop, refuse("checksum-mismatch", 422)])
    assert await agent.checkpoint(given) == 1
    assert gateway.checkpoints == [(data, "application/octet-stream", None)]
    if isinstance(given, io.FileIO):
        given.close()


class NotSeekable(io.BytesIO):
    def seekable(self) -> bool:
        return False

    def seek(self, *_: int) -> int:
        raise OSError("not seekable")

    def tell(self) -> int:
        raise OSError("not seekable")


async def test_the_content_type_can_be_named(gateway: MisbehavingGateway, agent: Agent) -> None:
    await agent.checkpoint(b"x", content_type="text/plain")
    await agent.checkpoint({"n": 1}, content_type="application/x-plan+json")
    assert [kind for _, kind, _ in gateway.checkpoints] == ["text/plain", "application/x-plan+json"]
    saved = await agent.restore()
    assert saved is not None
    assert saved.content_type == "application/x-plan+json"


async def test_a_file_of_text_or_none_is_refused(agent: Agent, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="mode 'rb'"):
        await agent.checkpoint(io.StringIO("text"))
    with pytest.raises(FileNotFoundError):
        await agent.checkpoint(tmp_path / "missing")


@pytest.mark.parametrize("source", ["bytes", "path", "stream"])
async def test_the_limit_is_told_before_anything_is_sent(
    gateway: MisbehavingGateway,
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
    assert gateway.requests == ["PUT /checkpoints"]


async def test_what_stays_damaged_on_its_way_is_an_error(gateway: MisbehavingGateway, agent: Agent) -> None:
    gateway.faults.extend([refuse("checksum-mismatch", 422)] * 3)
    with pytest.raises(GatewayError, match="checksum-mismatch"):
        await agent.checkpoint(b"x")
    assert len(gateway.requests) == 3


async def test_a_file_takes_a_checkpoint_or_stays_as_it_is(
    gateway: MisbehavingGateway, agent: Agent, tmp_path: Path
) -> None:
    target = tmp_path / "restored" / "state"
    target.parent.mkdir()
    target.write_bytes(b"older")
    assert await agent.restore_to(target) is None
    assert target.read_bytes() == b"older"
    await agent.checkpoint(LARGE, label="half")
    gateway.faults.append(drop)
    restored = await agent.restore_to(target, label="half")
    assert restored is not None
    assert (restored.sequence, restored.label, restored.path) == (1, "half", target)
    assert target.read_bytes() == LARGE
    gateway.damaged.add(1)
    target.write_bytes(b"mine")
    with pytest.raises(DamagedCheckpoint):
        await agent.restore_to(target)
    assert target.read_bytes() == b"mine"
    assert os.listdir(target.parent) == ["state"]


async def test_falling_back_past_what_is_damaged(
    gateway: MisbehavingGateway, agent: Agent, tmp_path: Path
) -> None:
    for number in range(1, 6):
        await agent.checkpoint(b"%d" % number, recoverable=number != 4)
    gateway.corrupt.add(5)
    gateway.damaged.add(3)
    with pytest.raises(DamagedCheckpoint) as caught:
        await agent.restore()
    assert caught.value.sequence == 5
    saved = await agent.restore(fallback=True)
    assert saved is not None
    # The fourth is sound, but nobody goes on from it.
    assert (saved.sequence, saved.data, saved.skipped) == (2, b"2", (5, 3))
    restored = await agent.restore_to(tmp_path / "file", fallback=True)
    assert restored is not None
    assert (restored.sequence, restored.skipped) == (2, (5, 3))
    assert (tmp_path / "file").read_bytes() == b"2"


async def test_falling_back_stays_within_the_label_and_may_find_nothing(
    gateway: MisbehavingGateway, agent: Agent
) -> None:
    for label in ("a", "b", "a", "b"):
        await agent.checkpoint(label.encode(), label=label)
    gateway.corrupt.add(3)
    saved = await agent.restore(label="a", fallback=True)
    assert saved is not None
    assert (saved.sequence, saved.label, saved.skipped) == (1, "a", (3,))
    gateway.corrupt.add(1)
    with pytest.raises(DamagedCheckpoint) as caught:
        await agent.restore(label="a", fallback=True)
    assert caught.value.sequence == 3


async def test_calls_at_once_are_sent_in_the_order_in_which_they_were_made(
    gateway: MisbehavingGateway, agent: Agent
) -> None:
    gateway.faults.extend([refuse("busy", 503)] * 3)
    numbers = await asyncio.gather(*(agent.checkpoint(number) for number in range(8)))
    assert numbers == list(range(1, 9))
    assert [data for data, _, _ in gateway.checkpoints] == [b"%d" % number for number in range(8)]
    orders = [int(headers["Perdure-Order"]) for headers in gateway.headers]
    assert orders == sorted(set(orders))


async def test_a_second_program_of_the_agent_goes_on_with_the_order(
    gateway: MisbehavingGateway, environment: Environment, options: Options
) -> None:
    for _ in range(3):
        async with connect(environment, options=options) as agent:
            await agent.checkpoint(b"x")
    orders = [int(headers["Perdure-Order"]) for headers in gateway.headers]
    assert orders == sorted(set(orders))
