"""The one source of chance of a world, and the profile of faults in it.

Each seed of the storm draws a profile of its own: some faults are common, others never happen. With every
fault in every seed, interleavings that need one fault alone would drown in the noise of the others.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

Item = TypeVar("Item")

#: Faults of single calls and watch events: how likely each is at most, in a seed that has it.
PER_CALL: Final = {
    "refused": 0.06,
    "answer lost": 0.05,
    "late": 0.04,
    "slow": 0.08,
    "event lost": 0.3,
    "event late": 0.12,
    "event twice": 0.12,
    "list stale": 0.8,
    "wake lost": 0.4,
    "list expires": 0.4,
}
#: Faults that come every now and then: how often relative to each other, in a seed that has them.
SUDDEN: Final = {
    "kill operator": 4.0,
    "freeze operator": 4.0,
    "second leader": 2.0,
    "api away": 1.0,
    "api errors": 1.0,
    "ledger away": 1.0,
    "ledger errors": 1.0,
    "gateway away": 1.0,
    "kill gateway": 1.0,
    "freeze gateway": 1.0,
    "api lags": 2.0,
    "watch gap": 2.0,
    "freeze agent": 4.0,
    "kill agent": 2.0,
    "delete pod": 3.0,
    "force-delete pod": 3.0,
    "evict pod": 2.0,
    "lose node": 1.0,
    "quota": 1.0,
    "creates refused": 1.0,
    "pause": 4.0,
    "cancel": 0.4,
    "delete run": 2.0,
}
#: Traits of agents and clusters: how likely each is at most, in a seed that has it.
TRAITS: Final = {
    "agent fails": 0.25,
    "agent interrupts": 0.15,
    "agent hangs": 0.15,
    "agent reports failure": 0.15,
    "agent ends early": 0.15,
    "agent deaf": 0.3,
    "slow start": 0.3,
    "late garbage": 0.9,
    "deleted while reporting": 0.6,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Which faults a world has, and how likely each is."""

    #: Probability of each fault of single calls and events, and of each trait; 0 for those left out.
    odds: Mapping[str, float] = field(default_factory=dict)
    #: Relative frequency of each sudden fault.
    sudden: Mapping[str, float] = field(default_factory=dict)
    #: Seconds between sudden faults, on average.
    pace: float = 10.0

    @staticmethod
    def drawn(source: random.Random) -> Profile:
        """A profile of its own for a seed."""
        draw = source.random
        #: How bad everything is in this seed.
        force = 0.2 + 0.8 * draw()
        odds = {
            name: most * force * draw() if draw() < 0.6 else 0.0 for name, most in (PER_CALL | TRAITS).items()
        }
        sudden = {name: weight for name, weight in SUDDEN.items() if draw() < 0.5}
        return Profile(odds=odds, sudden=sudden, pace=2.0 + 18.0 * draw())


#: No faults at all.
NONE: Final = Profile()


class Faults:
    """The one source of chance of a world. Nothing goes wrong while it is `quiesced`."""

    def __init__(self, seed: int, profile: Profile | None = None) -> None:
        """The seed draws a profile of its own if none is given."""
        self.random = random.Random(seed)
        self.quiesced = False
        #: While above 0, most calls to these fail.
        self.error_bursts: dict[str, int] = {"api": 0, "ledger": 0, "gateway": 0}
        profile = profile or Profile.drawn(self.random)
        self._odds = profile.odds
        self.sudden = dict(profile.sudden)
        self.pace = profile.pace

    def happens(self, name: str) -> bool:
        """Draw whether a fault or trait occurs now."""
        odds = self._odds.get(name, 0.0)
        return odds > 0.0 and not self.quiesced and self.random.random() < odds

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.random.random()

    def choice(self, items: Sequence[Item]) -> Item:
        return items[int(self.random.random() * len(items))]

    def next_sudden(self) -> str | None:
        """The next sudden fault; None if the profile has none."""
        if not self.sudden:
            return None
        return self.random.choices(list(self.sudden), list(self.sudden.values()))[0]
