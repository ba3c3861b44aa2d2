"""Facts that agents report about their attempts, each write fenced by its own attempt."""

from __future__ import annotations

from datetime import datetime

from perdure.domain.records import Report
from perdure.ledger import rows
from perdure.ledger.base import Side, fence_arguments, superseded
from perdure.ledger.parameters import dumps, text
from perdure.ledger.queries import SQL
from perdure.ledger.types import AgentSession


class AgentReportSide(Side):
    """The gateway's methods for sessions, signs of life and results. None changes a phase."""

    async def attempt_for_pod(self, namespace: str, pod_uid: str) -> AgentSession | None:
        """The attempt of this pod; None if the ledger does not know the pod, or not yet."""
        row = await self.database.fetchrow(SQL["attempt_for_pod"], namespace, text(pod_uid))
        return None if row is None else rows.session(row)

    async def progress(
        self, session: AgentSession, percent: float | None, message: str | None, now: datetime
    ) -> None:
        """Record progress, with an event for each call. None leaves the value of an earlier call.

        Raises Superseded.
        """
        data = dumps({"percent": percent, "message": message})
        message = None if message is None else text(message)
        arguments = (*fence_arguments(session), now, percent, message, data)
        row = await self.submit_fenced(session, "progress", arguments)
        if not row["written"]:
            raise superseded(session)
        self.outbox_written.set()

    async def heartbeat(self, session: AgentSession, now: datetime) -> None:
        """Record a sign of life, without an event and without a wake. Raises Superseded."""
        row = await self.submit_fenced(session, "heartbeat", (*fence_arguments(session), now))
        if not row["written"]:
            raise superseded(session)

    async def report(self, session: AgentSession, report: Report) -> None:
        """Record how the agent says that the attempt ended. The first report of an attempt stands.

        A repeated report, changed or not, is acknowledged as the first was, even after the attempt was
        closed: agents retry when an answer is lost. Raises Superseded if the attempt was closed without one.
        """
        arguments = (*fence_arguments(session), *rows.report_arguments(report))
        row = await self.submit_fenced(session, "report", arguments)
        if not row["written"]:
            raise superseded(session)
