"""A real HTTP server that speaks the agents' API and fails on demand."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from aiohttp import web

Fault = Callable[[web.Request], web.StreamResponse]


def problem(kind: str, status: int, **headers: str) -> web.Response:
    """A problem document as the gateway sends it."""
    document = {
        "type": f"https://perdure.dev/problems/{kind}",
        "title": kind,
        "status": status,
        "detail": f"detail of {kind}",
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
        self.progress: list[dict[str, Any]] = []
        self.heartbeats = 0
        self.reports: list[tuple[str, Any]] = []
        self.damage = False
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
                self.checkpoints.append((body, request.content_type, request.query.get("label")))
                return web.json_response({"sequence": len(self.checkpoints)}, status=201)
            case "GET", "/checkpoints/latest":
                if not self.checkpoints:
                    return problem("checkpoint-not-found", 404)
                data, content_type, label = self.checkpoints[-1]
                headers = {
                    "Perdure-Sequence": str(len(self.checkpoints)),
                    "Perdure-Sha256": hashlib.sha256(data + b"?" * self.damage).hexdigest(),
                    "Content-Type": content_type,
                }
                if label is not None:
                    headers["Perdure-Label"] = quote(label, safe=" ")
                return web.Response(body=data, headers=headers)
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
