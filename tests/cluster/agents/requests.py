"""Sends requests to the gateway from inside a pod, and prints the answers; run by `kubectl exec`.

Reads a list of {method, path, token, body, headers} as JSON; `token` is a text, null for none, or left
out for the pod's own. Prints a list of [status, body].
"""

import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any


def send(wanted: dict[str, Any]) -> list[Any]:
    headers = dict(wanted.get("headers", {}))
    token = wanted.get("token", Path(os.environ["PERDURE_TOKEN_FILE"]).read_text())
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    body = wanted.get("body")
    request = urllib.request.Request(
        os.environ["PERDURE_GATEWAY_URL"] + wanted["path"],
        method=wanted.get("method", "GET"),
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return [answer.status, _read(answer.read())]
    except urllib.error.HTTPError as error:
        with error:
            return [error.code, _read(error.read())]


def _read(content: bytes) -> Any:
    return json.loads(content) if content else None


if __name__ == "__main__":
    print(json.dumps([send(wanted) for wanted in json.load(sys.stdin)]))
