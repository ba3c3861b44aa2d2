"""Thin client of the API server, with plain JSON as input and output.

Typed models cost twelve times the CPU of the request itself, and Perdure reads a handful of fields.
Deadlines, retries, paging and the renewal of credentials are here and nowhere else.
"""

from __future__ import annotations

import asyncio
import builtins
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from perdure import __version__
from perdure.kube.connection import Connection, ConnectionConfigError, load_connection
from perdure.kube.errors import ApiError
from perdure.kube.page import Page
from perdure.kube.resources import Resource, collection_path, kind_of, object_path
from perdure.kube.retries import backoff_after, error_of, retry_after_seconds

PAGE_SIZE = 500
#: Kinds with fields that people wrote: the API server must refuse an unknown field instead of dropping it.
_STRICT = frozenset({"Pod", "Job"})
TRIES = 4
#: Kinds that a run creates. A webhook may take 30 seconds to answer, and the API server gives up the webhook
#: when its client leaves, so a shorter deadline would never see the object created. The control loop shows
#: the refusal of such a create, and retries it: fewer retries here report it sooner.
_OF_RUNS = frozenset({"Pod", "Job", "Workflow", "AgentTask"})
CREATE_DEADLINE = 35.0
CREATE_TRIES = 2
#: Events about one object that are read at once. The API server keeps an hour's, and joins equal ones.
MAX_WARNINGS = 100

_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
#: Discovery documents of the token issuer have media types of their own.
_ANY_JSON = "application/json, */*"
#: Without the second media type, an API server that cannot produce the first would answer 406 to a write that
#: took effect.
_BRIEF_JSON = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"

#: Exceptions that mean "no answer".
_NO_ANSWER = (ConnectionConfigError, TimeoutError, aiohttp.ClientError, OSError, ssl.SSLError)

#: Milliseconds in which sent bytes must be acknowledged (TCP_USER_TIMEOUT). Without this limit a connection
#: to a dead machine holds its request until the deadline, and no time is left for a retry.
_UNACKNOWLEDGED_MS = 5_000


class KubeClient:
    """Client with the verbs of `control.ports.KubePort`, as an async context manager.

    A failed call raises ApiError. Status 0 stands for no answer: whether the call took effect is unknown. A
    caller with a shorter deadline wraps the call in `asyncio.timeout`. Connection errors, 429 and 5xx are
    retried until `deadline` seconds have passed or `TRIES` are used up, whatever comes first. A create whose
    answer was lost is retried too, and may end in 409 because of the first try: callers compare the existing
    object with the wanted one.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        limit: int = 64,
        connect_timeout: float = 5.0,
        deadline: float = 15.0,
    ) -> None:
        self._connect = connect
        self._limit = limit
        self._connect_timeout = connect_timeout
        self._deadline = deadline
        self._connection: Connection | None = None
        self._session: aiohttp.ClientSession | None = None
        #: Requests sent, by verb, kind and status (0: no answer). For metrics.
        self.requests: dict[tuple[str, str, int], int] = {}

    @classmethod
    def from_config(
        cls,
        kubeconfig: str | None = None,
        *,
        limit: int = 64,
        connect_timeout: float = 5.0,
        deadline: float = 15.0,
    ) -> Self:
        """A client for the cluster of a kubeconfig, or of the pod of this process (see `load_connection`).

        Entering the client raises `connection.ConnectionConfigError` without a usable configuration. `limit`
        bounds the connections, and so the requests, at once.
        """
        return cls(
            lambda: load_connection(kubeconfig),
            limit=limit,
            connect_timeout=connect_timeout,
            deadline=deadline,
        )

    async def __aenter__(self) -> Self:
        self._connection = await self._connect()
        connector = aiohttp.TCPConnector(
            limit=self._limit,
            ssl=self._connection.tls or True,
            keepalive_timeout=60,
            socket_factory=_socket,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The compression of a list costs the server more than the network gains, and the inflation of a
            # large list would need a thread here.
            headers={"User-Agent": f"perdure/{__version__}", "Accept-Encoding": "identity"},
            auto_decompress=False,
            read_bufsize=2**18,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- the verbs

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        """One object. Raises ApiError; for a missing object with `not_found`."""
        return await self._object("get", "GET", kind, namespace, name)

    async def find(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """One object; None if the API server says that there is none. Raises ApiError if it does not say."""
        try:
            return await self.get(kind, namespace, name)
        except ApiError as error:
            if error.not_found:
                return None
            raise

    async def list(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> tuple[list[dict[str, Any]], str]:
        """All objects, of all namespaces if `namespace` is None, and the list's resourceVersion."""
        items: list[dict[str, Any]] = []
        version = ""
        async for page in self.pages(kind, namespace=namespace, label_selector=label_selector):
            if page.first:
                items = []
            items += page.items
            version = page.version
        return items, version

    async def warnings(self, namespace: str, uid: str) -> builtins.list[dict[str, Any]]:
        """Events of type Warning about the object with this uid, at most `MAX_WARNINGS`. Raises ApiError."""
        selector = quote(f"regarding.uid={uid},type=Warning", safe="")
        path = f"{collection_path(kind_of('Event'), namespace)}?fieldSelector={selector}&limit={MAX_WARNINGS}"
        page = await self._call("list", "Event", "GET", path)
        found: builtins.list[dict[str, Any]] = page.get("items") or []
        return found

    async def pages(
        self, kind: str, *, namespace: str | None = None, label_selector: str | None = None
    ) -> AsyncGenerator[Page, None]:
        """The objects of `list`, a page at a time: ten thousand pods take hundreds of megabytes.

        The pages are parts of one consistent snapshot, read from etcd and not from a watch cache that lags
        behind. A further page that is `first` restarts the list: the pages before it are void.
        """
        of = kind_of(kind)
        path = collection_path(of, namespace)
        selector = "" if label_selector is None else "labelSelector=" + quote(label_selector, safe="")
        paging = f"limit={PAGE_SIZE}"
        token = ""
        first = True
        while True:
            query = "&".join(part for part in (selector, paging, token) if part)
            try:
                page = await self._call("list", kind, "GET", f"{path}?{query}" if query else path)
            except ApiError as error:
                if error.status != 410 or not token:
                    raise
                # The snapshot was compacted between two pages. The list restarts in one piece: a list that is
                # slower than the compaction interval would expire every time.
                token, paging, first = "", "", True
                continue
            metadata = page["metadata"]
            yield Page(list(_with_type(page.get("items") or (), of)), metadata["resourceVersion"], first)
            first = False
            if not metadata.get("continue"):
                return
            token = "continue=" + quote(metadata["continue"], safe="")

    async def create(
        self, kind: str, namespace: str, body: dict[str, Any], *, brief: bool = False
    ) -> dict[str, Any]:
        """The object as created. Raises ApiError; for an existing object of this name with `conflict`.

        `brief`: only the metadata, as a PartialObjectMetadata. The rest of the object is what was sent, and
        decoding the rest costs as much as encoding it did.
        """
        path = collection_path(kind_of(kind), namespace)
        if kind in _STRICT:
            path += "?fieldValidation=Strict"
        deadline, tries = (CREATE_DEADLINE, CREATE_TRIES) if kind in _OF_RUNS else (self._deadline, TRIES)
        created: dict[str, Any] = await self._call(
            "create", kind, "POST", path, body, brief=brief, within=deadline, tries=tries
        )
        return created

    async def replace(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """The object as replaced. Raises ApiError; for an old resourceVersion in `body` with `conflict`."""
        return await self._object("replace", "PUT", kind, namespace, name, body)

    async def patch(self, kind: str, namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """The object after a JSON merge patch: null removes a field, lists are replaced whole."""
        return await self._object("patch", "PATCH", kind, namespace, name, body)

    async def patch_status(
        self,
        kind: str,
        namespace: str,
        name: str,
        body: dict[str, Any] | builtins.list[dict[str, Any]],
        *,
        brief: bool = False,
    ) -> dict[str, Any]:
        """The object after a patch of its status subresource.

        `body` is a merge patch `{"status": {…}}`, or a JSON patch (RFC 6902) if a list. Only a JSON patch can
        write null. `brief`: see `create`.
        """
        path = object_path(kind_of(kind), namespace, name) + "/status"
        patched: dict[str, Any] = await self._call("patch_status", kind, "PATCH", path, body, brief=brief)
        return patched

    async def delete(
        self,
        kind: str,
        namespace: str,
        name: str,
        *,
        uid: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Delete in the background. A missing object, or an object of another uid, is no error."""
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
        }
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            await self._object("delete", "DELETE", kind, namespace, name, options)
        except ApiError as error:
            if error.not_found:
                return
            if uid is None or not error.conflict:
                raise
            # 409 has other causes than the uid of a newer object of the same name. Those must not count as a
            # deletion.
            if await self._still_there(kind, namespace, name, uid):
                raise

    async def raw_get(self, path: str) -> Any:
        """The JSON document at a path of the API server, such as `/version`."""
        return await self._call("raw", "", "GET", path)

    async def raw_post(self, path: str, body: dict[str, Any]) -> Any:
        """The answer to a JSON document posted to a path, such as a subresource without a verb here."""
        return await self._call("raw", "", "POST", path, body)

    @asynccontextmanager
    async def stream(self, path: str, *, silence: float) -> AsyncGenerator[AsyncIterator[bytes], None]:
        """The body of an endless answer, such as a watch, in pieces as they arrive.

        Raises ApiError, also inside the block: status 0 without an answer, for an answer that breaks off, and
        after `silence` seconds without a byte. Only a request whose token was refused is retried.
        """
        # The only deadline is the one between two pieces: a watch lasts for minutes.
        timeout = aiohttp.ClientTimeout(sock_connect=self._connect_timeout, sock_read=silence)
        refresh = False
        while True:
            try:
                async with await self._request("GET", path, timeout=timeout, refresh=refresh) as response:
                    if response.status == 401 and not refresh:
                        refresh = True
                        continue
                    if response.status != 200:
                        payload, _ = _decoded(await response.read())
                        raise error_of(response.status, payload, None)
                    yield response.content.iter_any()
                    return
            except _NO_ANSWER as error:
                raise ApiError(0, "NoAnswer", _no_answer("GET", path, error)) from error

    # --- underneath

    async def _still_there(self, kind: str, namespace: str, name: str, uid: str) -> bool:
        try:
            found = await self.get(kind, namespace, name)
        except ApiError as error:
            if error.not_found:
                return False
            raise
        return bool(found["metadata"]["uid"] == uid)

    async def _object(
        self,
        verb: str,
        method: str,
        kind: str,
        namespace: str,
        name: str,
        body: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        path = object_path(kind_of(kind), namespace, name)
        answer: dict[str, Any] = await self._call(verb, kind, method, path, body)
        return answer

    async def _call(
        self,
        verb: str,
        kind: str,
        method: str,
        path: str,
        body: dict[str, Any] | builtins.list[dict[str, Any]] | None = None,
        *,
        brief: bool = False,
        within: float | None = None,
        tries: int = TRIES,
    ) -> Any:
        content_type = _JSON
        if method == "PATCH":
            content_type = _JSON_PATCH if isinstance(body, builtins.list) else _MERGE_PATCH
        data = None if body is None else orjson.dumps(body)
        clock = asyncio.get_running_loop().time
        deadline = clock() + (self._deadline if within is None else within)
        refresh = False
        tried = 0
        while True:
            tried += 1
            status, payload, retry_after = await self._send(
                method,
                path,
                data,
                content_type,
                accept=_BRIEF_JSON if brief else _ANY_JSON,
                remaining=deadline - clock(),
                refresh=refresh,
            )
            key = (verb, kind, status)
            self.requests[key] = self.requests.get(key, 0) + 1
            if 200 <= status < 300:
                return payload
            error = error_of(status, payload, retry_after)
            if status == 401 and not refresh:
                # The token may have been renewed since the last read.
                refresh = True
                continue
            pause = backoff_after(tried, error)
            if not error.transient or tried >= tries or clock() + pause >= deadline:
                raise error
            await asyncio.sleep(pause)

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        content_type: str,
        *,
        accept: str,
        remaining: float,
        refresh: bool,
    ) -> tuple[int, Any, float | None]:
        """The answer to one request: status, decoded body or text, and the seconds of Retry-After.

        Status 0 stands for no answer, and the text for its cause.
        """
        # `connect` would also count the wait for a free connection of the pool.
        timeout = aiohttp.ClientTimeout(total=max(remaining, 0.001), sock_connect=self._connect_timeout)
        try:
            async with await self._request(
                method,
                path,
                data=data,
                content_type=content_type,
                accept=accept,
                timeout=timeout,
                refresh=refresh,
            ) as response:
                raw = await response.read()
                status = response.status
                wait = response.headers.get("Retry-After") if status >= 400 else None
        except _NO_ANSWER as error:
            return 0, _no_answer(method, path, error), None
        payload, is_json = _decoded(raw)
        if status < 300 and not is_json:
            # A proxy answered in place of the API server.
            return 0, f"the answer is not JSON: {payload}", None
        return status, payload, retry_after_seconds(wait)

    async def _request(
        self,
        method: str,
        path: str,
        *,
        timeout: aiohttp.ClientTimeout,
        refresh: bool,
        data: bytes | None = None,
        content_type: str = _JSON,
        accept: str = _ANY_JSON,
    ) -> aiohttp.ClientResponse:
        """The answer to one request, which the caller closes. Raises `_NO_ANSWER`."""
        if self._session is None or self._connection is None:
            raise RuntimeError("KubeClient is used outside its async context")
        connection = self._connection
        headers = {"Accept": accept}
        if data is not None:
            headers["Content-Type"] = content_type
        authorization = await connection.authorization(refresh)
        if authorization is not None:
            headers["Authorization"] = authorization
        return await self._session.request(
            method,
            URL(connection.host + path, encoded=True),
            data=data,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            server_hostname=connection.server_hostname,
            proxy=connection.proxy,
        )


def _no_answer(method: str, path: str, error: BaseException) -> str:
    """The cause of a missing answer, for ApiError."""
    if isinstance(error, ConnectionConfigError):
        return str(error)
    what = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
    return f"{method} {path.partition('?')[0]}: {what}"


def _decoded(raw: bytes) -> tuple[Any, bool]:
    """The JSON document and True, or the beginning of a text and False."""
    try:
        return orjson.loads(raw), True
    except orjson.JSONDecodeError:
        return raw[:500].decode("utf-8", "replace").strip(), False


def _with_type(items: Iterable[dict[str, Any]], kind: Resource) -> Iterator[dict[str, Any]]:
    """The items of a list with `apiVersion` and `kind`, which the API server omits for built-in kinds."""
    for item in items:
        item.setdefault("apiVersion", kind.api_version)
        item.setdefault("kind", kind.name)
        yield item


def _socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol = address[:3]
    sock = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
    return sock
