"""Subjects of the contract of the agents' API, and a client that calls each of them over HTTP."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import aiohttp

#: Limits that every subject runs with, by the names of the gateway's own: small, so that cases are fast.
SMALL = {
    "checkpoint": 2000,
    "listed": 12,
    "listed_by_default": 3,
    "output": 100,
    "result_body": 300,
    "small_body": 200,
}
#: A token that no subject accepts.
BAD_TOKEN = "bad"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response; names of headers in title case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def kind(self) -> str:
        """Last part of the problem's type. Checks the form of the problem document."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body
        document = self.json()
        assert document["status"] == self.status
        assert document["title"]
        assert document["detail"]
        base, _, kind = document["type"].rpartition("/")
        assert base == "https://perdure.dev/problems"
        return str(kind)

    @property
    def detail(self) -> str:
        return str(self.json()["detail"])


class Subject(ABC):
    """An implementation of the agents' API that serves one task, whose first attempt is open."""

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url

    @property
    @abstractmethod
    def token(self) -> str:
        """Token of the newest attempt's pod."""

    @property
    @abstractmethod
    def unrecorded_token(self) -> str:
        """Token of a pod that the operator has not recorded."""

    @property
    @abstractmethod
    def expired_token(self) -> str:
        """Token of the newest attempt's pod that was good until its time was over."""

    @abstractmethod
    async def supersede(self) -> None:
        """Close the newest attempt and open the next one, in a pod of its own."""

    @abstractmethod
    async def corrupt(self, sequence: int) -> None:
        """Damage the stored bytes of a checkpoint."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = "",
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Reply:
        """One request below /agent/v1. Token: "" for the newest attempt's, None for no header at all."""
        sent = dict(headers or {})
        if token is not None:
            sent["Authorization"] = f"Bearer {token or self.token}"
        async with self._client.request(
            method, f"{self._url}/agent/v1{path}", headers=sent, **options
        ) as response:
            return Reply(
                response.status,
                {name.title(): value for name, value in response.headers.items()},
                await response.read(),
            )

    async def save(self, data: bytes = b"x", **headers: str) -> int:
        """A checkpoint's sequence number; keywords are headers, with underscores for hyphens."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await self.call("PUT", "/checkpoints", data=data, headers=named)
        assert reply.status == 201, reply.body
        return int(reply.json()["sequence"])

    async def listed(self, **params: str) -> tuple[list[int], int | None]:
        """The list's sequence numbers, and the number to ask with next."""
        answer = (await self.call("GET", "/checkpoints", params=params)).json()
        return [entry["sequence"] for entry in answer["checkpoints"]], answer["before"]
