"""WorkflowSchedules as people apply and edit them."""

from __future__ import annotations

from typing import Any

from perdure.api import API_VERSION
from tests.fakes.apiserver import NAMESPACE, ApiServer

KIND = "WorkflowSchedule"
#: Every minute.
MINUTELY = "* * * * *"


def schedule(name: str, run: dict[str, Any], *, every: str = MINUTELY, **fields: Any) -> dict[str, Any]:
    """A WorkflowSchedule that creates runs with this spec."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {"schedule": every, "workflow": {"spec": run}, **fields},
    }


def edit(api: ApiServer, name: str, **fields: Any) -> None:
    """What `kubectl edit` does to the spec of a schedule."""
    api.patch(KIND, NAMESPACE, name, {"spec": fields})
