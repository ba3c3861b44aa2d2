"""Checkpoints over real HTTP: list, choice, and uploads that must not be stored."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from tests.unit.gateway.conftest import RunningGateway
from tests.unit.gateway.memory import session


async def save(gateway: RunningGateway, data: bytes = b"x", **headers: str) -> int:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = await gateway.call("PUT", "/checkpoints", data=data, headers=named)
    assert reply.status == 201, reply.body
    return int(reply.json()["sequence"])


async def test_the_list_has_the_newest_checkpoint_first(gateway: RunningGateway) -> None:
    assert (await gateway.call("GET", "/checkpoints")).json() == {"checkpoints": [], "before": None}
    await save(gateway, b"ab", Perdure_Label="half", Content_Type="text/plain")
    await save(gateway, b"abc", Perdure_Recoverable="false")
    reply = await gateway.call("GET", "/checkpoints")
    assert reply.status == 200
    newest, oldest = reply.json()["checkpoints"]
    assert newest["sequence"] == 2
    assert newest["recoverable"] is False
    assert oldest == {
        "sequence": 1,
        "label": "half",
        "size": 2,
        "contentType": "text/plain",
        "sha256": hashlib.sha256(b"ab").hexdigest(),
        "attempt": 1,
        "at": oldest["at"],
        "recoverable": True,
    }


async def test_the_list_is_paged(gateway: RunningGateway) -> None:
    for number in range(1, 8):
        await save(gateway, Perdure_Label="odd" if number % 2 else "even")

    async def listed(**params: str) -> tuple[list[int], int | None]:
        answer = (await gateway.call("GET", "/checkpoints", params=params)).json()
        return [entry["sequence"] for entry in answer["checkpoints"]], answer["before"]

    assert await listed() == ([7, 6, 5], 5)
    assert await listed(before="5") == ([4, 3, 2], 2)
    assert await listed(before="2") == ([1], None)
    assert await listed(limit="5") == ([7, 6, 5, 4, 3], 3)
    assert await listed(label="even") == ([6, 4, 2], None)
    assert await listed(label="even", limit="1", before="6") == ([4], 4)
    assert await listed(label="none") == ([], None)
    assert (await listed(before="9" * 60))[0] == [7, 6, 5]


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "6"), ("limit", "0"), ("limit", "-1"), ("limit", "x"), ("before", "0"), ("before", "²")],
)
async def test_an_invalid_query_is_refused_with_field_and_remedy(
    gateway: RunningGateway, name: str, value: str
) -> None:
    reply = await gateway.call("GET", "/checkpoints", params={name: value})
    assert (reply.status, reply.kind) == (422, "invalid-field")
    assert reply.json()["detail"].startswith(f"{name}: use a whole number from 1")


async def test_the_latest_checkpoint_of_a_label(gateway: RunningGateway) -> None:
    for data, label in ((b"1", "ä"), (b"2", "b"), (b"3", "ä"), (b"4", "b")):
        await gateway.call("PUT", "/checkpoints", data=data, params={"label": label})
    await gateway.call(
        "PUT", "/checkpoints", data=b"5", params={"label": "ä"}, headers={"Perdure-Recoverable": "false"}
    )
    for params, body in (({"label": "ä"}, b"3"), ({"label": "b"}, b"4"), ({}, b"4"), ({"label": ""}, b"4")):
        reply = await gateway.call("GET", "/checkpoints/latest", params=params)
        assert (reply.status, reply.body) == (200, body)
    reply = await gateway.call("GET", "/checkpoints/latest", params={"label": "c"})
    assert (reply.status, reply.kind) == (404, "checkpoint-not-found")
    assert "GET /agent/v1/checkpoints lists" in reply.json()["detail"]
    reply = await gateway.call("GET", "/checkpoints/latest", params={"label": "a" * 257})
    assert (reply.status, reply.kind) == (422, "invalid-field")


async def test_a_checkpoint_that_is_not_recoverable_is_never_the_latest(gateway: RunningGateway) -> None:
    await save(gateway, b"partial", Perdure_Recoverable="FALSE")
    assert (await gateway.call("GET", "/task")).json()["checkpoint"] is None
    assert (await gateway.call("GET", "/checkpoints/latest")).kind == "checkpoint-not-found"
    reply = await gateway.call("GET", "/checkpoints/1")
    assert (reply.status, reply.body) == (200, b"partial")
    assert (reply.headers["Perdure-Recoverable"], reply.headers["Perdure-Attempt"]) == ("false", "1")
    await save(gateway, b"whole", Perdure_Recoverable="true")
    await save(gateway, b"partial again", Perdure_Recoverable="false")
    assert (await gateway.call("GET", "/task")).json()["checkpoint"]["sequence"] == 2
    reply = await gateway.call("GET", "/checkpoints/latest")
    assert (reply.body, reply.headers["Perdure-Recoverable"]) == (b"whole", "true")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Perdure-Recoverable", "no"),
        ("Perdure-Order", "0"),
        ("Perdure-Order", "-1"),
        ("Perdure-Order", "1.5"),
        ("Perdure-Order", str(2**63)),
        ("Perdure-Order", ""),
        ("Perdure-Sha256", "00"),
        ("Perdure-Sha256", "g" * 64),
    ],
)
async def test_an_invalid_header_is_refused_with_its_name(
    gateway: RunningGateway, name: str, value: str
) -> None:
    reply = await gateway.call("PUT", "/checkpoints", data=b"x", headers={name: value})
    assert (reply.status, reply.kind) == (422, "invalid-field")
    assert reply.json()["detail"].startswith(f"{name}: send ")
    assert not gateway.ledger.kept


async def test_a_checkpoint_with_a_wrong_checksum_is_not_stored(gateway: RunningGateway) -> None:
    await save(gateway, b"before")
    for size in (10, 1900):
        wrong = hashlib.sha256(b"other").hexdigest()
        reply = await gateway.call("PUT", "/checkpoints", data=b"x" * size, headers={"Perdure-Sha256": wrong})
        assert (reply.status, reply.kind) == (422, "checksum-mismatch")
        assert "send it again" in reply.json()["detail"]
        right = hashlib.sha256(b"x" * size).hexdigest().upper()
        assert await save(gateway, b"x" * size, Perdure_Sha256=right) == len(gateway.ledger.kept)
    assert [len(kept.data) for kept in gateway.ledger.kept] == [6, 10, 1900]


async def test_a_checkpoint_of_a_lower_order_is_refused_as_overtaken(gateway: RunningGateway) -> None:
    await save(gateway, b"newer", Perdure_Order="7")
    reply = await gateway.call("PUT", "/checkpoints", data=b"older", headers={"Perdure-Order": "6"})
    assert (reply.status, reply.kind) == (409, "checkpoint-overtaken")
    assert "higher number" in reply.json()["detail"]
    assert await save(gateway, b"newest", Perdure_Order=str(2**63 - 1)) == 2
    # The attempt continues.
    assert (await gateway.call("POST", "/heartbeat")).status == 204


async def raw(gateway: RunningGateway, *, length: int | None, body: bytes, more: str = "") -> bytes:
    """The response, if any, to exactly these bytes, after which the sending side is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    said = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = "PUT /agent/v1/checkpoints HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer good-pod-1\r\n"
    writer.write(f"{head}{said}\r\n{more}\r\n".encode() + body)
    writer.write_eof()
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("length", "body"),
    [
        (100, b"x" * 99),
        (1900, b"x" * 1000),
        (1900, b""),
        (None, b"64\r\n" + b"x" * 99),
        (None, b"5dc\r\n" + b"x" * 1500 + b"\r\n"),
        (None, b"zz\r\n"),
    ],
    ids=["small", "large", "nothing", "small chunk", "large chunks", "no chunk"],
)
async def test_a_torn_upload_leaves_the_previous_checkpoint(
    gateway: RunningGateway, length: int | None, body: bytes
) -> None:
    await save(gateway, b"before")
    answer = await raw(gateway, length=length, body=body)
    assert b" 201 " not in answer
    assert [kept.data for kept in gateway.ledger.kept] == [b"before"]
    # Neither memory nor a place among the uploads leaks.
    for _ in range(3):
        await save(gateway, b"x" * 2000)


async def test_bytes_beyond_the_declared_length_are_caught_by_the_checksum(gateway: RunningGateway) -> None:
    """By HTTP the first five bytes are the whole body. Only the checksum shows the difference."""
    whole = hashlib.sha256(b"12345678").hexdigest()
    answer = await raw(gateway, length=5, body=b"12345678", more=f"Perdure-Sha256: {whole}\r\n")
    assert answer.startswith((b"HTTP/1.1 422 ", b"HTTP/1.1 400 "))
    await save(gateway, b"sound")
    assert [kept.data for kept in gateway.ledger.kept] == [b"sound"]


async def test_an_upload_of_a_superseded_attempt_gets_a_response(gateway: RunningGateway) -> None:
    gateway.ledger.sessions["pod-2"] = session("pod-2", attempt=2)
    await gateway.call("POST", "/heartbeat", token="good-pod-2")
    gateway.ledger.close("pod-2")

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    reply = await gateway.call("PUT", "/checkpoints", token="good-pod-2", data=endless())
    assert (reply.status, reply.kind) == (409, "superseded")


async def test_damage_found_during_a_transfer_cuts_the_response_off(gateway: RunningGateway) -> None:
    await save(gateway, b"x" * 1000)
    gateway.ledger.damaged_late.add(1)
    with pytest.raises(aiohttp.ClientPayloadError):
        await gateway.call("GET", "/checkpoints/latest")
    gateway.ledger.damaged_late.clear()
    assert (await gateway.call("GET", "/checkpoints/latest")).body == b"x" * 1000


async def test_a_head_request_has_the_size(gateway: RunningGateway) -> None:
    await save(gateway, b"x" * 1000)
    reply = await gateway.call("HEAD", "/checkpoints/latest")
    assert (reply.status, reply.headers["Content-Length"], reply.body) == (200, "1000", b"")
