"""A tenant: a namespace, and an account in it that has the cluster's role `edit` there and nothing else."""

from __future__ import annotations

import base64
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.cluster.installation import Installation

Object = dict[str, Any]
_PLURALS = {
    "Workflow": "workflows",
    "AgentTask": "agenttasks",
    "AgentTemplate": "agenttemplates",
    "WorkflowTemplate": "workflowtemplates",
    "WorkflowSchedule": "workflowschedules",
}
_MERGE = {"Content-Type": "application/merge-patch+json"}
#: Seconds for one request: a large object on a busy machine.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Tenant:
    """One tenant, as their programs see the API server."""

    namespace: str
    server: str
    token: str
    authority: str

    @staticmethod
    def of(perdure: Installation, prefix: str) -> Tenant:
        """A fresh namespace with its account."""
        namespace = perdure.make_namespace(prefix)
        perdure.ok("create", "serviceaccount", "tenant", "-n", namespace)
        binding = (
            "create",
            "rolebinding",
            "tenant",
            "--clusterrole=edit",
            f"--serviceaccount={namespace}:tenant",
        )
        perdure.ok(*binding, "-n", namespace)
        token = perdure.ok("create", "token", "tenant", "-n", namespace, "--duration=2h").strip()
        assert perdure.target.kubeconfig is not None
        cluster = yaml.safe_load(Path(perdure.target.kubeconfig).read_text())["clusters"][0]["cluster"]
        data = cluster.get("certificate-authority-data")
        authority = (
            base64.b64decode(data).decode() if data else Path(cluster["certificate-authority"]).read_text()
        )
        return Tenant(namespace, cluster["server"], token, authority)

    def session(self) -> aiohttp.ClientSession:
        """A client with the tenant's token."""
        return aiohttp.ClientSession(
            self.server,
            headers={"Authorization": f"Bearer {self.token}"},
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=self.authority)),
            timeout=aiohttp.ClientTimeout(total=_PATIENCE),
        )

    def path(self, kind: str, name: str = "") -> str:
        """The path of a kind of ours, or of one object of it."""
        return f"/apis/perdure.dev/v1alpha1/namespaces/{self.namespace}/{_PLURALS[kind]}" + (
            f"/{name}" if name else ""
        )

    async def create(self, client: aiohttp.ClientSession, manifest: Object) -> tuple[int, str]:
        """Create an object. Returns status code and text of the answer."""
        data = json.dumps(manifest)
        headers = {"Content-Type": "application/json"}
        async with client.post(self.path(manifest["kind"]), data=data, headers=headers) as answer:
            return answer.status, await answer.text()

    async def patch(self, client: aiohttp.ClientSession, path: str, patch: Object) -> int:
        """Patch an object by a merge patch. Returns the status code."""
        async with client.patch(path, data=json.dumps(patch), headers=_MERGE) as answer:
            await answer.read()
            return answer.status

    async def delete(self, client: aiohttp.ClientSession, path: str) -> int:
        """Delete an object. Returns the status code."""
        async with client.delete(path) as answer:
            await answer.read()
            return answer.status

    async def get(self, client: aiohttp.ClientSession, path: str) -> Object | None:
        """Read an object; None if there is none."""
        async with client.get(path) as answer:
            if answer.status == 404:
                return None
            answer.raise_for_status()
            found: Object = await answer.json()
            return found

    async def list(self, client: aiohttp.ClientSession, path: str, *, page: int = 20) -> list[Object]:
        """Read all objects of a list, in small pages since each object may be large."""
        found: list[Object] = []
        following = ""
        while True:
            params = {"limit": str(page), **({"continue": following} if following else {})}
            async with client.get(path, params=params) as answer:
                answer.raise_for_status()
                data = await answer.json()
            found += data["items"]
            following = data["metadata"].get("continue", "")
            if not following:
                return found
