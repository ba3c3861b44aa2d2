"""Backend in the ledger: a client of the gateway's `/agent/v1`."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import unquote

from perdure_agent._checkpoints import BYTES, CheckpointInfo, Found, Which, encode_json
from perdure_agent._payload import Payload, Sink
from perdure_agent._transport import Transport
from perdure_agent.errors import DamagedCheckpoint, GatewayError

#: Requests for a checkpoint that arrives damaged, since the damage may be the connection's.
_TRIES = 3


class GatewayBackend:
    """State of the task in the ledger, through the gateway."""

    def __init__(self, transport: Transport, *, patience: float | None) -> None:
        self._transport = transport
        self._patience = patience

    async def read_input(self) -> Any:
        """The task's input, from the gateway."""
        answer = await self._transport.call("GET", "/task", patience=self._patience)
        return answer.json()["input"]

    async def save(
        self, payload: Payload, *, label: str | None, recoverable: bool, order: int, patience: float | None
    ) -> int:
        """Returns the sequence number once the bytes are durable."""
        headers = {"Perdure-Sha256": payload.sha256, "Perdure-Order": str(order)}
        if not recoverable:
            headers["Perdure-Recoverable"] = "false"
        answer = await self._transport.call(
            "PUT",
            "/checkpoints",
            body=payload,
            headers=headers,
            params=None if label is None else {"label": label},
            patience=patience,
        )
        return int(answer.json()["sequence"])

    async def load(self, which: Which, sink: Sink, *, patience: float | None) -> Found | None:
        """Read a checkpoint into `sink`; None if there is no such checkpoint. Raises DamagedCheckpoint."""
        path = "/checkpoints/latest" if which.sequence is None else f"/checkpoints/{which.sequence}"
        params = None if which.label is None else {"label": which.label}
        for _ in range(_TRIES):
            try:
                answer = await self._transport.call("GET", path, params=params, sink=sink, patience=patience)
            except GatewayError as error:
                # Any other 404 comes from another server at a wrong URL: an agent that started afresh would
                # lose its work.
                if error.status == 404 and error.kind == "checkpoint-not-found":
                    return None
                if error.kind == "checkpoint-corrupt":
                    raise DamagedCheckpoint(error.members.get("sequence"), str(error)) from error
                raise
            sequence = int(answer.headers["Perdure-Sequence"])
            if answer.headers.get("Perdure-Sha256") in (None, sink.sha256()):
                label = answer.headers.get("Perdure-Label")
                return Found(
                    sequence=sequence,
                    label=None if label is None else unquote(label),
                    content_type=answer.headers.get("Content-Type", BYTES),
                )
        raise DamagedCheckpoint(
            sequence,
            f"checkpoint {sequence} is damaged on its way here, {_TRIES} times: its checksum differs",
        )

    async def list(self, label: str | None, *, patience: float | None) -> list[CheckpointInfo]:
        """All checkpoints that the ledger keeps, newest first."""
        found: list[CheckpointInfo] = []
        params = {"limit": "1000"} if label is None else {"limit": "1000", "label": label}
        while True:
            answer = (
                await self._transport.call("GET", "/checkpoints", params=params, patience=patience)
            ).json()
            found += [_info(entry) for entry in answer["checkpoints"]]
            if answer["before"] is None:
                return found
            params["before"] = str(answer["before"])

    async def progress(self, *, percent: float | None, message: str | None) -> None:
        """One try: the next report of progress replaces a lost one."""
        values = {"percent": percent, "message": message}
        body = encode_json({k: v for k, v in values.items() if v is not None}, field="progress")
        await self._transport.call("POST", "/progress", body=body, patience=0, hurry=True)

    async def heartbeat(self) -> None:
        """One try: the next heartbeat replaces a lost one."""
        await self._transport.call("POST", "/heartbeat", patience=0, hurry=True)

    async def result(self, output: bytes, *, patience: float | None) -> None:
        """Report success; `output` is JSON."""
        body = b'{"output":' + output + b"}"
        await self._transport.call("POST", "/result", body=body, patience=patience)

    async def failure(self, message: str, *, retryable: bool, patience: float | None) -> None:
        """Report failure."""
        body = encode_json({"message": message, "retryable": retryable}, field="failure")
        await self._transport.call("POST", "/failure", body=body, patience=patience)


def _info(entry: Any) -> CheckpointInfo:
    return CheckpointInfo(
        sequence=entry["sequence"],
        label=entry["label"],
        size=entry["size"],
        content_type=entry["contentType"],
        attempt=entry["attempt"],
        at=datetime.fromisoformat(entry["at"]),
        recoverable=entry["recoverable"],
    )
