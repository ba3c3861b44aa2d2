"""The gateway's route families, served on its port."""

from __future__ import annotations

import asyncio
import socket
import time
from datetime import UTC, datetime

from perdure.domain.records import LedgerUnavailable
from perdure.gateway.agent_api.checkpoint_throttle import CheckpointThrottle
from perdure.gateway.agent_api.limits import AgentLimits
from perdure.gateway.agent_api.ports import AgentLedger, Verifier
from perdure.gateway.agent_api.progress_throttle import ProgressThrottle
from perdure.gateway.agent_api.routes import AgentRoutes
from perdure.gateway.app import build_app
from perdure.gateway.http.limits import Limits
from perdure.gateway.http.problems import HttpProblem, Problem
from perdure.gateway.http.server import open_listener, serve_app
from perdure.gateway.http.tls import Certificate
from perdure.kube.tokens import KeysUnavailable
from perdure.settings import Settings


async def serve(
    settings: Settings,
    *,
    ledger: AgentLedger,
    verifier: Verifier,
    stop: asyncio.Event,
    limits: Limits | None = None,
    agent_limits: AgentLimits | None = None,
    listener: socket.socket | None = None,
) -> None:
    """Serve the product's route families until `stop` is set, and finish the requests in flight.

    `listener` replaces the address in the settings. Raises OSError if that address cannot be bound, and
    BadCertificate.
    """
    limits = limits or Limits(
        connections=settings.gateway_connections,
        connections_per_address=settings.gateway_connections_per_address,
    )
    agent_limits = agent_limits or AgentLimits()
    certificate, key = settings.gateway_tls_cert_file, settings.gateway_tls_key_file
    tls = None if certificate is None or key is None else Certificate(certificate, key, clock=time.monotonic)
    bound = listener or open_listener(settings.gateway_host, settings.gateway_port)
    async with (
        ProgressThrottle(ledger, clock=_now, interval=agent_limits.progress_interval) as throttle,
        CheckpointThrottle(
            ledger,
            clock=_now,
            interval=agent_limits.checkpoint_interval,
            burst=agent_limits.checkpoint_events,
        ) as checkpoints,
    ):
        agents = AgentRoutes(
            ledger, verifier, throttle=throttle, checkpoints=checkpoints, limits=agent_limits, clock=_now
        )

        async def ready() -> None:
            await _check_ready(ledger, verifier)

        app = build_app([agents], ready=ready, stop=stop, limits=limits)
        await serve_app(app, bound, stop=stop, limits=limits, tls=tls)


async def _check_ready(ledger: AgentLedger, verifier: Verifier) -> None:
    """Return if the ledger answers and tokens can be verified. Raises Problem(not-ready)."""
    try:
        await ledger.ready()
        await verifier.warm(now=_now())
    except KeysUnavailable as error:
        raise Problem(HttpProblem.NOT_READY, f"keys: {error}") from None
    except LedgerUnavailable as error:
        detail = str(error) or "it did not answer in time"
        raise Problem(HttpProblem.NOT_READY, f"ledger: {detail}") from None


def _now() -> datetime:
    return datetime.now(UTC)
