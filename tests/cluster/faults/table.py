"""The faults, and what each is documented to cost (docs/how-to/operations.md, "What each fault means")."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field

from tests.cluster.faults.stage import AWAY, Inject, Stage
from tests.cluster.faults.workload import PARALLELISM
from tests.cluster.installation import DEADLINE
from tests.cluster.waiting import until

#: The item to which it happens.
VICTIM = 0


@dataclass(frozen=True)
class Cost:
    """The retries and disruptions that a fault may cost."""

    #: Retries of all tasks together; a fault that is not the agent's spends none.
    retries: int = 0
    #: Likewise: at least, and at most.
    disruptions: tuple[int, int] = (0, 0)


NOTHING = Cost()
ONE_RETRY = Cost(retries=1)
ONE_DISRUPTION = Cost(disruptions=(1, 1))
#: The cost of a fault that hits every agent on the node; the held agent is always there.
DISRUPTIONS = Cost(disruptions=(1, PARALLELISM))
#: The cost of a fault that hits agents whose containers were starting.
STARTS = Cost(disruptions=(0, PARALLELISM))
#: The reason in the event of a retry, and of a disruption.
RETRIED, DISRUPTED = "ExitCode", "Disrupted"


@dataclass(frozen=True)
class Fault:
    """A fault that disturbs a run."""

    name: str
    inject: Inject
    cost: Cost = NOTHING
    #: Where the victim's first attempt waits for it.
    hold: str = ""
    #: Whether no node takes pods until it has happened.
    cordoned: bool = False
    #: Operators that there are.
    replicas: int = 1
    #: Whether CI has time for it.
    representative: bool = field(default=False)


# --- the control plane


def _kill(component: str) -> Inject:
    def inject(stage: Stage) -> None:
        stage.until_busy()
        stage.kill(stage.part(component), component)

    return inject


def _freeze(component: str) -> Inject:
    def inject(stage: Stage) -> None:
        stage.until_busy()
        with stage.frozen(stage.part(component), component):
            time.sleep(AWAY)

    return inject


def _kill_leader(stage: Stage) -> None:
    stage.until_busy()
    stage.kill(stage.leader(), "operator")


def _freeze_leader(stage: Stage) -> None:
    """Freeze the leader, and thaw it when the standby leads and the run has continued."""
    stage.until_busy()
    leader = stage.leader()
    with stage.frozen(leader, "operator"):
        until(lambda: stage.leader() != leader, seconds=DEADLINE, what=f"another leader than {leader}")
        stage.journal.until("done", len(stage.journal.lines("done")) + 1)


# --- Kubernetes


def _kill_program(name: str) -> Inject:
    def inject(stage: Stage) -> None:
        stage.until_busy()
        stage.kill_program(name)

    return inject


def _freeze_program(name: str) -> Inject:
    def inject(stage: Stage) -> None:
        stage.until_busy()
        with stage.frozen_program(name):
            time.sleep(AWAY)

    return inject


# --- agents and their pods


def _kill_agent(stage: Stage) -> None:
    stage.journal.until("holds", 1, item=VICTIM)
    stage.signal_agent(VICTIM, signal.SIGKILL)


def _freeze_agent(stage: Stage) -> None:
    stage.journal.until("holds", 1, item=VICTIM)
    stage.signal_agent(VICTIM, signal.SIGSTOP)
    stage.journal.open(VICTIM)
    time.sleep(AWAY)
    stage.signal_agent(VICTIM, signal.SIGCONT)


def _delete_pending(stage: Stage) -> None:
    pod = stage.pod_of(VICTIM)
    (found,) = stage.perdure.items("pods", "-n", stage.namespace, f"--field-selector=metadata.name={pod}")
    assert found["status"]["phase"] == "Pending"
    stage.delete_at_once(pod)


def _delete_running(stage: Stage) -> None:
    stage.journal.until("holds", 1, item=VICTIM)
    stage.delete_at_once(stage.pod_of(VICTIM))


def _outlive_deletion(stage: Stage) -> None:
    """The kubelet is frozen, so the agent works on when its pod is gone, next to its replacement."""
    stage.journal.until("holds", 1, item=VICTIM)
    first = stage.pod_of(VICTIM)
    with stage.frozen_program("kubelet"):
        stage.delete_at_once(first)
        until(lambda: stage.pod_of(VICTIM) != first, seconds=DEADLINE, what="a replacement of " + first)
        done = len(stage.journal.lines("done"))
        stage.journal.open(VICTIM)
        wrote = stage.journal.until("ran", 3, item=VICTIM)[-1]
        assert wrote["attempt"] == 1
        time.sleep(2)  # in which its checkpoint is refused with 409
        late = [line for line in stage.journal.lines("done")[done:] if line["item"] == VICTIM]
        assert late == [], "a superseded attempt saved a checkpoint"


def _drain(stage: Stage) -> None:
    stage.journal.until("holds", 1, item=VICTIM)
    stage.drain()


_HOLD = "checkpoint 1"

#: The ones with two operators come last: it takes an upgrade of the release to get there.
FAULTS = (
    Fault("operator-killed", _kill("operator"), representative=True),
    Fault("operator-frozen", _freeze("operator")),
    Fault("gateway-killed", _kill("gateway"), representative=True),
    Fault("gateway-frozen", _freeze("gateway")),
    Fault("postgres-killed", _kill("postgres"), representative=True),
    Fault("postgres-frozen", _freeze("postgres"), representative=True),
    Fault("nats-killed", _kill("nats")),
    Fault("nats-frozen", _freeze("nats")),
    Fault("kubelet-killed", _kill_program("kubelet"), STARTS, representative=True),
    Fault("kubelet-frozen", _freeze_program("kubelet"), STARTS),
    Fault("apiserver-killed", _kill_program("kube-apiserver"), representative=True),
    Fault("apiserver-frozen", _freeze_program("kube-apiserver")),
    Fault("etcd-killed", _kill_program("etcd")),
    Fault("etcd-frozen", _freeze_program("etcd")),
    Fault("containerd-killed", _kill_program("containerd"), STARTS),
    Fault("pod-deleted-while-pending", _delete_pending, ONE_DISRUPTION, cordoned=True),
    Fault("agent-killed-at-start", _kill_agent, ONE_RETRY, hold="start"),
    Fault("agent-killed-after-checkpoint", _kill_agent, ONE_RETRY, hold=_HOLD, representative=True),
    Fault("agent-killed-after-result", _kill_agent, hold="result"),
    Fault("agent-frozen", _freeze_agent, hold=_HOLD),
    Fault("pod-force-deleted", _delete_running, ONE_DISRUPTION, hold=_HOLD),
    Fault("agent-outlives-its-pod", _outlive_deletion, ONE_DISRUPTION, hold=_HOLD, representative=True),
    Fault("node-drained", _drain, DISRUPTIONS, hold=_HOLD, representative=True),
    Fault("leader-killed", _kill_leader, replicas=2),
    Fault("leader-frozen", _freeze_leader, replicas=2),
)


def chosen() -> list[Fault]:
    """All of them (FAULTS=all), those that FAULTS names, or those that CI has time for."""
    names = os.environ.get("FAULTS", "")
    if names == "all":
        return list(FAULTS)
    if names:
        return [fault for fault in FAULTS if fault.name in names.split(",")]
    return [fault for fault in FAULTS if fault.representative]
