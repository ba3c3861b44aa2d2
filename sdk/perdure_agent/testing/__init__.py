"""An in-memory gateway with scripted faults and virtual time, for tests of agents.

    from perdure_agent import testing

    async def test_a_killed_agent_goes_on_from_its_checkpoint():
        async with testing.Gateway(input={"files": ["a", "b", "c"]}) as gateway:
            gateway.script(testing.Kill(), on="checkpoint", at=3)
            assert await gateway.run(agent.main) == 137
            assert await gateway.run(agent.main) == 0
            assert gateway.restored == [(2, 2)]
            assert gateway.output == {"files": 3}

The SDK runs as in a pod, with its retries, heartbeats and exit codes; only the network and the time are
replaced. Times are virtual seconds of `gateway.clock`: time passes while the agent waits for a call of the
SDK, and by `await gateway.clock.advance(seconds)`. The same script gives the same requests each time.
"""

from perdure_agent.testing._clock import Clock
from perdure_agent.testing._faults import (
    Chooser,
    ExpiredToken,
    Fault,
    Kill,
    Killed,
    LostAnswer,
    Refusal,
    Slow,
    Takeover,
    TooManyRequests,
    Unavailable,
    Unreachable,
)
from perdure_agent.testing._gateway import Gateway
from perdure_agent.testing._records import (
    Failure,
    RecordedCheckpoint,
    RecordedProgress,
    RecordedRequest,
    Route,
    Saved,
    Success,
)

__all__ = [
    "Chooser",
    "Clock",
    "ExpiredToken",
    "Failure",
    "Fault",
    "Gateway",
    "Kill",
    "Killed",
    "LostAnswer",
    "RecordedCheckpoint",
    "RecordedProgress",
    "RecordedRequest",
    "Refusal",
    "Route",
    "Saved",
    "Slow",
    "Success",
    "Takeover",
    "TooManyRequests",
    "Unavailable",
    "Unreachable",
]
