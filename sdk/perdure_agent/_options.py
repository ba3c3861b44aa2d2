"""Settings of the SDK. The defaults suit agents that work for minutes to days."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Behaviour of calls while the gateway is away. All times in seconds."""

    #: Time that a call with consequences (checkpoint, restore, result) is repeated for; None: without end.
    patience: float | None = 3600.0
    #: Delay before the first repetition. Each following delay is twice as long, less up to half at random.
    first_delay: float = 0.1
    longest_delay: float = 10.0
    #: Time for one try of a call with a small body. A large body adds one second for each MiB.
    request_timeout: float = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of `connect`. All times in seconds."""

    retries: Retries = field(default_factory=Retries)
    #: Time between two signs of life.
    heartbeat_interval: float = 10.0
    #: A thread sends heartbeats while the agent's own code keeps the event loop busy. Without the thread,
    #: `idleTimeout` also stops an agent whose event loop hangs.
    heartbeat_thread: bool = True
    #: Time that a result waits for an absent gateway once the termination message holds it.
    result_patience: float = 300.0
    #: No call waits for longer than this after SIGTERM. Less than the pod's grace period, which is 30 s
    #: unless the manifest says otherwise: the kubelet kills the process at its end.
    grace: float = 20.0
