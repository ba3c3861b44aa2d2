"""Problems of the agents' routes, and the exceptions that cause them."""

from __future__ import annotations

from typing import Final

import structlog

from perdure.domain.records import Superseded
from perdure.gateway.http.log_limiter import LogLimiter
from perdure.gateway.http.problems import ErrorTable, Problem, ProblemType
from perdure.ledger.types import CorruptCheckpoint, Overtaken, WrongChecksum

#: An agent may ask for a damaged checkpoint in a loop.
_log = LogLimiter(structlog.get_logger(__name__))


class AgentProblem(ProblemType):
    """Problems that only the agents' routes have."""

    #: No token, or one that proves nothing.
    UNAUTHENTICATED = ("unauthenticated", 401, "The token is missing or not valid")
    #: The token is sound and has expired: the kubelet has not renewed the file yet. Wait, and read it again.
    TOKEN_EXPIRED = ("token-expired", 401, "The token has expired")
    #: The cluster's keys cannot be fetched, so tokens cannot be checked.
    KEYS_UNAVAILABLE = ("keys-unavailable", 503, "Tokens cannot be checked now", True)
    #: The pod is not known, most often because it has only just been created.
    ATTEMPT_NOT_READY = ("attempt-not-ready", 503, "This pod is not known yet", True)
    #: The attempt is closed, or a newer one exists.
    SUPERSEDED = ("superseded", 409, "This attempt was superseded")
    #: The task has no such checkpoint.
    CHECKPOINT_NOT_FOUND = ("checkpoint-not-found", 404, "There is no such checkpoint")
    #: The same attempt has saved a newer checkpoint before. Repeating the call does not help.
    CHECKPOINT_OVERTAKEN = ("checkpoint-overtaken", 409, "A newer checkpoint is there already")
    #: The body does not have the checksum in `Perdure-Sha256`: damaged or cut off on its way.
    CHECKSUM_MISMATCH = ("checksum-mismatch", 422, "The body does not match its checksum")
    #: A stored checkpoint does not match its checksum. Repeating the call does not help.
    CHECKPOINT_CORRUPT = ("checkpoint-corrupt", 500, "The checkpoint is damaged")


def _superseded(_: Superseded) -> Problem:
    return Problem(
        AgentProblem.SUPERSEDED,
        "attempt: it is closed or a newer one has taken over; stop, and exit with code 76",
    )


def _overtaken(_: Overtaken) -> Problem:
    return Problem(
        AgentProblem.CHECKPOINT_OVERTAKEN,
        "Perdure-Order: this attempt has saved a newer checkpoint, or another one under this number; "
        "nothing was kept of this one; send what is newest under a higher number",
    )


def _wrong_checksum(error: WrongChecksum) -> Problem:
    return Problem(
        AgentProblem.CHECKSUM_MISMATCH,
        f"Perdure-Sha256: {error}; nothing was kept, and the checkpoint before is still the newest; "
        "send it again",
    )


def _corrupt(error: CorruptCheckpoint) -> Problem:
    # The only problem of this table that is logged: damaged storage concerns the operators of the cluster.
    _log.error("corrupt checkpoint", error=str(error))
    return Problem(
        AgentProblem.CHECKPOINT_CORRUPT,
        "checkpoint: its bytes do not match their checksum; ask for an older one by its sequence: "
        "GET /agent/v1/checkpoints lists them",
        members={"sequence": error.sequence},
    )


ERRORS: Final[ErrorTable] = {
    Superseded: _superseded,
    Overtaken: _overtaken,
    WrongChecksum: _wrong_checksum,
    CorruptCheckpoint: _corrupt,
}
