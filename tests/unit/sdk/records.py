"""Short forms of a test gateway's records."""

from __future__ import annotations

from perdure_agent import testing


def sent(gateway: testing.Gateway) -> list[str]:
    """Method and path of each request, heartbeats apart."""
    return [
        f"{request.method} {request.path}" for request in gateway.requests if request.route != "heartbeat"
    ]


def saved(gateway: testing.Gateway) -> list[bytes]:
    """Data of the kept checkpoints, oldest first."""
    return [kept.data for kept in gateway.checkpoints]


def orders(gateway: testing.Gateway) -> list[int]:
    """Orders of the kept checkpoints, oldest first."""
    return [kept.order or 0 for kept in gateway.checkpoints]


def refuse(kind: str, status: int) -> testing.Refusal:
    """A fault that answers with a problem of this kind, and changes nothing."""
    return testing.Refusal(kind, status, f"detail of {kind}")
