"""Operator and gateway as processes, which a test may kill, and a kubelet that a test scripts."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from hack.cluster.light import free_ports

from perdure.kube.client import KubeClient
from perdure.kube.errors import ApiError


class PerdureProcess:
    """`perdure ROLE` as a process, whose environment has the variables of the test only."""

    def __init__(self, role: str, *, log: Path, environment: Mapping[str, str], health: str) -> None:
        """`health`: the URL without path that answers `/readyz`."""
        self._role = role
        self._log = log
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
            **environment,
        }
        self._health = health
        self._process: asyncio.subprocess.Process | None = None

    def set(self, name: str, value: str) -> None:
        """Set a variable of the environment of later starts."""
        self._environment[name] = value

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                "from perdure.cli.main import app; app()",
                self._role,
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def ready(self, *, within: float = 60.0) -> None:
        """Wait until it says that it is ready."""
        async with asyncio.timeout(within), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(f"{self._health}/readyz") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    def freeze(self) -> None:
        """SIGSTOP: it keeps its connections, and does nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        """kill -9."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM. Returns the exit code."""
        return await self._end(signal.SIGTERM)

    async def died(self, *, within: float = 60.0) -> int:
        """Wait until it ends by itself. Returns the exit code."""
        assert self._process is not None
        async with asyncio.timeout(within):
            return await self._process.wait()

    async def _end(self, sign: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        if process.returncode is None:
            process.send_signal(sign)
        async with asyncio.timeout(40):
            return await process.wait()

    def log(self) -> str:
        return self._log.read_text(errors="replace")


class OperatorProcess(PerdureProcess):
    """An operator that watches one namespace only, so that tests do not disturb each other."""

    def __init__(
        self,
        *,
        kubeconfig: str,
        database_url: str,
        nats_url: str,
        namespace: str,
        directory: Path,
        identity: str = "operator",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """`settings`: by name, without prefix; they override the settings that suit most tests."""
        self.identity = identity
        (port,) = free_ports(1)
        environment = {
            "PERDURE_KUBECONFIG": kubeconfig,
            "PERDURE_DATABASE_URL": database_url,
            "PERDURE_NATS_URL": nats_url,
            "PERDURE_NAMESPACE": namespace,
            "PERDURE_STATE_DIR": str(directory),
            "PERDURE_IDENTITY": identity,
            "PERDURE_WATCH_NAMESPACES": namespace,
            "PERDURE_HEALTH_HOST": "127.0.0.1",
            "PERDURE_HEALTH_PORT": str(port),
            "PERDURE_LEASE_DURATION": "2",
            "PERDURE_LEASE_RENEW_DEADLINE": "1.5",
            "PERDURE_LEASE_RETRY": "0.3",
            "PERDURE_STATUS_INTERVAL": "0.2",
            **{f"PERDURE_{name}": value for name, value in (settings or {}).items()},
        }
        super().__init__(
            "operator",
            log=directory / f"{identity}.log",
            environment=environment,
            health=f"http://127.0.0.1:{port}",
        )


class GatewayProcess(PerdureProcess):
    """The gateway, at the same address over restarts."""

    def __init__(self, *, kubeconfig: str, database_url: str, nats_url: str, directory: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        environment = {
            "PERDURE_KUBECONFIG": kubeconfig,
            "PERDURE_DATABASE_URL": database_url,
            "PERDURE_NATS_URL": nats_url,
            "PERDURE_GATEWAY_HOST": "127.0.0.1",
            "PERDURE_GATEWAY_PORT": str(port),
        }
        super().__init__("gateway", log=directory / "gateway.log", environment=environment, health=self.url)


#: The behaviour of an agent's container: exit code and termination message of a pod, None while it runs.
Script = Callable[[dict[str, Any]], tuple[int, str] | None]


class Kubelet:
    """Takes pods through their phases by writing their statuses, as a node would."""

    def __init__(self, kube: KubeClient, namespace: str, script: Script) -> None:
        self._kube = kube
        self._namespace = namespace
        self.script = script
        #: Pods stay Pending, as on a node that cannot start them.
        self.away = False
        #: Uids of the observed pods, by name: two uids of one name are a pod that was created twice.
        self.uids: dict[str, set[str]] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pods, _ = await self._kube.list("Pod", namespace=self._namespace)
            for pod in pods:
                metadata = pod["metadata"]
                self.uids.setdefault(metadata["name"], set()).add(metadata["uid"])
                try:
                    await self._advance(pod)
                except ApiError as error:
                    if not error.not_found and not error.conflict:
                        raise
            await asyncio.sleep(0.03)

    async def _advance(self, pod: dict[str, Any]) -> None:
        phase = pod["status"].get("phase", "Pending")
        started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        if self.away:
            return
        if phase == "Pending":
            await self._set(pod, "Running", {"running": {"startedAt": started}})
        elif phase == "Running" and (end := self.script(pod)) is not None:
            code, message = end
            ended = {
                "exitCode": code,
                "message": message,
                "reason": "Error" if code else "Completed",
                "startedAt": started,
                "finishedAt": started,
            }
            await self._set(pod, "Failed" if code else "Succeeded", {"terminated": ended})

    async def _set(self, pod: dict[str, Any], phase: str, state: dict[str, Any]) -> None:
        container = {
            "name": "agent",
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": state,
        }
        status = {"phase": phase, "containerStatuses": [container]}
        await self._kube.patch_status("Pod", self._namespace, pod["metadata"]["name"], {"status": status})
