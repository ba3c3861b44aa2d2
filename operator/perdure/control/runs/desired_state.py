"""The desired state of a child Workflow, inherited from its ancestors: pause and cancel flow down.

Nothing is sent to a child: its desired state is computed at every pass from the objects above it as they are.
So nothing has to be undone when a parent goes on, and nothing is lost in a crash.
"""

from __future__ import annotations

from collections.abc import Mapping

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.run_objects import Root
from perdure.control.live_run import LiveRun
from perdure.domain.records import WORKFLOW, DesiredState

_STRENGTH: dict[DesiredState, int] = {"Running": 0, "Paused": 1, "Cancelled": 2}
#: Generations followed; objects that name each other as owners must not keep us here.
_GENERATIONS = 32


def desired_state(
    root: Root, roots: Mapping[RunKey, Root], live_of: Mapping[RunKey, LiveRun]
) -> DesiredState:
    """What is wanted of a run: the strongest of its own wish and those of the Workflows above it.

    A child whose attempt is closed in its parent, or whose parent has ended, is not wanted any more.
    """
    wanted = root.desired_state
    child = root
    for _ in range(_GENERATIONS):
        if child.owner is None or child.owner.kind != WORKFLOW or wanted == "Cancelled":
            break
        parent = roots.get(child.owner)
        if parent is None or parent.uid != child.owner_uid:
            break  # its garbage is being collected, this child with it
        if parent.finished or _is_let_go(child, live_of.get(child.owner)):
            return "Cancelled"
        wanted = max(wanted, parent.desired_state, key=_STRENGTH.__getitem__)
        child = parent
    return wanted


def _is_let_go(child: Root, parent: LiveRun | None) -> bool:
    if parent is None or parent.uid != child.owner_uid:
        return False
    if parent.view.run.phase.terminal:
        return True
    key = parent.objects.pod_names.get(child.key.name)
    attempt = None if key is None else parent.view.attempts.get(key)
    if attempt is None:
        return False  # not one that the parent made
    return attempt.pod_name != child.key.name or attempt.closed_at is not None
