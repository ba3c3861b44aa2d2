"""Sudden faults, and what users do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from perdure.kube.errors import ApiError
from tests.fakes.apiserver import NAMESPACE
from tests.fakes.network import Server
from tests.fakes.nodes import Pod
from tests.simulated.storm.world import StormWorld

#: Status codes and reasons of refusals that waiting heals.
HEALING = (
    (400, ""),
    (403, "Forbidden"),
    (404, ""),
    (409, ""),
    (413, ""),
    (422, "Invalid"),
    (429, "TooManyRequests"),
    (500, "InternalError"),
    (503, "ServiceUnavailable"),
)


class Chaos:
    """Injects the sudden faults of a seed's profile; several may last at the same time."""

    def __init__(self, world: StormWorld) -> None:
        self._world = world
        self._faults = world.faults
        self._actions: dict[str, Callable[[], None]] = {
            "kill operator": self._kill_operator,
            "freeze operator": self._freeze_operator,
            "second leader": self._second_leader,
            "api away": lambda: self._away(world.api),
            "api errors": lambda: self._burst("api"),
            "ledger away": lambda: self._away(world.ledger),
            "ledger errors": lambda: self._burst("ledger"),
            "gateway away": lambda: self._burst("gateway"),
            "kill gateway": lambda: self._soon(self._kill_gateway()),
            "freeze gateway": lambda: self._soon(self._freeze_gateway()),
            "api lags": lambda: self._soon(self._lag()),
            "watch gap": lambda: self._soon(self._watch_gap()),
            "freeze agent": lambda: self._soon(self._freeze_agent()),
            "kill agent": self._kill_agent,
            "delete pod": lambda: self._delete_pod(force=False),
            "force-delete pod": lambda: self._delete_pod(force=True),
            "evict pod": self._evict_pod,
            "lose node": world.nodes.lose_node,
            "quota": lambda: self._soon(self._quota()),
            "creates refused": lambda: self._soon(self._refuse_creates()),
            "pause": lambda: self._soon(self._pause()),
            "cancel": self._cancel,
            "delete run": lambda: self._soon(self._delete_run()),
        }

    async def run(self, seconds: float) -> None:
        """Inject faults for so many seconds."""
        end = asyncio.get_running_loop().time() + seconds
        while True:
            pause = self._faults.random.expovariate(1 / self._faults.pace)
            await asyncio.sleep(min(pause, 60.0))
            if asyncio.get_running_loop().time() >= end or self._world.guarantees.violation:
                return
            if not self._world.unfinished() and self._faults.chance(0.3):
                return  # all runs have ended
            name = self._faults.next_sudden()
            if name is not None:
                self._world.guarantees.counts[name] += 1
                self._world.guarantees.note(f"*** {name}")
                self._actions[name]()

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        self._world.nodes.start(work)

    # --- processes

    def _kill_operator(self) -> None:
        """Kill an operator between any two awaits; a new one starts after a while."""
        world = self._world
        operator = self._faults.choice(world.operators)

        def die() -> None:
            operator.kill()
            self._soon(world.restart(operator, self._faults.between(0.0, 10.0)))

        operator.process.on_fuse = die
        operator.process.fuse = int(self._faults.between(0.0, 1.0) ** 2 * 300)

    def _freeze_operator(self) -> None:
        operator = self._world.leader() if self._faults.chance(0.7) else None
        if operator is None:
            operator = self._faults.choice(self._world.operators)
        seconds = self._faults.choice([2.0, 18.0, 40.0]) * self._faults.between(0.5, 1.5)

        def freeze() -> None:
            if operator.process.running:
                operator.process.stop()
                loop = asyncio.get_running_loop()
                loop.call_later(seconds, self._thaw_operator, operator)

        operator.process.on_fuse = freeze
        operator.process.fuse = int(self._faults.between(0.0, 1.0) ** 2 * 300)

    def _thaw_operator(self, operator: Any) -> None:
        if operator in self._world.operators:
            operator.process.resume()

    def _second_leader(self) -> None:
        """A user starts one more operator."""
        if len(self._world.operators) < 3:
            self._world.start_operator()

    async def _kill_gateway(self) -> None:
        gateway = self._faults.choice(self._world.gateways)
        gateway.kill()
        await asyncio.sleep(self._faults.between(0.1, 20.0))
        gateway.restart()

    async def _freeze_gateway(self) -> None:
        gateway = self._faults.choice(self._world.gateways)
        process = gateway.process
        process.stop()
        await asyncio.sleep(self._faults.between(1.0, 30.0))
        if gateway.process is process:
            process.resume()

    # --- servers

    def _away(self, server: Server) -> None:
        async def away() -> None:
            if not server.away:
                server.leave(hanging=self._faults.chance(0.3))
                longest = self._faults.choice([5.0, 30.0, 180.0])
                await asyncio.sleep(self._faults.between(1.0, longest))
                server.come_back()
                if server is self._world.api:
                    await self._read_roles()

        self._soon(away())

    async def _read_roles(self) -> None:
        self._world.api.roles_unread = True
        await asyncio.sleep(self._faults.between(0.1, 6.0))
        self._world.api.roles_unread = False

    def _burst(self, name: str) -> None:
        async def burst() -> None:
            self._faults.error_bursts[name] += 1
            await asyncio.sleep(self._faults.between(2.0, 30.0))
            self._faults.error_bursts[name] -= 1

        self._soon(burst())

    async def _lag(self) -> None:
        self._world.api.lag()
        await asyncio.sleep(self._faults.between(2.0, 60.0))
        self._world.api.catch_up()

    async def _watch_gap(self) -> None:
        watch = self._faults.choice(self._world.operators).watch
        watch.broken = True
        await asyncio.sleep(self._faults.between(0.5, 60.0))
        watch.relist()

    async def _quota(self) -> None:
        self._world.api.quota_used_up = True
        await asyncio.sleep(self._faults.between(1.0, 30.0))
        self._world.api.quota_used_up = False

    async def _refuse_creates(self) -> None:
        """A policy, a webhook or the API server refuses what runs create, and heals."""
        status, reason = self._faults.choice(HEALING)
        self._world.api.refusal = ApiError(status, reason, "denied by a fault")
        await asyncio.sleep(self._faults.between(1.0, 30.0))
        self._world.api.refusal = None

    # --- pods

    def _some_pod(self) -> Pod | None:
        pods = self._world.nodes.running()
        return self._faults.choice(pods) if pods else None

    async def _freeze_agent(self) -> None:
        """SIGSTOP; the agent resumes long after its attempt may have been superseded."""
        pod = self._some_pod()
        if pod is None or pod.dead or not pod.agent.process.running:
            return
        pod.agent.process.stop()
        await asyncio.sleep(self._faults.between(2.0, 90.0))
        pod.thaw()

    def _kill_agent(self) -> None:
        pod = self._some_pod()
        if pod is not None and not pod.dead:
            pod.crash(self._faults.choice(["Error", "OOMKilled"]))

    def _delete_pod(self, *, force: bool) -> None:
        pod = self._some_pod()
        if pod is not None and not self._world.api.away:
            self._world.nodes.delete(pod, force=force)

    def _evict_pod(self) -> None:
        pod = self._some_pod()
        if pod is not None and not self._world.api.away and pod.node.reachable.is_set():
            self._world.nodes.evict(pod)

    # --- people

    async def _pause(self) -> None:
        world = self._world
        run = self._faults.choice(world.applied)
        await world.api.back.wait()
        if self._faults.quiesced:
            return
        world.api.desire(run.workload.kind, run.name, "Paused")
        await asyncio.sleep(self._faults.between(0.1, 60.0))
        await world.api.back.wait()
        # Some runs stay paused until the end of the faults.
        if self._faults.chance(0.7) and not self._faults.quiesced:
            world.api.desire(run.workload.kind, run.name, "Running")

    def _cancel(self) -> None:
        run = self._faults.choice(self._world.applied)
        if not self._world.api.away:
            for other in self._world.applied:
                other.disturbed |= other.name == run.name
            self._world.api.desire(run.workload.kind, run.name, "Cancelled")

    async def _delete_run(self) -> None:
        """A user deletes a run, and perhaps applies one of the same name."""
        world = self._world
        run = self._faults.choice(world.applied)
        await world.api.back.wait()
        if run.deleted or self._faults.quiesced:
            return
        run.disturbed = run.deleted = True
        world.api.remove(run.workload.kind, NAMESPACE, run.name)
        if self._faults.chance(0.7):
            await asyncio.sleep(self._faults.choice([0.0, 0.0, 1.0, 10.0]))
            await world.api.back.wait()
            if not self._faults.quiesced:
                world.apply_workload(run.name, run.workload)
