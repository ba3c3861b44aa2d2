"""The agents' API over real HTTP: responses, limits and problems."""

from __future__ import annotations

import asyncio
import hashlib
import io
import itertools
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from tests.support.loop_watch import watch_loop
from tests.support.waiting import until
from tests.unit.gateway.conftest import SMALL, RunningGateway
from tests.unit.gateway.memory import session

from perdure.domain.payloads import value_of
from perdure.domain.records import LedgerUnavailable, TaskKey
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.agent_api.request_fields import SMALL_RESULT, read_output, read_small_output
from perdure.gateway.http.limits import MIB
from perdure.gateway.http.problems import HttpProblem, Problem
from perdure.kube.tokens import ExpiredToken, KeysUnavailable

WRITES: list[tuple[str, str, dict[str, Any]]] = [
    ("PUT", "/checkpoints", {"data": b"x"}),
    ("POST", "/progress", {"json": {"percent": 1}}),
    ("POST", "/heartbeat", {}),
    ("POST", "/result", {"json": {"output": 1}}),
    ("POST", "/failure", {"json": {"message": "no"}}),
]
READS: list[tuple[str, str, dict[str, Any]]] = [
    ("GET", "/task", {}),
    ("GET", "/checkpoints/latest", {}),
    ("GET", "/checkpoints/1", {}),
    ("GET", "/checkpoints", {}),
]
ALL = WRITES + READS


async def test_a_task_without_checkpoint(gateway: RunningGateway) -> None:
    reply = await gateway.call("GET", "/task")
    assert reply.status == 200
    assert reply.json() == {
        "workflow": "audit",
        "namespace": "team-a",
        "task": "audit-analyse-0-abcde",
        "step": "analyse",
        "index": 0,
        "attempt": 1,
        "input": {"path": "a.py"},
        "checkpoint": None,
        "lastFailure": None,
    }


async def test_a_task_has_the_last_failure(gateway: RunningGateway) -> None:
    failure = {"attempt": 1, "reason": "ExitCode", "message": "no such file: ä.py", "exitCode": 2}
    gateway.ledger.sessions["pod-1"] = session(attempt=2, last_failure=failure)
    # The cached session of a writer has no failure; a reader must get the failure all the same.
    for _ in range(2):
        task = (await gateway.call("GET", "/task")).json()
        assert (task["attempt"], task["lastFailure"]) == (2, failure)
        assert (await gateway.call("POST", "/heartbeat")).status == 204


async def test_a_task_is_read_without_the_bytes_of_its_checkpoint(gateway: RunningGateway) -> None:
    await gateway.call("PUT", "/checkpoints", data=b"x" * 2000, headers={"Perdure-Label": "half"})

    async def unread(*_: object) -> None:
        raise AssertionError("a checkpoint was read")

    gateway.ledger.open_latest = unread  # type: ignore[method-assign,assignment]
    reply = await gateway.call("GET", "/task")
    about = reply.json()["checkpoint"]
    assert (about["sequence"], about["label"]) == (1, "half")
    assert about["at"].startswith(gateway.ledger.kept[0].created_at.isoformat()[:19])


async def test_a_task_of_a_step_without_items_has_no_index(gateway: RunningGateway) -> None:
    gateway.ledger.sessions["pod-1"] = session(key=TaskKey("report"))
    assert (await gateway.call("GET", "/task")).json()["index"] is None


async def test_a_checkpoint_is_read_as_it_was_written(gateway: RunningGateway) -> None:
    saved = await gateway.call(
        "PUT",
        "/checkpoints",
        data=b'{"n":1}',
        headers={"Content-Type": "application/json", "Perdure-Label": "file 1%2F2: %C3%A4.py"},
    )
    assert (saved.status, saved.json()) == (201, {"sequence": 1})
    for path in ("/checkpoints/latest", "/checkpoints/1"):
        reply = await gateway.call("GET", path)
        assert (reply.status, reply.body) == (200, b'{"n":1}')
        assert reply.headers["Perdure-Sequence"] == "1"
        assert reply.headers["Perdure-Label"] == "file 1/2: %C3%A4.py"
        assert reply.headers["Perdure-Sha256"] == hashlib.sha256(b'{"n":1}').hexdigest()
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.headers["Content-Length"] == "7"
    about = (await gateway.call("GET", "/task")).json()["checkpoint"]
    assert (about["sequence"], about["label"]) == (1, "file 1/2: ä.py")
    assert about["at"].startswith("20")


async def test_a_checkpoint_without_headers_is_bytes_without_label(gateway: RunningGateway) -> None:
    await gateway.call("PUT", "/checkpoints", data=b"", headers={"Content-Type": ""})
    (kept,) = gateway.ledger.kept
    assert (kept.data, kept.content_type, kept.label) == (b"", "application/octet-stream", None)
    reply = await gateway.call("GET", "/checkpoints/latest")
    assert reply.body == b""
    assert "Perdure-Label" not in reply.headers


async def test_a_label_in_the_query_overrides_the_header(gateway: RunningGateway) -> None:
    await gateway.call(
        "PUT", "/checkpoints", data=b"x", params={"label": "ü & =%"}, headers={"Perdure-Label": "other"}
    )
    assert gateway.ledger.kept[0].label == "ü & =%"


@pytest.mark.parametrize(
    "request_options",
    [
        {"headers": {"Perdure-Label": "a" * 257}},
        {"headers": {"Perdure-Label": "%00"}},
        {"headers": {"Perdure-Label": "%FF"}},
        {"params": {"label": "two\nlines"}},
    ],
)
async def test_an_invalid_label_is_refused_with_its_field(
    gateway: RunningGateway, request_options: dict[str, Any]
) -> None:
    reply = await gateway.call("PUT", "/checkpoints", data=b"x", **request_options)
    assert (reply.status, reply.kind) == (422, "invalid-field")
    assert reply.json()["detail"].startswith("label: ")
    assert not gateway.ledger.kept


async def test_an_invalid_content_type_is_refused_with_its_field(gateway: RunningGateway) -> None:
    reply = await gateway.call("PUT", "/checkpoints", data=b"x", headers={"Content-Type": "a" * 300})
    assert (reply.status, reply.kind) == (422, "invalid-field")
    assert reply.json()["detail"].startswith("Content-Type: ")


async def chunks(size: int) -> AsyncIterator[bytes]:
    for start in range(0, size, 100):
        yield b"x" * min(100, size - start)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(("size", "status"), [(2000, 201), (2001, 413)])
async def test_a_checkpoint_of_exactly_the_limit_is_accepted_and_one_byte_more_refused(
    gateway: RunningGateway, size: int, status: int, streamed: bool
) -> None:
    reply = await gateway.call("PUT", "/checkpoints", data=chunks(size) if streamed else b"x" * size)
    assert reply.status == status
    if status == 413:
        assert reply.kind == "too-large"
        assert reply.json()["limit"] == 2000
        assert "at most 2000 bytes" in reply.json()["detail"]
        assert not gateway.ledger.kept
    # The connection is still usable, and no memory is held.
    for _ in range(4):
        assert (await gateway.call("PUT", "/checkpoints", data=b"y" * 2000)).status == 201


async def test_a_refused_upload_gets_a_response_and_no_reset(gateway: RunningGateway) -> None:
    reply = await gateway.call("PUT", "/checkpoints", data=io.BytesIO(b"x" * 3_000_000), token="bad")
    assert (reply.status, reply.kind) == (401, "unauthenticated")


async def test_a_client_that_expects_100_continue_is_refused_before_the_body(gateway: RunningGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"PUT /agent/v1/checkpoints HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer good-pod-1\r\n"
        b"Expect: 100-continue\r\nContent-Length: 2001\r\n\r\n"
    )
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_large_bodies_wait_for_a_place_and_time_out_with_busy(gateway: RunningGateway) -> None:
    for pod, namespace in (("pod-2", "team-b"), ("pod-3", "team-c")):
        gateway.ledger.sessions[pod] = session(pod, namespace=namespace)
    gateway.ledger.gate = asyncio.Event()
    first, second = (
        asyncio.create_task(gateway.call("PUT", "/checkpoints", token=token, data=b"x" * 2000))
        for token in ("good-pod-1", "good-pod-2@team-b")
    )
    await gateway.ledger.until(lambda: gateway.ledger.entered == 2)
    third = await gateway.call("PUT", "/checkpoints", token="good-pod-3@team-c", data=b"x" * 2000)
    assert (third.status, third.kind) == (503, "busy")
    assert third.headers["Retry-After"] == "1"
    # Small bodies do not wait behind large ones.
    small = asyncio.create_task(gateway.call("PUT", "/checkpoints", data=b"x" * 500))
    await gateway.ledger.until(lambda: gateway.ledger.entered == 3)
    gateway.ledger.gate.set()
    assert [(await first).status, (await second).status] == [201, 201]
    assert (await small).status == 201
    assert (await gateway.call("PUT", "/checkpoints", data=b"x" * 2000)).status == 201


async def test_uploads_that_send_little_keep_no_other_out(gateway: RunningGateway) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"x" * 400
        await asyncio.Event().wait()

    gateway.ledger.sessions["pod-2"] = session("pod-2")
    gateway.ledger.sessions["pod-3"] = session("pod-3", namespace="team-b")
    held = [
        asyncio.create_task(gateway.call("PUT", "/checkpoints", token=f"good-pod-{pod}", data=stalled()))
        for pod in (1, 2)
    ]

    async def arrived() -> bool:
        # Each is found before its body is read.
        return gateway.ledger.lookups == 2

    await until(arrived)
    honest = await gateway.call("PUT", "/checkpoints", token="good-pod-3@team-b", data=b"x" * 2000)
    assert honest.status == 201
    for task in held:
        task.cancel()
    await asyncio.wait(held)


async def test_an_upload_reaches_the_ledger_only_once_it_is_whole(gateway: RunningGateway) -> None:
    more = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 1900
        await more.wait()
        yield b"y" * 100

    saving = asyncio.create_task(gateway.call("PUT", "/checkpoints", data=slow()))
    assert (await gateway.call("POST", "/heartbeat")).status == 204
    assert gateway.ledger.entered == 0
    more.set()
    assert (await saving).status == 201
    assert gateway.ledger.kept[-1].data == b"x" * 1900 + b"y" * 100


async def test_requests_beyond_those_of_one_pod_at_once_are_refused(gateway: RunningGateway) -> None:
    gateway.ledger.sessions["pod-2"] = session("pod-2")
    gateway.ledger.gate = asyncio.Event()
    most = SMALL.requests_at_once
    held = [asyncio.create_task(gateway.call("PUT", "/checkpoints", data=b"x")) for _ in range(most)]
    await gateway.ledger.until(lambda: gateway.ledger.entered == most)
    refused = await gateway.call("PUT", "/checkpoints", data=b"x")
    assert (refused.status, refused.kind) == (429, "too-many-requests")
    assert int(refused.headers["Retry-After"]) >= 1
    # Another pod of the namespace is not concerned.
    assert (await gateway.call("POST", "/heartbeat", token="good-pod-2")).status == 204
    gateway.ledger.gate.set()
    assert {(await task).status for task in held} == {201}


async def test_a_task_without_checkpoints_has_no_latest(gateway: RunningGateway) -> None:
    for path in ("/checkpoints/latest", "/checkpoints/1"):
        reply = await gateway.call("GET", path)
        assert (reply.status, reply.kind) == (404, "checkpoint-not-found")


async def test_head_answers_without_reading_the_checkpoint(gateway: RunningGateway) -> None:
    await gateway.call("PUT", "/checkpoints", data=b"first", headers={"Perdure-Label": "a"})
    await gateway.call("PUT", "/checkpoints", data=b"second")
    await gateway.call("PUT", "/checkpoints", data=b"third", headers={"Perdure-Recoverable": "false"})
    expected = {
        "/checkpoints/latest": (200, "2", "6"),
        "/checkpoints/latest?label=a": (200, "1", "5"),
        "/checkpoints/3": (200, "3", "5"),
    }
    for path, (status, sequence, size) in expected.items():
        whole = await gateway.call("GET", path)
        # A read would find the damage.
        gateway.ledger.damaged |= {1, 2, 3}
        reply = await gateway.call("HEAD", path)
        gateway.ledger.damaged.clear()
        assert (reply.status, reply.headers["Perdure-Sequence"]) == (status, sequence)
        assert (reply.headers["Content-Length"], reply.body) == (size, b"")
        different = {"Date"}
        assert {k: v for k, v in reply.headers.items() if k not in different} == {
            k: v for k, v in whole.headers.items() if k not in different
        }
    for path in ("/checkpoints/4", "/checkpoints/latest?label=none"):
        assert (await gateway.call("HEAD", path)).status == 404


async def test_an_unknown_sequence_is_not_found(gateway: RunningGateway) -> None:
    await gateway.call("PUT", "/checkpoints", data=b"x")
    for sequence in ("0", "2", "99999999999999999999999", "9" * 4301):
        reply = await gateway.call("GET", f"/checkpoints/{sequence}")
        assert (reply.status, reply.kind) == (404, "checkpoint-not-found"), sequence


async def test_a_corrupt_checkpoint_is_an_error_without_retry(gateway: RunningGateway) -> None:
    await gateway.call("PUT", "/checkpoints", data=b"x")
    gateway.ledger.damaged.add(1)
    reply = await gateway.call("GET", "/checkpoints/latest")
    assert (reply.status, reply.kind) == (500, "checkpoint-corrupt")
    assert "Retry-After" not in reply.headers
    assert "GET /agent/v1/checkpoints lists them" in reply.json()["detail"]
    assert reply.json()["sequence"] == 1
    # The task itself can still be read.
    task = (await gateway.call("GET", "/task")).json()
    assert task["checkpoint"]["sequence"] == 1


async def test_result(gateway: RunningGateway) -> None:
    reply = await gateway.call("POST", "/result", json={"output": {"findings": []}})
    assert (reply.status, reply.body) == (204, b"")
    (report,) = gateway.ledger.reports
    assert (report.outcome, value_of(report.output)) == ("Succeeded", {"findings": []})


@pytest.mark.parametrize(("length", "status"), [(98, 204), (99, 413)])
async def test_the_limit_of_an_output_is_counted_on_compact_json(
    gateway: RunningGateway, length: int, status: int
) -> None:
    body = '{\n  "output":    "' + "x" * length + '"\n}'
    reply = await gateway.call("POST", "/result", data=body)
    assert reply.status == status
    if status == 413:
        assert reply.json()["detail"].startswith("output: 101 bytes of compact JSON, at most 100")


BAD_BODIES = [
    ("/result", b"", 400, "invalid-json", "body: "),
    ("/result", b"{", 400, "invalid-json", "body: "),
    ("/result", b'{"output": NaN}', 400, "invalid-json", "body: "),
    ("/result", b'{"result": 1}', 422, "invalid-field", "output: "),
    ("/result", b"[]", 422, "invalid-field", "output: "),
    ("/result", b'{"output": 1, "more": 2}', 422, "invalid-field", "output: "),
    ("/result", b'{"output": {"a": "\\u0000"}}', 422, "invalid-field", "output: a string in it"),
    ("/result", b'{"output": 18446744073709551616}', 422, "invalid-field", "output: the whole number 1844"),
    ("/result", b'{"output": "' + b"x" * 400 + b'"}', 413, "too-large", "body: "),
    ("/progress", b"{}", 422, "invalid-field", "percent, message: "),
    ("/progress", b'{"percent": 101}', 422, "invalid-field", "percent: "),
    ("/progress", b'{"percent": "5"}', 422, "invalid-field", "percent: "),
    ("/progress", b'{"percent": true}', 422, "invalid-field", "percent: "),
    ("/progress", b'{"percentage": 5}', 422, "invalid-field", "percentage: "),
    ("/progress", b"5", 422, "invalid-field", "body: "),
    ("/progress", b" " * 201, 413, "too-large", "body: "),
    ("/failure", b"{}", 422, "invalid-field", "message: "),
    ("/failure", b'{"message": "x", "retryable": "no"}', 422, "invalid-field", "retryable: "),
]


async def test_an_invalid_body_is_refused_with_field_and_remedy(gateway: RunningGateway) -> None:
    for path, body, status, kind, named in BAD_BODIES:
        reply = await gateway.call("POST", path, data=body)
        assert (reply.status, reply.kind) == (status, kind), (path, body)
        detail = reply.json()["detail"]
        assert detail.startswith(named)
        assert "send " in detail or "remove it" in detail
    assert not gateway.ledger.reports
    assert not gateway.ledger.progressed


@pytest.mark.parametrize("levels", [101, 253, 300])
async def test_a_deeply_nested_output_is_refused(levels: int) -> None:
    body = b'{"output": ' + b"[" * levels + b"]" * levels + b"}"
    with pytest.raises(Problem, match="output: nested too deeply"):
        await output_of(body)


async def test_an_output_of_a_hundred_levels_is_kept() -> None:
    body = b'{"output": ' + b"[" * 100 + b"]" * 100 + b"}"
    assert await output_of(body) == body[len(b'{"output": ') : -1]


async def output_of(body: bytes) -> bytes:
    """The compact output of a result's body. A small one is read in both ways, with the same outcome."""

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    if len(body) <= SMALL_RESULT:
        small = await read_small_output(body, limits=AgentLimits())
        assert small == await read_output(pieces(), limits=AgentLimits())
    output = await read_output(pieces(), limits=AgentLimits())
    assert output is not None
    assert output.body is not None
    return output.body


@pytest.mark.parametrize(
    "number",
    [b"1.10", b"18446744073709551615", b"-9223372036854775808", b"-0", b"0.12345678901234567890123", b"1E5"],
)
async def test_a_number_keeps_the_digits_that_were_sent(number: bytes) -> None:
    assert await output_of(b'{"output": [' + number + b", 1]}") == b"[" + number + b",1]"
    assert await output_of(b'{"output":[' + number + b",1]}") == b"[" + number + b",1]"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"output":1,"more":2}', HttpProblem.INVALID_FIELD),
        (b'{"output":' + b"[" * 101 + b"]" * 101 + b"}", HttpProblem.INVALID_FIELD),
        (b'{"output":"\\u0000"}', HttpProblem.INVALID_FIELD),
        (b'{"output":[18446744073709551616]}', HttpProblem.INVALID_FIELD),
        (b'{"output":[1,]}', HttpProblem.INVALID_JSON),
        (b'{"output":1}}', HttpProblem.INVALID_JSON),
    ],
)
async def test_a_small_result_is_refused_for_the_same_faults(body: bytes, kind: HttpProblem) -> None:
    with pytest.raises(Problem) as caught:
        await read_small_output(body, limits=AgentLimits())
    assert caught.value.kind is kind


async def test_a_small_result_may_have_the_size_of_the_limit_and_no_more() -> None:
    limits = AgentLimits(output=100)
    exact = await read_small_output(b'{"output":"' + b"x" * 98 + b'"}', limits=limits)
    assert exact is not None and exact.size == 100
    with pytest.raises(Problem) as caught:
        await read_small_output(b'{"output":"' + b"x" * 99 + b'"}', limits=limits)
    assert caught.value.kind is HttpProblem.TOO_LARGE


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"[" + b"[]," * (8 * MIB // 3 - 10) + b"[]]", id="lists"),
        pytest.param(b"[" + b'{"a":{}},' * (8 * MIB // 9 - 10) + b"1]", id="maps"),
        pytest.param(b"[" + b"1," * (4 * MIB - 20) + b"1]", id="numbers"),
        pytest.param(b'"' + b"x" * (8 * MIB - 100) + b'"', id="text"),
    ],
)
async def test_a_result_far_over_the_limit_costs_no_more_than_one_at_the_limit(value: bytes) -> None:
    with watch_loop() as watch, pytest.raises(Problem) as caught:
        await output_of(b'{"output":' + value + b"}")
    assert caught.value.kind is HttpProblem.TOO_LARGE
    watch.check()
    with watch_loop() as smaller, pytest.raises(Problem):
        await output_of(b'{"output":' + value[: MIB + 100_000] + b"}")
    assert watch.total < 2 * smaller.total + 0.05


@pytest.mark.parametrize("unit", [b"[],", b'{"a":[]},', b'"",', b'"\\u00e9\\\\",', b"  1 ,", b'"a b" ,'])
async def test_a_result_at_the_limit_holds_no_callback(unit: bytes) -> None:
    value = b"[" + unit * ((MIB - 100) // len(unit)) + b"1]"
    with watch_loop() as watch:
        found = await output_of(b'{"output":' + value + b"}")
    watch.check()
    assert orjson.loads(found) == orjson.loads(value)


async def test_text_with_the_letters_of_an_escape_is_no_nul(gateway: RunningGateway) -> None:
    reply = await gateway.call("POST", "/result", json={"output": "\\u0000 \\\\u0000"})
    assert reply.status == 204


async def test_a_nul_in_a_failure_message_is_replaced(gateway: RunningGateway) -> None:
    reply = await gateway.call("POST", "/failure", json={"message": "a\x00b", "retryable": True})
    assert reply.status == 204
    (report,) = gateway.ledger.reports
    assert (report.outcome, report.message, report.retryable) == ("Failed", "a\ufffdb", True)


async def test_a_failure_is_not_retryable_by_default(gateway: RunningGateway) -> None:
    await gateway.call("POST", "/failure", json={"message": "no"})
    assert gateway.ledger.reports[0].retryable is False


async def test_heartbeat(gateway: RunningGateway) -> None:
    assert (await gateway.call("POST", "/heartbeat")).status == 204
    assert gateway.ledger.heartbeats == 1


async def test_an_expired_token_is_a_type_of_its_own_that_asks_to_wait(gateway: RunningGateway) -> None:
    gateway.verifier.error = ExpiredToken("the token has expired")
    reply = await gateway.call("POST", "/heartbeat")
    assert (reply.status, reply.kind) == (401, "token-expired")
    assert int(reply.headers["Retry-After"]) > 0
    assert reply.headers["Www-Authenticate"] == 'Bearer realm="perdure"'


async def test_every_route_refuses_a_request_without_a_valid_token(gateway: RunningGateway) -> None:
    for (method, path, options), token in itertools.product(ALL, (None, "", "bad")):
        reply = await gateway.call(method, path, token=token, **options)
        assert (reply.status, reply.kind) == (401, "unauthenticated"), path
        assert reply.headers["Www-Authenticate"].startswith("Bearer")
        assert "PERDURE_TOKEN_FILE" in reply.json()["detail"]
    assert gateway.ledger.lookups == 0


async def test_every_route_refuses_a_superseded_attempt(gateway: RunningGateway) -> None:
    await gateway.call("PUT", "/checkpoints", data=b"x")
    for number, (method, path, options) in enumerate(ALL, start=2):
        pod = f"pod-{number}"
        gateway.ledger.sessions[pod] = session(pod, attempt=number)
        assert (await gateway.call("POST", "/heartbeat", token=f"good-{pod}")).status == 204
        gateway.ledger.close(pod)
        # Twice: first with the session cached as open, then with a new lookup.
        for _ in range(2):
            reply = await gateway.call(method, path, token=f"good-{pod}", **options)
            assert (reply.status, reply.kind) == (409, "superseded"), path
            assert "76" in reply.json()["detail"]
    assert len(gateway.ledger.kept) == 1


async def test_an_unknown_pod_is_asked_to_retry(gateway: RunningGateway) -> None:
    for method, path, options in ALL:
        reply = await gateway.call(method, path, token="good-pod-2", **options)
        assert (reply.status, reply.kind) == (503, "attempt-not-ready"), path
        assert reply.headers["Retry-After"] == "1"
    gateway.ledger.sessions["pod-2"] = session("pod-2", attempt=2)
    assert (await gateway.call("POST", "/heartbeat", token="good-pod-2")).status == 204


async def test_an_unavailable_ledger_is_answered_503_without_secrets(gateway: RunningGateway) -> None:
    gateway.ledger.error = LedgerUnavailable("postgresql://secret@host refused")
    for method, path, options in ALL:
        reply = await gateway.call(method, path, **options)
        assert (reply.status, reply.kind) == (503, "ledger-unavailable"), path
        assert reply.headers["Retry-After"] == "1"
        assert b"secret" not in reply.body


async def test_unavailable_keys_are_answered_503_and_not_401(gateway: RunningGateway) -> None:
    gateway.verifier.error = KeysUnavailable("no")
    reply = await gateway.call("POST", "/heartbeat")
    assert (reply.status, reply.kind) == (503, "keys-unavailable")
    assert reply.headers["Retry-After"] == "1"


async def test_a_defect_is_answered_without_internals(gateway: RunningGateway) -> None:
    gateway.ledger.error = ValueError("inside")
    reply = await gateway.call("POST", "/heartbeat")
    assert (reply.status, reply.kind) == (500, "internal")
    assert b"inside" not in reply.body


async def test_the_session_of_a_writer_is_cached_and_of_a_reader_not(gateway: RunningGateway) -> None:
    for _ in range(3):
        await gateway.call("PUT", "/checkpoints", data=b"x")
    assert gateway.ledger.lookups == 1
    for _ in range(2):
        assert (await gateway.call("GET", "/task")).json()["input"] == {"path": "a.py"}
    assert gateway.ledger.lookups == 3


async def test_unknown_routes_and_methods_are_refused(gateway: RunningGateway) -> None:
    reply = await gateway.call("GET", "/signals")
    assert (reply.status, reply.kind) == (404, "not-found")
    reply = await gateway.call("GET", "/checkpoints/first")
    assert (reply.status, reply.kind) == (404, "not-found")
    reply = await gateway.call("POST", "/checkpoints")
    assert (reply.status, reply.kind) == (405, "method-not-allowed")
    assert reply.headers["Allow"] == "GET, HEAD, PUT"
