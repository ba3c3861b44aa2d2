"""What publishing and subscribing raise on purpose: outages, which heal."""

from __future__ import annotations


class BusError(Exception):
    """Base of what the bus raises on purpose."""


class BusUnavailable(BusError):
    """NATS or its JetStream cannot be reached, or did not answer in time. A message may still arrive."""


class StreamMissing(BusUnavailable):
    """NATS is there and the stream is not: it was lost, and is to be made and filled again."""
