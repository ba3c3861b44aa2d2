"""A real HTTP server that speaks the agents' API and fails on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from aiohttp import web

Fault = Callable[[web.Request], web.StreamResponse]


def problem(
    kind: str, status: int, *, members: Mapping[str, Any] | None = None, **headers: str
) -> web.Response:
    """A problem document as the gateway sends it."""
    document = {
        "type": f"https://perdure.dev/problems/{kind}",
        "title": kind,
        "status": status,
        "detail": f"detail of {kind}",
        **(members or {}),
    }
    return web.Response(
        status=status,
        body=json.dumps(document).encode(),
        content_type="application/problem+json",
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def refuse(kind: str, status: int, **headers: str) -> Fault:
    """Answer with a problem, without doing anything."""
    return lambda _: problem(kind, status, **headers)


def drop(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class MisbehavingGateway:
    """Keeps what agents send. `faults` go to the next requests in turn, heartbeats apart."""

    def __init__(self) -> None:
        self.url = ""
        self.faults: deque[Fault | None] = deque()
        self.heartbeat_fault: Fault | None = None
        #: Do what was asked, and then drop the connection in place of the answer.
        self.lose_answers = 0
        self.requests: list[str] = []
        self.tokens: list[str | None] = []
        self.checkpoints: list[tuple[bytes, str, str | None]] = []
        #: Of each of them: its headers.
        self.headers: list[Mapping[str, str]] = []
        #: Sequences that are damaged in the ledger, and those that are damaged on their way.
        self.corrupt: set[int] = set()
        self.damaged: set[int] = set()
        self.progress: list[dict[str, Any]] = []
        self.heartbeats = 0
        self.reports: list[tuple[str, Any]] = []
        self.changed = asyncio.Condition()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for `condition`, which some request will make true."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        name = request.path.removeprefix("/agent/v1")
        body = await request.read()
        self.tokens.append(request.headers.get("Authorization"))
        if name == "/heartbeat":
            self.heartbeats += 1
            fault = self.heartbeat_fault
        else:
            self.requests.append(f"{request.method} {name}")
            fault = self.faults.popleft() if self.faults else None
        try:
            if fault is not None:
                return fault(request)
            answer = self._answer(request, name, body)
            if self.lose_answers and name != "/heartbeat":
                self.lose_answers -= 1
                return drop(request)
            return answer
        finally:
            async with self.changed:
                self.changed.notify_all()

    def _answer(self, request: web.Request, name: str, body: bytes) -> web.StreamResponse:
        match request.method, name:
            case "GET", "/task":
                return web.json_response({"input": {"from": "gateway"}})
            case "PUT", "/checkpoints":
                if hashlib.sha256(body).hexdigest() != request.headers.get("Perdure-Sha256"):
                    return problem("checksum-mismatch", 422)
                self.checkpoints.append((body, request.content_type, request.query.get("label")))
                self.headers.append(request.headers)
                return web.json_response({"sequence": len(self.checkpoints)}, status=201)
            case "GET", "/checkpoints":
                return self._list(request)
            case "GET", "/checkpoints/latest":
                wanted = request.query.get("label")
                fitting = [
                    number
                    for number, (_, _, label) in enumerate(self.checkpoints, start=1)
                    if self._recoverable(number) and wanted in (None, label)
                ]
                return self._checkpoint(fitting[-1] if fitting else 0)
            case "GET", _ if name.startswith("/checkpoints/"):
                return self._checkpoint(int(name.rpartition("/")[2]))
            case "POST", "/progress":
                self.progress.append(json.loads(body))
                return web.Response(status=202)
            case "POST", "/heartbeat":
                return web.Response(status=204)
            case "POST", "/result":
                self.reports.append(("result", json.loads(body)["output"]))
                return web.Response(status=204)
            case "POST", "/failure":
                self.reports.append(("failure", json.loads(body)))
                return web.Response(status=204)
        return web.Response(status=404, text="not a gateway")

    def _recoverable(self, sequence: int) -> bool:
        return self.headers[sequence - 1].get("Perdure-Recoverable") != "false"

    def _checkpoint(self, sequence: int) -> web.Response:
        if not 1 <= sequence <= len(self.checkpoints):
            return problem("checkpoint-not-found", 404)
        if sequence in self.corrupt:
            return problem("checkpoint-corrupt", 500, members={"sequence": sequence})
        data, content_type, label = self.checkpoints[sequence - 1]
        headers = {
            "Perdure-Sequence": str(sequence),
            "Perdure-Sha256": hashlib.sha256(data + b"?" * (sequence in self.damaged)).hexdigest(),
            "Content-Type": content_type,
        }
        if label is not None:
            headers["Perdure-Label"] = quote(label, safe=" ")
        return web.Response(body=data, headers=headers)

    def _list(self, request: web.Request) -> web.Response:
        """Two at a time, so that whoever wants all must ask again."""
        before = int(request.query.get("before", "1000000"))
        found = [
            {
                "sequence": number,
                "label": label,
                "size": len(data),
                "contentType": content_type,
                "sha256": hashlib.sha256(data).hexdigest(),
                "attempt": 1,
                "at": "2026-03-01T12:00:00.123456+00:00",
                "recoverable": self._recoverable(number),
            }
            for number, (data, content_type, label) in enumerate(self.checkpoints, start=1)
            if number < before and request.query.get("label") in (None, label)
        ][::-1]
        shown = found[:2]
        return web.json_response(
            {"checkpoints": shown, "before": shown[-1]["sequence"] if len(found) > 2 else None}
        )


@asynccontextmanager
async def running(gateway: MisbehavingGateway, *, port: int = 0) -> AsyncIterator[None]:
    """Serve on loopback; `gateway.url` says where."""
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", gateway.handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port, reuse_address=True)
    await site.start()
    gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        await runner.cleanup()
