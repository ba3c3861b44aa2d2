"""From a bearer token to the attempt that may write.

The pod's uid is the whole credential: the kubelet puts a token that is bound to it into the pod, the operator
records it with the attempt, and the ledger fences by the attempt. No secret per task exists.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from perdure.domain.records import Superseded
from perdure.gateway.ports import AgentLedger, Verifier
from perdure.gateway.problems import Problem, ProblemType
from perdure.kube.tokens import AgentIdentity, InvalidToken, KeysUnavailable
from perdure.ledger.types import AgentSession

_Key = tuple[str, str]


class Sessions:
    """Finds attempts, and remembers those of pods that write often."""

    def __init__(
        self, ledger: AgentLedger, verifier: Verifier, *, clock: Callable[[], datetime], remembered: int
    ) -> None:
        self._ledger = ledger
        self._verifier = verifier
        self._clock = clock
        self._remembered = remembered
        self._sessions: OrderedDict[_Key, AgentSession] = OrderedDict()

    async def identify(self, authorization: bytes | None) -> AgentIdentity:
        """Whose request this is. Raises Problem (unauthenticated, keys-unavailable)."""
        scheme, _, token = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise Problem(
                ProblemType.UNAUTHENTICATED,
                "Authorization: send `Bearer` and the token in the file that PERDURE_TOKEN_FILE names",
            )
        try:
            return await self._verifier.verify(token.strip().decode("latin-1"), now=self._clock())
        except InvalidToken as error:
            raise Problem(
                ProblemType.UNAUTHENTICATED,
                f"Authorization: {error}; read the file that PERDURE_TOKEN_FILE names again at each use",
            ) from None
        except KeysUnavailable:
            raise Problem(
                ProblemType.KEYS_UNAVAILABLE,
                "Authorization: the cluster's keys cannot be fetched; send it again",
            ) from None

    async def for_writing(self, identity: AgentIdentity) -> AgentSession:
        """The caller's attempt, possibly remembered, possibly closed: the write itself is fenced.

        Raises Problem(attempt-not-ready).
        """
        key = (identity.namespace, identity.pod_uid)
        known = self._sessions.get(key)
        if known is not None:
            self._sessions.move_to_end(key)
            return known
        session = await self._find(identity)
        if session.open:
            # Without what may be large and no write needs.
            self._sessions[key] = replace(session, input=None, last_failure=None)
            if len(self._sessions) > self._remembered:
                self._sessions.popitem(last=False)
        return session

    async def for_reading(self, identity: AgentIdentity) -> AgentSession:
        """The caller's attempt as it is now. Raises Superseded if closed, Problem(attempt-not-ready)."""
        session = await self._find(identity)
        if not session.open:
            raise Superseded(session.task_name)
        return session

    def forget(self, identity: AgentIdentity) -> None:
        """The attempt was found closed: do not keep it."""
        self._sessions.pop((identity.namespace, identity.pod_uid), None)

    async def _find(self, identity: AgentIdentity) -> AgentSession:
        session = await self._ledger.attempt_for_pod(identity.namespace, identity.pod_uid)
        if session is None:
            # The operator notes a pod's uid just after creating the pod; the pod may be faster.
            raise Problem(
                ProblemType.ATTEMPT_NOT_READY,
                f"pod {identity.pod_name}: no attempt of a task is recorded for it (yet); try again",
            )
        return session
