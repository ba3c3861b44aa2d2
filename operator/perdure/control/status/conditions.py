"""The conditions of an object, which `kubectl wait`, kstatus and other tools read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from perdure.api.status import timestamp
from perdure.domain.engine.outcome import shorten
from perdure.domain.engine.pod_waiting import Waiting
from perdure.domain.phases import Phase, Reason

#: Characters of a condition's message.
MAX_MESSAGE = 1024


def conditions(
    phase: Phase,
    reason: Reason | None,
    message: str,
    generation: int,
    *,
    waiting: Waiting | None,
    before: Mapping[str, Any],
    now: datetime,
    accepted: bool | None = True,
    stalled: bool = False,
) -> list[dict[str, Any]]:
    """Conditions in the sense of kstatus, and Complete or Failed at the end for `kubectl wait`.

    `waiting` is the cause for which the object waits, and is written to Reconciling alone. `accepted` is None
    while the acceptance is not known. `stalled`: nothing happens before people act. `before` is the previous
    status, which has the transition times.
    """
    word = reason.value if reason is not None else phase.value
    text = shorten(message, MAX_MESSAGE)
    values: dict[str, tuple[str, str, str]] = {}
    if accepted:
        values["Accepted"] = ("True", "Accepted", "")
    else:
        values["Accepted"] = ("Unknown" if accepted is None else "False", word, text)
    if phase is Phase.SUCCEEDED:
        values["Ready"] = ("True", word, text)
        values["Complete"] = ("True", word, text)
        values["Failed"] = ("False", word, "")
    elif phase.terminal:
        values["Ready"] = ("False", word, text)
        values["Complete"] = ("False", word, "")
        values["Failed"] = ("True", word, text)
        values["Stalled"] = ("True", word, text)
    else:
        values["Ready"] = ("False", phase.value, "")
        values["Reconciling"] = (
            "True",
            waiting[0].value if waiting else phase.value,
            shorten(waiting[1], MAX_MESSAGE) if waiting else text,
        )
    if stalled:
        values["Reconciling"] = ("False", word, "")
        values["Stalled"] = ("True", word, text)
    values.setdefault("Reconciling", ("False", word, ""))
    values.setdefault("Stalled", ("False", word, ""))
    old = {condition.get("type"): condition for condition in before.get("conditions") or ()}
    return [
        {
            "type": type,
            "status": status,
            "reason": reason_,
            "message": message_,
            "observedGeneration": generation,
            "lastTransitionTime": _since(old.get(type), status, now),
        }
        for type, (status, reason_, message_) in values.items()
    ]


def acknowledged(status: Mapping[str, Any], generation: int) -> dict[str, Any]:
    """A status that acknowledges a generation of its object, and says nothing else that is new."""
    return {
        **status,
        "observedGeneration": generation,
        "conditions": [{**item, "observedGeneration": generation} for item in status.get("conditions") or ()],
    }


def was_accepted(before: Mapping[str, Any]) -> bool | None:
    """True if the previous status has `Accepted=True`; else None, because the acceptance is not known."""
    for condition in before.get("conditions") or ():
        if condition.get("type") == "Accepted" and condition.get("status") == "True":
            return True
    return None


def _since(before: Mapping[str, Any] | None, status: str, now: datetime) -> str:
    if before is None or before.get("status") != status or not before.get("lastTransitionTime"):
        return timestamp(now)
    return str(before["lastTransitionTime"])
