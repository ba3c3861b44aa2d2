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
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import structlog

from perdure.aio import wait_for_event
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

#: Seconds until watches that have ended are started again: from, doubled up to.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
#: Objects of one page of a list. People write these objects, of up to 1.5 MB each: a page of 500 would take
#: more memory than the container has, again at each start.
LIST_CHUNK = 50
#: Seconds that the tasks of kopf may take to end.
STOP_SECONDS = 5.0

_PLURALS = {kind.kind: kind.plural for kind in KINDS}

_log = structlog.get_logger(__name__)


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


class _Backoffs:
    """Seconds before each retry of a request of kopf: growing, and without end."""

    def __iter__(self) -> Iterator[float]:
        yield from (0.1, 0.25, 0.5, 1, 2, 4, 8, 15)
        while True:
            yield 30


def operator_settings() -> kopf.OperatorSettings:
    """Settings of kopf, each with its reason; the defaults suit operators that let kopf write."""
    settings = kopf.OperatorSettings()
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.persistence.consistency_timeout = 0
    # By default idle per-object tasks stay for five seconds, and delay the events of busy objects.
    settings.queueing.idle_timeout = 0.5
    settings.queueing.error_delays = (0.1, 0.5, 1, 2, 5, 10)
    settings.watching.chunk_size = LIST_CHUNK
    settings.watching.server_timeout = 600
    settings.watching.inactivity_timeout = 70
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    # Never exhausted: after its last backoff kopf would end all watches because of one that is refused.
    settings.networking.error_backoffs = _Backoffs()
    # The CRDs are installed with the operator; scanning would need the right to watch all CRDs.
    settings.scanning.disabled = True
    settings.posting.enabled = False
    # kopf would kill the process some time after it was stopped, and watches are started again in here.
    settings.process.ultimate_exiting_timeout = None
    return settings


async def listen(
    on_event: EventHandler,
    *,
    on_gap: GapHandler,
    kinds: Sequence[str],
    namespaces: Sequence[str],
    served: Callable[[Collection[str]], Awaitable[bool]],
    stop: asyncio.Event,
    on_start: Callable[[], None],
    ready: asyncio.Event,
) -> None:
    """Watch until `stop` is set. What ends the watches is logged, and they are started again with backoff.

    `on_event` is called for every event of these `kinds`, and must not block. `served` says whether the API
    server serves kinds, and may raise: kopf would never watch a kind that is not served when kopf starts.
    `on_start` is called after each start of kopf, which has then replaced the signal handlers by its own.
    `ready` is set when the watches are being started.
    """
    # kopf logs every event of every object at INFO.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    clock = asyncio.get_running_loop().time
    failures = 0
    while not stop.is_set():
        began = clock()
        try:
            if await served(kinds):
                await _watch(_registry(kinds, on_event, on_gap), namespaces, stop, on_start, ready)
            else:
                _log.error("the API server does not serve all kinds: are the CRDs installed?", kinds=kinds)
        except Exception as error:
            _log.warning("watches ended, and are started again", error=f"{type(error).__name__}: {error}")
        failures = 0 if clock() - began > LONGEST_PAUSE else failures + 1
        if not stop.is_set():
            await wait_for_event(stop, min(FIRST_PAUSE * 2.0 ** min(failures, 16), LONGEST_PAUSE))


def _registry(kinds: Sequence[str], on_event: EventHandler, on_gap: GapHandler) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()
    for kind in kinds:
        plural = _PLURALS[kind]
        register = kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"watch-{plural}")
        register(_handler(kind, on_event, on_gap))
    kopf.on.login(registry=registry, id="login")(_login)
    return registry


async def _watch(
    registry: kopf.OperatorRegistry,
    namespaces: Sequence[str],
    stop: asyncio.Event,
    on_start: Callable[[], None],
    ready: asyncio.Event,
) -> None:
    """One life of kopf, until `stop` is set. Raises what kopf fails with before that."""
    # `kopf.operator` would in the end cancel every task of this process that is younger than kopf.
    tasks = set(
        await kopf.spawn_tasks(
            registry=registry,
            settings=operator_settings(),
            clusterwide=not namespaces,
            namespaces=list(namespaces),
            standalone=True,
            # Without an identity kopf asks for the name of the user, which containers often lack.
            identity="perdure",  # type: ignore[arg-type]
            ready_flag=ready,
        )
    )
    # In the same turn of the loop: no signal can arrive in between.
    on_start()
    stopping = asyncio.create_task(_stopped(stop))
    try:
        ended, _ = await asyncio.wait((stopping, *tasks), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (stopping, *tasks):
            task.cancel()
        _, running = await asyncio.wait((stopping, *tasks), timeout=STOP_SECONDS)
        if running:
            _log.warning("watches did not stop in time", tasks=[task.get_name() for task in running])
    for task in ended - {stopping}:
        if not task.cancelled():
            task.result()


async def _stopped(stop: asyncio.Event) -> None:
    await stop.wait()


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
