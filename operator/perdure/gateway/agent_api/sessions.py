"""The way from a pod to the attempt that the pod may write for."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from typing import TypeAlias

from perdure.domain.records import Superseded
from perdure.gateway.agent_api.ports import AgentLedger
from perdure.gateway.agent_api.problems import AgentProblem
from perdure.gateway.http.problems import Problem
from perdure.kube.tokens import AgentIdentity
from perdure.ledger.types import AgentSession

#: Namespace and uid of a pod.
_Key: TypeAlias = tuple[str, str]


class Sessions:
    """Attempts by their pods, with an LRU cache for the pods that write often."""

    def __init__(self, ledger: AgentLedger, *, cached: int) -> None:
        """`cached` is the size of the cache."""
        self._ledger = ledger
        self._cached = cached
        self._sessions: OrderedDict[_Key, AgentSession] = OrderedDict()

    async def for_writing(self, identity: AgentIdentity) -> AgentSession:
        """The caller's attempt, possibly from the cache, possibly closed: the ledger fences the write itself.

        Raises Problem(attempt-not-ready).
        """
        key = (identity.namespace, identity.pod_uid)
        known = self._sessions.get(key)
        if known is not None:
            self._sessions.move_to_end(key)
            return known
        session = await self._find(identity)
        if session.open:
            # Without the fields that may be large and that no write needs.
            self._sessions[key] = replace(session, input=None, last_failure=None)
            if len(self._sessions) > self._cached:
                self._sessions.popitem(last=False)
        return session

    async def for_reading(self, identity: AgentIdentity) -> AgentSession:
        """The caller's attempt as the ledger has it now.

        Raises Superseded if the attempt is closed, Problem(attempt-not-ready).
        """
        session = await self._find(identity)
        if not session.open:
            raise Superseded(session.task_name)
        return session

    def forget(self, identity: AgentIdentity) -> None:
        """Drop the pod from the cache. A write for a closed attempt would otherwise keep the entry alive."""
        self._sessions.pop((identity.namespace, identity.pod_uid), None)

    async def _find(self, identity: AgentIdentity) -> AgentSession:
        session = await self._ledger.attempt_for_pod(identity.namespace, identity.pod_uid)
        if session is None:
            # The operator records a pod's uid just after the creation of the pod. A fast pod calls before
            # that, and must retry instead of failing.
            raise Problem(
                AgentProblem.ATTEMPT_NOT_READY,
                f"pod {identity.pod_name}: no attempt of a task is recorded for it (yet); try again",
            )
        return session
