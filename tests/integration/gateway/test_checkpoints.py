"""Large, torn, late and damaged checkpoints, from the agent to the disk and back."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from perdure.domain.records import RunState, TaskKey
from perdure.ledger import Ledger
from perdure_agent import DamagedCheckpoint, GatewayError, Options, connect
from tests.integration.gateway.conftest import KEY, AgentOf, GatewayProcess
from tests.integration.gateway.keys import ClusterKeys
from tests.integration.ledger.samples import started
from tests.support.waiting import until

MIB = 1024 * 1024
#: Size of checkpoints that pass through in pieces.
NOISE = random.Random(5).randbytes(3 * MIB)


@pytest.fixture
async def client(run: RunState, cluster: ClusterKeys) -> AsyncIterator[aiohttp.ClientSession]:
    pod_uid = run.attempts[KEY].pod_uid
    assert pod_uid is not None
    headers = {"Authorization": f"Bearer {cluster.token(pod_uid)}"}
    async with aiohttp.ClientSession(headers=headers) as session:
        yield session


async def remains(ledger: Ledger, run: RunState) -> tuple[Any, ...]:
    """All rows that a checkpoint leaves."""
    return (
        await ledger.database.fetch("select sequence, sha256 from perdure.checkpoint order by 1"),
        await ledger.database.fetch("select upload, number from perdure.checkpoint_piece order by 1, 2"),
        await ledger.events(run.run.uid),
    )


async def blocks(count: int, rest: bytes = b"") -> AsyncIterator[bytes]:
    """`count` different MiB, generated without holding them."""
    for number in range(count):
        yield number.to_bytes(8) + NOISE[8:MIB]
    if rest:
        yield rest


async def test_the_real_limit_of_a_checkpoint(
    ledger: Ledger, run: RunState, gateway: str, agent_of: AgentOf, options: Options, tmp_path: Path
) -> None:
    digest = hashlib.sha256()
    async for block in blocks(64):
        digest.update(block)
    async with connect(agent_of(gateway, run.attempts[KEY].pod_uid), options=options) as agent:
        assert await agent.checkpoint(blocks(64), label="all of it") == 1
        (listed,) = await agent.checkpoints()
        assert (listed.size, listed.label, listed.recoverable) == (64 * MIB, "all of it", True)
        restored = await agent.restore_to(tmp_path / "restored")
        assert restored is not None
        with restored.path.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == digest.digest()
        with pytest.raises(GatewayError) as caught:
            await agent.checkpoint(blocks(64, b"1"))
    assert (caught.value.status, caught.value.kind) == (413, "too-large")


@pytest.mark.parametrize("declared", [True, False])
async def test_one_byte_above_the_limit_is_refused_by_the_gateway_itself(
    ledger: Ledger, run: RunState, gateway: str, client: aiohttp.ClientSession, declared: bool
) -> None:
    before = await remains(ledger, run)
    headers = {"Content-Length": str(64 * MIB + 1)} if declared else {}
    async with client.put(
        f"{gateway}/agent/v1/checkpoints", data=blocks(64, b"1"), headers=headers
    ) as response:
        problem = await response.json()
    assert (response.status, problem["type"].rpartition("/")[2]) == (413, "too-large")
    assert problem["detail"] == "checkpoint: at most 67108864 bytes; send less, or a reference to it"
    assert await remains(ledger, run) == before


async def test_checkpoints_are_listed_and_chosen(
    run: RunState, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    async with connect(agent_of(gateway, run.attempts[KEY].pod_uid), options=options) as agent:
        for number, label in enumerate(("plan", "draft", "plan"), start=1):
            await agent.checkpoint({"n": number}, label=label)
        await agent.checkpoint(NOISE, label="plan", recoverable=False)
        listed = await agent.checkpoints()
        assert [(info.sequence, info.label, info.recoverable) for info in listed] == [
            (4, "plan", False),
            (3, "plan", True),
            (2, "draft", True),
            (1, "plan", True),
        ]
        assert [info.sequence for info in await agent.checkpoints(label="draft")] == [2]
        for asked, sequence in (({}, 3), ({"label": "draft"}, 2), ({"sequence": 4}, 4), ({"sequence": 1}, 1)):
            saved = await agent.restore(**asked)  # type: ignore[arg-type]
            assert saved is not None
            assert saved.sequence == sequence
        last = await agent.restore(sequence=4)
        assert last is not None
        assert last.data == NOISE


async def test_a_damaged_checkpoint_is_reported_and_skipped(
    ledger: Ledger, run: RunState, gateway: str, agent_of: AgentOf, options: Options
) -> None:
    async with connect(agent_of(gateway, run.attempts[KEY].pod_uid), options=options) as agent:
        await agent.checkpoint(b"sound")
        await agent.checkpoint(b"small, and to be damaged")
        await agent.checkpoint(NOISE)
        await ledger.database.fetch(
            "update perdure.checkpoint set data = 'small, and now damaged!!' where sequence = 2"
        )
        await ledger.database.fetch(
            "update perdure.checkpoint_piece set data = overlay(data placing 'x' from 77) where number = 5"
        )
        with pytest.raises(DamagedCheckpoint, match="ask for an older one") as caught:
            await agent.restore()
        assert caught.value.sequence == 3
        saved = await agent.restore(fallback=True)
        assert saved is not None
        assert (saved.sequence, saved.data, saved.skipped) == (1, b"sound", (3, 2))


async def send_raw(url: str, client: aiohttp.ClientSession, *, length: int | None, body: bytes) -> bytes:
    """The response, if any, to exactly these bytes, after which the sending side is closed."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    said = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    writer.write(
        f"PUT /agent/v1/checkpoints HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n{said}\r\n\r\n".encode()
    )
    writer.write(body)
    await writer.drain()
    writer.write_eof()
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (100, b"x" * 99),
        (len(NOISE) + 1, NOISE),
        (64 * MIB, NOISE),
        (None, b"%x\r\n%b\r\n" % (len(NOISE), NOISE)),
        (None, b"%x\r\n%b" % (len(NOISE), NOISE[:-1])),
    ],
    ids=["small", "one byte missing", "most of it missing", "no last chunk", "chunk cut"],
)
async def test_a_torn_upload_writes_nothing(
    ledger: Ledger,
    run: RunState,
    gateway: str,
    client: aiohttp.ClientSession,
    length: int | None,
    body: bytes,
) -> None:
    url = f"{gateway}/agent/v1/checkpoints"
    async with client.put(url, data=b"before") as response:
        assert response.status == 201
    before = await remains(ledger, run)
    assert b" 201 " not in await send_raw(gateway, client, length=length, body=body)
    async with client.put(url, data=io.BytesIO(NOISE), headers={"Perdure-Sha256": "0" * 64}) as response:
        assert response.status == 422

    async def nothing_is_open() -> bool:
        row = await ledger.database.fetchrow(
            "select count(*) as n from pg_stat_activity"
            " where state like 'idle in transaction%' and datname = current_database()"
        )
        return row["n"] == 0

    await until(nothing_is_open)
    assert await remains(ledger, run) == before
    async with client.get(f"{url}/latest") as response:
        assert await response.read() == b"before"


async def test_a_gateway_that_dies_during_an_upload_writes_nothing(
    ledger: Ledger,
    run: RunState,
    gateway_process: GatewayProcess,
    client: aiohttp.ClientSession,
    agent_of: AgentOf,
    options: Options,
) -> None:
    await gateway_process.ready()
    before = await remains(ledger, run)
    stalled, sent = asyncio.Event(), asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        async for block in blocks(4):
            yield block
        # The gateway has taken all but what the sockets hold.
        sent.set()
        await stalled.wait()

    async def upload() -> None:
        await client.put(f"{gateway_process.url}/agent/v1/checkpoints", data=stalls())

    uploading = asyncio.create_task(upload())
    async with asyncio.timeout(30):
        await sent.wait()
    await gateway_process.kill()
    with pytest.raises(aiohttp.ClientError):
        await uploading
    await gateway_process.start()
    async with connect(agent_of(gateway_process.url, run.attempts[KEY].pod_uid), options=options) as agent:
        assert await agent.restore() is None
        assert await remains(ledger, run) == before
        assert await agent.checkpoint(NOISE) == 1


async def test_a_gateway_that_dies_while_it_stores_the_pieces_writes_nothing(
    ledger: Ledger,
    run: RunState,
    gateway_process: GatewayProcess,
    client: aiohttp.ClientSession,
    agent_of: AgentOf,
    options: Options,
) -> None:
    await gateway_process.ready()
    before = await remains(ledger, run)

    async def waits_for_the_end() -> bool:
        return bool(
            await ledger.database.fetch(
                "select from pg_locks where relation = 'perdure.checkpoint'::regclass and not granted"
            )
        )

    async def upload() -> None:
        await client.put(f"{gateway_process.url}/agent/v1/checkpoints", data=blocks(4))

    async with ledger.database.acquire() as connection:
        # All pieces are stored, and the row that names them cannot be.
        await connection.execute("begin")
        await connection.execute("lock table perdure.checkpoint in share mode")
        uploading = asyncio.create_task(upload())
        await until(waits_for_the_end)
        await gateway_process.kill()
        with pytest.raises(aiohttp.ClientError):
            await uploading
        await connection.execute("rollback")

    async def ended() -> bool:
        return not await ledger.database.fetch(
            "select from pg_locks where relation = 'perdure.checkpoint_piece'::regclass"
            " and mode = 'RowExclusiveLock'"
        )

    await until(ended)
    await gateway_process.start()
    async with connect(agent_of(gateway_process.url, run.attempts[KEY].pod_uid), options=options) as agent:
        assert await agent.restore() is None
        assert await remains(ledger, run) == before
        assert await agent.checkpoint(NOISE) == 1


Put = dict[str, str]


async def send(gateway: GatewayProcess, client: aiohttp.ClientSession, data: bytes, headers: Put) -> Any:
    """The response of one gateway: status and document."""
    url = f"{gateway.url}/agent/v1/checkpoints"
    async with client.put(url, data=io.BytesIO(data), headers=headers) as response:
        return response.status, await response.json(content_type=None)


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
async def test_a_checkpoint_held_by_a_frozen_gateway_does_not_become_current(
    ledger: Ledger,
    run: RunState,
    two_gateways: tuple[GatewayProcess, GatewayProcess],
    client: aiohttp.ClientSession,
    large: bool,
) -> None:
    one, other = two_gateways
    older = NOISE if large else b"older"
    # The frozen gateway has the request. Only this test still waits for the response.
    one.freeze()
    orphan = asyncio.create_task(send(one, client, older, {"Perdure-Order": "10"}))
    # The agent retries at another gateway, and later saves a newer checkpoint.
    assert await send(other, client, older, {"Perdure-Order": "10"}) == (201, {"sequence": 1})
    assert await send(other, client, b"newer", {"Perdure-Order": "11"}) == (201, {"sequence": 2})
    before = await remains(ledger, run)
    one.thaw()
    # The same checkpoint again: acknowledged, and not stored twice.
    assert await orphan == (201, {"sequence": 1})
    assert await remains(ledger, run) == before

    one.freeze()
    orphan = asyncio.create_task(send(one, client, older, {"Perdure-Order": "12"}))
    assert await send(other, client, b"newest", {"Perdure-Order": "13"}) == (201, {"sequence": 3})
    before = await remains(ledger, run)
    one.thaw()
    status, problem = await orphan
    assert (status, problem["type"].rpartition("/")[2]) == (409, "checkpoint-overtaken")
    assert await remains(ledger, run) == before
    async with client.get(f"{one.url}/agent/v1/checkpoints/latest") as response:
        assert await response.read() == b"newest"

    # Without an order the last write wins.
    assert await send(one, client, b"unordered", {}) == (201, {"sequence": 4})


def peak(gateway: GatewayProcess) -> int:
    """Peak memory of the process since `forget_peak`, in bytes."""
    assert gateway.process is not None
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def forget_peak(gateway: GatewayProcess) -> int:
    assert gateway.process is not None
    Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5")
    return peak(gateway)


async def test_four_of_the_largest_transfers_at_once_take_bounded_memory(
    ledger: Ledger,
    epoch: int,
    gateway_process: GatewayProcess,
    cluster: ClusterKeys,
    record_property: Any,
) -> None:
    keys = [TaskKey("work", index) for index in range(4)]
    run = await started(ledger, epoch, *keys)
    tokens = [cluster.token(run.attempts[key].pod_uid or "") for key in keys]
    url = f"{gateway_process.url}/agent/v1/checkpoints"
    await gateway_process.ready()

    async with aiohttp.ClientSession() as client:

        async def up(token: str, count: int) -> None:
            headers = {"Authorization": f"Bearer {token}"}
            async with client.put(url, data=blocks(count), headers=headers) as response:
                assert response.status == 201, await response.text()

        async def down(token: str, count: int) -> None:
            headers = {"Authorization": f"Bearer {token}"}
            async with client.get(f"{url}/latest", headers=headers) as response:
                assert response.status == 200
                size = 0
                async for piece in response.content.iter_any():
                    size += len(piece)
            assert size == count * MIB

        # Warm-up: imports and connections.
        for move in (up, down):
            await asyncio.gather(*(move(token, 2) for token in tokens))
        for move in (up, down):
            before = forget_peak(gateway_process)
            await asyncio.gather(*(move(token, 64) for token in tokens))
            grown = peak(gateway_process) - before
            record_property(f"peak {move.__name__}", grown // MIB)
            print(f"gateway memory, {move.__name__}: {before // MIB} MiB and {grown // MIB} MiB more")
            # One copy of each would be 256 MiB.
            assert grown < 64 * MIB
