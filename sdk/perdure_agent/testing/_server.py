"""HTTP server on loopback in front of a test gateway, for agents in processes of their own."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from perdure_agent.testing._client import ConnectionLost
from perdure_agent.testing._problems import Message, Response

_PREFIX = "/agent/v1"


def bind(port: int) -> tuple[socket.socket, str]:
    """A listening socket on 127.0.0.1 (0: at a free port) and its URL. Raises OSError for a taken port."""
    listener = socket.create_server(("127.0.0.1", port))
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@asynccontextmanager
async def listening(
    exchange: Callable[[Message], Awaitable[Response]], *, listener: socket.socket
) -> AsyncIterator[None]:
    """Serve on a socket, until the context ends."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if not request.path.startswith(_PREFIX + "/"):
            return web.Response(status=404, text="not a gateway")
        message = Message(
            method=request.method,
            path=request.path.removeprefix(_PREFIX),
            query=request.rel_url.raw_query_string,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=await request.read(),
        )
        try:
            response = await exchange(message)
        except ConnectionLost:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return web.Response(status=response.status, headers=response.headers, body=response.body)

    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(application, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        yield
    finally:
        await runner.cleanup()
