"""The few requests that booting itself makes to the API server.

Why: boot must run before kubectl is built and without a client library, and a
probe every few milliseconds must not cost a process each.
"""

import http.client
import json
import ssl
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ClusterError, tail


class Api:
    def __init__(self, server: str, authority: Path, token: str) -> None:
        url = urllib.parse.urlsplit(server)
        self._address = (url.hostname or "", url.port or 443)
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def request(self, method: str, path: str, body: Any = None, timeout: float = 5) -> tuple[int, bytes]:
        """Status and body; status 0 without an answer."""
        connection = http.client.HTTPSConnection(*self._address, timeout=timeout, context=self._tls)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, self._headers)
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            return 0, str(error).encode()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The object, or None while the object does not exist or the API server does not answer."""
        status, body = self.request("GET", path)
        return json.loads(body) if status == 200 else None

    def create(self, path: str, body: dict[str, Any]) -> None:
        """Creates an object; an existing object of the name is accepted."""
        status, answer = self.request("POST", path, body, timeout=30)
        if status not in (200, 201, 409):
            raise ClusterError(
                f"The API server refused POST {path} ({status}): {answer.decode(errors='replace')}"
            )

    def ready(self) -> bool:
        return self.request("GET", "/readyz", timeout=2)[0] == 200


def node_ready(node: Any) -> bool:
    """Whether pods can be scheduled on it."""
    conditions = {c["type"]: c["status"] for c in node.get("status", {}).get("conditions", [])}
    # The taint of a node that has just joined goes a moment after.
    return conditions.get("Ready") == "True" and not node["spec"].get("taints")


def wait_for(
    what: str, check: Callable[[], Any], seconds: float, log: Path, alive: Callable[[], bool]
) -> None:
    """Waits until `check` is true; says why when it does not become so.

    `alive` says whether the component that is waited for still runs: when it
    has died there is nothing to wait for.
    """
    deadline = time.monotonic() + seconds
    check_at = time.monotonic() + 0.5
    while not check():
        now = time.monotonic()
        if now > check_at:
            check_at = now + 0.5
            if not alive():
                raise ClusterError(
                    f"Waited for {what}, but the program that should bring it has ended.\n{tail(log)}"
                )
        if now > deadline:
            raise ClusterError(f"Waited {seconds:.0f} s for {what}, in vain.\n{tail(log)}")
        time.sleep(0.02)
