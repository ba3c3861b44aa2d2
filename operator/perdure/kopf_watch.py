"""The ears: kopf watches, we listen.

Only `on.event` handlers, which write nothing to the cluster, so that every replica may run them and keep a
warm store. kopf's own state keeping is switched off: with no change handlers nothing reads it, and it costs
more than all the rest (`_NoDiffBase`, `_NoProgress`). The only module that imports kopf. What runs make by
the thousand, pods and AgentTasks, is followed without it (`kube/reflector.py`).
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

# kopf imports the client, if it is there, only to recognise its objects, which we never hand to it: 850
# modules, a second of CPU and 70 MB.
with absent("kubernetes_asyncio"):
    import kopf

#: Called with the kind, the object, and whether it was deleted.
Listener = Callable[[str, Mapping[str, Any], bool], None]
#: Called when a watch had to start anew, so that deletions may have been missed.
GapListener = Callable[[], None]

_PLURALS = {kind.kind: kind.plural for kind in KINDS}


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no last-handled state: safe only because there are no change handlers."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> Any:
        return {}

    def fetch(self, *, body: kopf.Body) -> Any:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: Any) -> None:
        pass


class _NoProgress(kopf.ProgressStorage):
    """Keeps no handler progress: `on.event` handlers have none."""

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
    """Settings whose reasons are in the comments; the defaults suit operators that let kopf write."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.consistency_timeout = 0
    # Idle per-object tasks pile up for five seconds by default, which delays the events of the busy ones.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.error_delays = (0.1, 0.5, 1, 2, 5, 10)
    # One unchunked list of ten thousand Workflows takes hundreds of megabytes.
    settings.watching.chunk_size = 500
    settings.watching.server_timeout = 600
    settings.watching.inactivity_timeout = 70
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    # Two and a half minutes of an API server that answers 5xx before kopf gives up and we restart.
    settings.networking.error_backoffs = (0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 30, 30, 30)
    # The CRDs are installed with us; scanning would need the right to watch all of them.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.process.ultimate_exiting_timeout = 25
    return settings


async def listen(
    heard: Listener,
    *,
    gap: GapListener,
    kinds: Sequence[str],
    namespaces: Sequence[str],
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Watch until `stop` is set. Raises what ended kopf, if it was not `stop`.

    `heard` is called for every event of our own `kinds`, and must not block. `ready` is set when the watches
    are being started.
    """
    registry = kopf.OperatorRegistry()
    for kind in kinds:
        plural = _PLURALS[kind]
        hear = kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"hear-{plural}")
        hear(_handler(kind, heard, gap))
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
            # Left out, kopf asks for the user's name, and the user of a container often has none.
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


def _handler(kind: str, heard: Listener, gap: GapListener) -> Callable[..., Awaitable[None]]:
    # A coroutine, because kopf runs plain functions in threads.
    async def handle(event: Mapping[str, Any], **_: Any) -> None:
        # Without a type the object comes from a list: at the start, or after a watch broke off.
        if event["type"] is None:
            gap()
        heard(kind, event["object"], event["type"] == "DELETED")

    return handle
