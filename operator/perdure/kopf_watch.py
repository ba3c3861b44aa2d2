"""Watches of our own kinds, by kopf; the only module that imports kopf.

Only `on.event` handlers are registered. They write nothing to the cluster, so every replica may run them and
keep a warm store. kopf's own state is switched off (`_NoDiffBase`, `_NoProgress`): without change handlers
nothing reads that state, and keeping it costs more than all the rest. Pods and AgentTasks, which runs create
by the thousand, are followed without kopf (`kube/reflector.py`).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from perdure.api import GROUP, VERSION
from perdure.api.custom_resources import KINDS
from perdure.import_guards import absent

# kopf imports kubernetes_asyncio, where installed, only to recognise its objects, which never reach kopf
# here. The import would cost 850 modules, a second of CPU and 70 MB.
with absent("kubernetes_asyncio"):
    import kopf

#: Called with the kind, the object, and whether the object was deleted.
EventHandler = Callable[[str, Mapping[str, Any], bool], None]
#: Called when a watch has listed instead of resuming, so that deletions may have been missed.
GapHandler = Callable[[], None]

_PLURALS = {kind.kind: kind.plural for kind in KINDS}


class _NoDiffBase(kopf.DiffBaseStorage):
    """Storage without last-handled state: safe only because no change handlers exist."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: kopf.Body) -> Any:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Storage without handler progress: `on.event` handlers have none."""

    def fetch(self, *, key: Any, body: kopf.Body) -> Any:
        return None

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        pass

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:
        pass

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: Any) -> None:
        pass

    def clear(self, *, essence: Any) -> Any:
        return essence


def operator_settings() -> kopf.OperatorSettings:
    """Settings of kopf, each with its reason; the defaults suit operators that let kopf write."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.consistency_timeout = 0
    # By default idle per-object tasks stay for five seconds, and delay the events of busy objects.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.error_delays = (0.1, 0.5, 1, 2, 5, 10)
    # One unchunked list of ten thousand Workflows takes hundreds of megabytes.
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 600
    settings.watching.inactivity_timeout = 70
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    # After two and a half minutes of 5xx answers kopf gives up, and the operator is restarted.
    settings.networking.error_backoffs = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 30, 30, 30)
    # The CRDs are installed with the operator; scanning would need the right to watch all CRDs.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = 25
    return settings


async def listen(
    on_event: EventHandler,
    *,
    on_gap: GapHandler,
    kinds: Sequence[str],
    namespaces: Sequence[str],
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Watch until `stop` is set. Raises what kopf fails with before that.

    `on_event` is called for every event of these `kinds`, and must not block. `ready` is set when the watches
    are being started.
    """
    registry = kopf.OperatorRegistry()
    for kind in kinds:
        plural = _PLURALS[kind]
        register = kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"watch-{plural}")
        register(_handler(kind, on_event, on_gap))
    kopf.on.login(registry=registry, id="login")(_login)
    # kopf logs every event of every object at INFO.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    stop_flag = asyncio.Event()

    async def pass_on_stop() -> None:
        await stop.wait()
        stop_flag.set()

    passing = asyncio.create_task(pass_on_stop())
    try:
        await kopf.operator(
            registry=registry,
            settings=operator_settings(),
            clusterwide=not namespaces,
            namespaces=list(namespaces),
            standalone=True,
            # Without an identity kopf asks for the name of the user, which containers often lack.
            identity="perdure",  # type: ignore[arg-type]
            stop_flag=stop_flag,
            ready_flag=ready,
        )
    finally:
        passing.cancel()


async def _login(**facts: Any) -> kopf.ConnectionInfo | None:
    """The kubeconfig if $KUBECONFIG names one, else the pod's ServiceAccount."""
    if os.environ.get("KUBECONFIG"):
        return kopf.login_with_kubeconfig(**facts)
    return kopf.login_with_service_account(**facts) or kopf.login_with_kubeconfig(**facts)


def _handler(kind: str, on_event: EventHandler, on_gap: GapHandler) -> Callable[..., Awaitable[None]]:
    # A coroutine function, because kopf runs plain functions in threads.
    async def handle(event: Mapping[str, Any], **_: Any) -> None:
        # An event without a type comes from a list: at the start, or after a watch has broken off.
        if event["type"] is None:
            on_gap()
        on_event(kind, event["object"], event["type"] == "DELETED")

    return handle
