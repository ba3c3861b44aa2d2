"""The client of the API server that only the holder of the Lease can write through.

The ledger refuses a deposed leader by its epoch. The API server knows no epochs, so the leader checks its own
Lease before every write: a process that was suspended and resumed refuses to write once another process may
hold the Lease. A write that is already in flight does no harm: names are deterministic, and deletions carry a
uid.
"""

from __future__ import annotations

import builtins
from collections.abc import AsyncGenerator, Callable
from typing import Any

from perdure.control.ports import KubePort
from perdure.domain.records import Deposed
from perdure.kube.page import Page


class FencedKube:
    """A `KubePort` that always reads, and raises Deposed instead of writing while `lease_held` is false."""

    def __init__(self, kube: KubePort, lease_held: Callable[[], bool]) -> None:
        self._kube = kube
        self._lease_held = lease_held

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        return await self._kube.get(kind, namespace, name)

    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return await self._kube.find(kind, namespace, name)

    async def list(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        return await self._kube.list(kind, namespace=namespace, label_selector=label_selector)

    async def warnings(self, namespace: str, uid: str) -> builtins.list[dict[str, Any]]:
        return await self._kube.warnings(namespace, uid)

    def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        return self._kube.pages(kind, namespace=namespace, label_selector=label_selector)

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        self._check()
        return await self._kube.create(kind, namespace, body, brief=brief)

    async def replace(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._check()
        return await self._kube.replace(kind, namespace, name, body)

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self._check()
        return await self._kube.patch(kind, namespace, name, body)

    async def patch_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        body: dict[str, Any] | builtins.list[dict[str, Any]],
        *,
        brief: bool = False,
    ) -> dict[str, Any]:
        self._check()
        return await self._kube.patch_status(kind, namespace, name, body, brief=brief)

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        self._check()
        await self._kube.delete(kind, namespace, name, uid=uid, grace_seconds=grace_seconds)

    def _check(self) -> None:
        if not self._lease_held():
            raise Deposed("lease not held: refusing to write")
