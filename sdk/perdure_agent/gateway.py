"""The agent's side of `/agent/v1`."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import unquote

from perdure_agent.checkpoints import BYTES, Checkpoint, encode_json
from perdure_agent.errors import AgentError, GatewayError
from perdure_agent.transport import Transport


class GatewayBackend:
    """Keeps everything in the ledger, through the gateway."""

    def __init__(self, transport: Transport, *, patience: float | None) -> None:
        self._transport = transport
        self._patience = patience

    async def read_input(self) -> Any:
        """The task's input, from the gateway."""
        answer = await self._transport.call("GET", "/task", patience=self._patience)
        return answer.json()["input"]

    async def save(self, data: bytes, *, content_type: str, label: str | None) -> int:
        """Returns once the bytes are durable."""
        answer = await self._transport.call(
            "PUT",
            "/checkpoints",
            body=data,
            content_type=content_type,
            params=None if label is None else {"label": label},
            patience=self._patience,
        )
        return int(answer.json()["sequence"])

    async def latest(self) -> Checkpoint | None:
        """The newest checkpoint of the task; None if there is none."""
        try:
            answer = await self._transport.call("GET", "/checkpoints/latest", patience=self._patience)
        except GatewayError as error:
            # Any other 404 means that this is no gateway: starting afresh would throw work away.
            if error.status == 404 and error.kind == "checkpoint-not-found":
                return None
            raise
        checksum = answer.headers.get("Perdure-Sha256")
        if checksum is not None and hashlib.sha256(answer.body).hexdigest() != checksum:
            raise AgentError("the checkpoint was damaged on its way here: its checksum differs")
        label = answer.headers.get("Perdure-Label")
        return Checkpoint(
            sequence=int(answer.headers["Perdure-Sequence"]),
            label=None if label is None else unquote(label),
            data=answer.body,
            content_type=answer.headers.get("Content-Type", BYTES),
        )

    async def progress(self, *, percent: float | None, message: str | None) -> None:
        """One try: the next report of progress makes up for a lost one."""
        values = {"percent": percent, "message": message}
        body = encode_json({k: v for k, v in values.items() if v is not None}, field="progress")
        await self._transport.call("POST", "/progress", body=body, patience=0)

    async def heartbeat(self) -> None:
        """One try: the next beat makes up for a lost one."""
        await self._transport.call("POST", "/heartbeat", patience=0)

    async def result(self, output: bytes, *, patience: float | None) -> None:
        """Report success; `output` is JSON."""
        body = b'{"output":' + output + b"}"
        await self._transport.call("POST", "/result", body=body, patience=patience)

    async def failure(self, message: str, *, retryable: bool, patience: float | None) -> None:
        """Report failure."""
        body = encode_json({"message": message, "retryable": retryable}, field="failure")
        await self._transport.call("POST", "/failure", body=body, patience=patience)
