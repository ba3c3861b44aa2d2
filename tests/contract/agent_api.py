"""Cases of the agents' API that every implementation of it must pass, in whichever tier its tests are.

The gateway runs them on a ledger in memory (unit) and on Postgres (integration), `perdure_agent.testing` runs
them as it is: an agent's test would prove nothing if its gateway answered otherwise than the real one.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from tests.contract.client import BAD_TOKEN, Subject

Case = Callable[[Subject], Awaitable[None]]
CASES: list[Case] = []

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


def case(function: Case) -> Case:
    """Add a function to the contract."""
    CASES.append(function)
    return function


@case
async def the_task_names_its_attempt_and_its_newest_checkpoint(api: Subject) -> None:
    task = (await api.call("GET", "/task")).json()
    assert set(task) == {
        "workflow",
        "namespace",
        "task",
        "step",
        "index",
        "attempt",
        "input",
        "checkpoint",
        "lastFailure",
    }
    assert (task["attempt"], task["checkpoint"], task["lastFailure"]) == (1, None, None)
    await api.save(Perdure_Label="half")
    about = (await api.call("GET", "/task")).json()["checkpoint"]
    assert set(about) == {"sequence", "label", "at"}
    assert (about["sequence"], about["label"]) == (1, "half")
    assert datetime.fromisoformat(about["at"]).tzinfo is not None
    await api.supersede()
    task = (await api.call("GET", "/task")).json()
    assert (task["attempt"], task["checkpoint"]["sequence"]) == (2, 1)


@case
async def a_checkpoint_is_restored_with_its_headers(api: Subject) -> None:
    headers = {"Content-Type": "application/json", "Perdure-Label": "file 1%2F2: %C3%A4.py"}
    saved = await api.call("PUT", "/checkpoints", data=b'{"n":1}', headers=headers)
    assert (saved.status, saved.json()) == (201, {"sequence": 1})
    for path in ("/checkpoints/latest", "/checkpoints/1"):
        reply = await api.call("GET", path)
        assert (reply.status, reply.body) == (200, b'{"n":1}')
        expected = {
            "Perdure-Sequence": "1",
            "Perdure-Label": "file 1/2: %C3%A4.py",
            "Perdure-Sha256": hashlib.sha256(b'{"n":1}').hexdigest(),
            "Perdure-Attempt": "1",
            "Perdure-Recoverable": "true",
            "X-Content-Type-Options": "nosniff",
            "Content-Type": "application/json",
            "Content-Length": "7",
        }
        assert {name: reply.headers.get(name) for name in expected} == expected
        head = await api.call("HEAD", path)
        assert (head.status, head.headers["Content-Length"], head.body) == (200, "7", b"")


@case
async def a_bare_checkpoint_is_bytes_without_a_label(api: Subject) -> None:
    await api.save(b"", Content_Type="")
    reply = await api.call("GET", "/checkpoints/latest")
    assert (reply.body, reply.headers["Content-Type"]) == (b"", "application/octet-stream")
    assert "Perdure-Label" not in reply.headers


@case
async def a_label_in_the_query_overrides_the_header(api: Subject) -> None:
    await api.call(
        "PUT", "/checkpoints", data=b"x", params={"label": "ü & =%"}, headers={"Perdure-Label": "other"}
    )
    (entry,) = (await api.call("GET", "/checkpoints")).json()["checkpoints"]
    assert entry["label"] == "ü & =%"


@case
async def the_list_describes_each_checkpoint(api: Subject) -> None:
    assert (await api.call("GET", "/checkpoints")).json() == {"checkpoints": [], "before": None}
    await api.save(b"ab", Perdure_Label="half", Content_Type="text/plain")
    await api.save(b"abc", Perdure_Recoverable="FALSE")
    newest, oldest = (await api.call("GET", "/checkpoints")).json()["checkpoints"]
    assert (newest["sequence"], newest["recoverable"], newest["label"]) == (2, False, None)
    assert datetime.fromisoformat(oldest.pop("at")).tzinfo is not None
    assert oldest == {
        "sequence": 1,
        "label": "half",
        "size": 2,
        "contentType": "text/plain",
        "sha256": hashlib.sha256(b"ab").hexdigest(),
        "attempt": 1,
        "recoverable": True,
    }


@case
async def the_list_comes_in_pages(api: Subject) -> None:
    for number in range(1, 8):
        await api.save(Perdure_Label="odd" if number % 2 else "even")
    assert await api.listed() == ([7, 6, 5], 5)
    assert await api.listed(before="5") == ([4, 3, 2], 2)
    assert await api.listed(before="2") == ([1], None)
    assert await api.listed(limit="5") == ([7, 6, 5, 4, 3], 3)
    assert await api.listed(label="even") == ([6, 4, 2], None)
    assert await api.listed(label="even", limit="1", before="6") == ([4], 4)
    assert await api.listed(label="none") == ([], None)
    assert (await api.listed(before="9" * 60))[0] == [7, 6, 5]


@case
async def the_latest_is_the_newest_recoverable_of_its_label(api: Subject) -> None:
    for data, label in ((b"1", "ä"), (b"2", "b"), (b"3", "ä"), (b"4", "b")):
        await api.call("PUT", "/checkpoints", data=data, params={"label": label})
    await api.call(
        "PUT", "/checkpoints", data=b"5", params={"label": "ä"}, headers={"Perdure-Recoverable": "false"}
    )
    for params, body in (({"label": "ä"}, b"3"), ({"label": "b"}, b"4"), ({}, b"4"), ({"label": ""}, b"4")):
        reply = await api.call("GET", "/checkpoints/latest", params=params)
        assert (reply.status, reply.body) == (200, body)
    reply = await api.call("GET", "/checkpoints/5")
    assert (reply.body, reply.headers["Perdure-Recoverable"]) == (b"5", "false")
    assert (await api.call("GET", "/task")).json()["checkpoint"]["sequence"] == 4


@case
async def a_missing_checkpoint_is_404(api: Subject) -> None:
    for path in ("/checkpoints/latest", "/checkpoints/1"):
        reply = await api.call("GET", path)
        assert (reply.status, reply.kind) == (404, "checkpoint-not-found")
    await api.save(Perdure_Recoverable="false")
    for path in ("/checkpoints/latest", "/checkpoints/0", "/checkpoints/2", "/checkpoints/" + "9" * 23):
        reply = await api.call("GET", path)
        assert (reply.status, reply.kind) == (404, "checkpoint-not-found"), path
    reply = await api.call("GET", "/checkpoints/latest", params={"label": "none"})
    assert (reply.status, reply.kind) == (404, "checkpoint-not-found")
    assert "GET /agent/v1/checkpoints lists" in reply.detail


@case
async def an_order_decides_between_repeated_and_late_checkpoints(api: Subject) -> None:
    assert await api.save(b"one", Perdure_Order="7") == 1
    assert await api.save(b"one", Perdure_Order="7") == 1
    for data, order in ((b"other", "7"), (b"one", "6"), (b"older", "1")):
        reply = await api.call("PUT", "/checkpoints", data=data, headers={"Perdure-Order": order})
        assert (reply.status, reply.kind) == (409, "checkpoint-overtaken")
    assert await api.save(b"without an order") == 2
    assert await api.save(b"newest", Perdure_Order=str(2**63 - 1)) == 3
    assert (await api.call("POST", "/heartbeat")).status == 204
    await api.supersede()
    # Orders are compared within an attempt.
    assert await api.save(b"next attempt", Perdure_Order="1") == 4


@case
async def a_body_without_its_checksum_is_not_kept(api: Subject) -> None:
    await api.save(b"before")
    for size in (10, 1900):
        wrong = hashlib.sha256(b"other").hexdigest()
        reply = await api.call(
            "PUT", "/checkpoints", data=b"x" * size, headers={"Perdure-Sha256": wrong, "Perdure-Order": "9"}
        )
        assert (reply.status, reply.kind) == (422, "checksum-mismatch")
        assert "send it again" in reply.detail
    right = hashlib.sha256(b"x").hexdigest().upper()
    assert await api.save(b"x", Perdure_Sha256=right, Perdure_Order="9") == 2


@case
async def a_bad_field_is_named_with_its_remedy(api: Subject) -> None:
    requests: list[tuple[str, dict[str, Any], str]] = [
        ("PUT", {"headers": {"Perdure-Label": "a" * 257}}, "label: "),
        ("PUT", {"headers": {"Perdure-Label": "%00"}}, "label: "),
        ("PUT", {"headers": {"Perdure-Label": "%FF"}}, "label: "),
        ("PUT", {"params": {"label": "two\nlines"}}, "label: "),
        ("PUT", {"headers": {"Content-Type": "a" * 300}}, "Content-Type: "),
        ("PUT", {"headers": {"Perdure-Recoverable": "no"}}, "Perdure-Recoverable: send "),
        *(
            ("PUT", {"headers": {"Perdure-Order": order}}, "Perdure-Order: send ")
            for order in ("0", "-1", "1.5", str(2**63), "")
        ),
        ("PUT", {"headers": {"Perdure-Sha256": "00"}}, "Perdure-Sha256: send "),
        ("PUT", {"headers": {"Perdure-Sha256": "g" * 64}}, "Perdure-Sha256: send "),
        *(("GET", {"params": {"limit": value}}, "limit: use ") for value in ("13", "0", "-1", "x")),
        *(("GET", {"params": {"before": value}}, "before: use ") for value in ("0", "²")),
        ("GET", {"params": {"label": "a" * 257}}, "label: "),
    ]
    for method, options, named in requests:
        data = {"data": b"x"} if method == "PUT" else {}
        reply = await api.call(method, "/checkpoints", **data, **options)
        assert (reply.status, reply.kind) == (422, "invalid-field"), options
        assert reply.detail.startswith(named), options
    assert await api.listed() == ([], None)


@case
async def a_bad_body_is_refused_and_not_kept(api: Subject) -> None:
    bodies: list[tuple[str, bytes, int, str, str]] = [
        ("/result", b"", 400, "invalid-json", "body: "),
        ("/result", b"{", 400, "invalid-json", "body: "),
        ("/result", b'{"output": NaN}', 400, "invalid-json", "body: "),
        ("/result", b'{"output": "\xff"}', 400, "invalid-json", "body: "),
        ("/result", b'{"result": 1}', 422, "invalid-field", "output: "),
        ("/result", b"[]", 422, "invalid-field", "output: "),
        ("/result", b'{"output": 1, "more": 2}', 422, "invalid-field", "output: "),
        ("/result", b'{"output": {"a": "\\u0000"}}', 422, "invalid-field", "output: a string in it"),
        ("/result", b'{"output": {"\\u0000": 1}}', 422, "invalid-field", "output: a string in it"),
        ("/result", b'{"output": ' + b"[" * 101 + b"]" * 101 + b"}", 422, "invalid-field", "output: nested"),
        ("/result", b'{"output": "' + b"x" * 400 + b'"}', 413, "too-large", "body: "),
        ("/result", b'{"output": "' + b"x" * 99 + b'"}', 413, "too-large", "output: 101 bytes of compact"),
        ("/progress", b"{", 400, "invalid-json", "body: "),
        ("/progress", b"{}", 422, "invalid-field", "percent, message: "),
        ("/progress", b'{"percent": 101}', 422, "invalid-field", "percent: "),
        ("/progress", b'{"percent": -1}', 422, "invalid-field", "percent: "),
        ("/progress", b'{"percent": "5"}', 422, "invalid-field", "percent: "),
        ("/progress", b'{"percent": true}', 422, "invalid-field", "percent: "),
        ("/progress", b'{"message": 5}', 422, "invalid-field", "message: "),
        ("/progress", b'{"percentage": 5}', 422, "invalid-field", "percentage: "),
        ("/progress", b"5", 422, "invalid-field", "body: "),
        ("/progress", b" " * 201, 413, "too-large", "body: "),
        ("/heartbeat", b" " * 201, 413, "too-large", "body: "),
        ("/failure", b"{}", 422, "invalid-field", "message: "),
        ("/failure", b'{"message": null}', 422, "invalid-field", "message: "),
        ("/failure", b'{"message": "x", "retryable": "no"}', 422, "invalid-field", "retryable: "),
        ("/failure", b'{"message": "x", "retryable": null}', 422, "invalid-field", "retryable: "),
    ]
    for path, body, status, kind, named in bodies:
        reply = await api.call("POST", path, data=body)
        assert (reply.status, reply.kind) == (status, kind), (path, body)
        assert reply.detail.startswith(named), (path, body, reply.detail)
    # No report was recorded: the attempt is still as good as new.
    assert (await api.call("POST", "/heartbeat")).status == 204


@case
async def limits_hold_at_their_edges(api: Subject) -> None:
    assert await api.save(b"x" * 2000) == 1
    reply = await api.call("PUT", "/checkpoints", data=b"x" * 2001)
    assert (reply.status, reply.kind, reply.json()["limit"]) == (413, "too-large", 2000)
    assert await api.listed() == ([1], None)
    body = '{\n  "output":    "' + "x" * 98 + '"\n}'
    assert (await api.call("POST", "/result", data=body.encode())).status == 204


@case
async def signs_of_life_are_acknowledged(api: Subject) -> None:
    for body in ({"percent": 5}, {"message": "half"}, {"percent": 0.5, "message": "ü"}, {"percent": 100}):
        reply = await api.call("POST", "/progress", json=body)
        assert (reply.status, reply.body) == (202, b"")
    for options in ({}, {"data": b"ignored"}):
        reply = await api.call("POST", "/heartbeat", **options)
        assert (reply.status, reply.body) == (204, b"")


@case
async def the_first_report_is_acknowledged_however_often_and_late_it_comes(api: Subject) -> None:
    token = api.token
    for _ in range(2):
        reply = await api.call("POST", "/result", json={"output": {"text": "\\u0000 ü"}})
        assert (reply.status, reply.body) == (204, b"")
    assert (await api.call("POST", "/failure", json={"message": "a\x00b", "retryable": True})).status == 204
    await api.supersede()
    assert (await api.call("POST", "/result", json={"output": 1}, token=token)).status == 204
    reply = await api.call("POST", "/heartbeat", token=token)
    assert (reply.status, reply.kind) == (409, "superseded")


@case
async def a_superseded_attempt_gets_409_at_every_route(api: Subject) -> None:
    await api.save(b"x")
    for method, path, options in WRITES + READS:
        token = api.token
        assert (await api.call("POST", "/heartbeat")).status == 204
        await api.supersede()
        # Twice: an implementation may remember the attempt as open, and look it up again afterwards.
        for _ in range(2):
            reply = await api.call(method, path, token=token, **options)
            assert (reply.status, reply.kind) == (409, "superseded"), path
            assert "76" in reply.detail
    assert await api.listed() == ([1], None)


@case
async def without_a_good_token_every_route_is_closed(api: Subject) -> None:
    for (method, path, options), token in itertools.product(WRITES + READS, (None, BAD_TOKEN)):
        reply = await api.call(method, path, token=token, **options)
        assert (reply.status, reply.kind) == (401, "unauthenticated"), path
        assert reply.headers["Www-Authenticate"].startswith("Bearer")
        assert "PERDURE_TOKEN_FILE" in reply.detail
    assert await api.listed() == ([], None)


@case
async def an_expired_token_is_told_apart_at_every_route(api: Subject) -> None:
    for method, path, options in WRITES + READS:
        reply = await api.call(method, path, token=api.expired_token, **options)
        assert (reply.status, reply.kind) == (401, "token-expired"), path
        assert reply.headers["Www-Authenticate"].startswith("Bearer")
        assert reply.headers["Retry-After"] == "5"
        assert "PERDURE_TOKEN_FILE" in reply.detail
    assert await api.listed() == ([], None)


@case
async def an_unrecorded_pod_is_asked_to_try_again(api: Subject) -> None:
    for method, path, options in WRITES + READS:
        reply = await api.call(method, path, token=api.unrecorded_token, **options)
        assert (reply.status, reply.kind) == (503, "attempt-not-ready"), path
        assert reply.headers["Retry-After"] == "1"


@case
async def unknown_routes_and_methods_are_named(api: Subject) -> None:
    for path in ("/nothing", "/checkpoints/x", "/checkpoints/1/more"):
        reply = await api.call("GET", path)
        assert (reply.status, reply.kind) == (404, "not-found"), path
    for method, path, allowed in (
        ("DELETE", "/checkpoints", "GET, HEAD, PUT"),
        ("GET", "/progress", "POST"),
        ("POST", "/task", "GET, HEAD"),
    ):
        reply = await api.call(method, path)
        assert (reply.status, reply.kind) == (405, "method-not-allowed"), path
        assert reply.headers["Allow"] == allowed


@case
async def the_newest_ten_are_kept_and_the_newest_recoverable(api: Subject) -> None:
    for _ in range(3):
        await api.save()
    for _ in range(10):
        await api.save(Perdure_Recoverable="false")
    assert await api.listed(limit="12") == ([*range(13, 3, -1), 3], None)
    assert (await api.call("GET", "/checkpoints/2")).kind == "checkpoint-not-found"
    assert (await api.call("GET", "/checkpoints/latest")).headers["Perdure-Sequence"] == "3"
    assert await api.save() == 14
    assert await api.listed(limit="12") == ([*range(14, 4, -1)], None)


@case
async def a_corrupt_checkpoint_is_an_error_that_names_it(api: Subject) -> None:
    await api.save(b"sound")
    await api.save(b"damaged")
    await api.corrupt(2)
    for path in ("/checkpoints/latest", "/checkpoints/2"):
        reply = await api.call("GET", path)
        assert (reply.status, reply.kind) == (500, "checkpoint-corrupt")
        assert reply.json()["sequence"] == 2
        assert "Retry-After" not in reply.headers
    assert (await api.call("GET", "/checkpoints/1")).body == b"sound"
    assert (await api.call("GET", "/task")).json()["checkpoint"]["sequence"] == 2
