"""The errors of publishing and subscribing: outages, which pass without an action of the caller."""

from __future__ import annotations


class BusError(Exception):
    """Base of the errors of the bus."""


class BusUnavailable(BusError):
    """NATS or its JetStream cannot be reached, or did not answer in time. A message may still arrive."""


class StreamMissing(BusUnavailable):
    """NATS answers and the stream does not exist: it was lost, and is created and refilled."""
