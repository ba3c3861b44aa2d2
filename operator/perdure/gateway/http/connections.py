"""The number of connections, in total and for each address, with a few places that health probes always find.

A client that gets no place of its own gets one of the reserve, in which the client can only ask for the
gateway's health, and from which the next client displaces it. So the kubelet's probes are answered however
many connections others hold, also when the kubelet and the agents share an address.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final

from perdure.gateway.http.limits import Limits

#: Longest time until the head of a request is whole, in a place of the reserve. Seconds.
_RESERVE_HEAD_TIME: Final = 1.0


class Place:
    """The right of one connection to exist. `release` is idempotent."""

    def __init__(self, owner: Connections, address: str, *, reserve: bool, head_time: float) -> None:
        self._owner = owner
        self.address = address
        #: True if the connection may only ask for health.
        self.reserve = reserve
        #: Seconds until the head of its first request must be whole.
        self.head_time = head_time
        self._abort: Callable[[], object] | None = None
        self._displaced = False
        self._released = False

    def end_with(self, abort: Callable[[], object]) -> None:
        """Name the way to end the connection, which is another one after its TLS handshake than before."""
        self._abort = abort
        if self._displaced:
            abort()

    def displace(self) -> None:
        """End the connection."""
        self._displaced = True
        if self._abort is not None:
            self._abort()

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._owner.give_back(self)


class Connections:
    """Counts of the connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._total = 0
        self._by_address: Counter[str] = Counter()
        #: Places of the reserve, the oldest first.
        self._reserve: OrderedDict[Place, None] = OrderedDict()

    @property
    def total(self) -> int:
        """Connections that may do more than ask for health."""
        return self._total

    def take(self, address: str) -> Place:
        """A place for a connection from `address`: of the reserve if there is no other."""
        limits = self._limits
        full = self._total >= limits.connections
        if full or self._by_address[address] >= limits.connections_per_address:
            return self._take_reserve(address)
        self._total += 1
        self._by_address[address] += 1
        return Place(self, address, reserve=False, head_time=limits.head_time)

    def give_back(self, place: Place) -> None:
        """Called by `Place.release`."""
        if place.reserve:
            self._reserve.pop(place, None)
            return
        self._total -= 1
        self._by_address[place.address] -= 1
        if not self._by_address[place.address]:
            del self._by_address[place.address]

    def _take_reserve(self, address: str) -> Place:
        if len(self._reserve) >= self._limits.reserve:
            oldest, _ = self._reserve.popitem(last=False)
            oldest.displace()
        place = Place(self, address, reserve=True, head_time=min(_RESERVE_HEAD_TIME, self._limits.head_time))
        self._reserve[place] = None
        return place
