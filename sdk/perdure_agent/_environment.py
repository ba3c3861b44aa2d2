"""Environment variables of the agent's contract.

Every variable has a default that suits a laptop, so that an agent runs there unchanged.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perdure_agent._last_failure import LastFailure

#: The kubelet creates this file in every container, and its content outlives the container.
DEFAULT_TERMINATION_LOG = Path("/dev/termination-log")


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Place and role of this agent. Without `gateway_url` the agent runs in local mode."""

    gateway_url: str | None = None
    namespace: str = "default"
    workflow: str = "local"
    task: str = "local"
    step: str = ""
    #: Number of this attempt, from 1.
    attempt: int = 1
    #: `PERDURE_MODEL`: the model that the manifest names; None if it names none.
    model: str | None = None
    #: `PERDURE_LAST_FAILURE`: why the last attempt that failed did; None if none has.
    last_failure: LastFailure | None = None
    input_file: Path | None = None
    token_file: Path | None = None
    #: `PERDURE_CA_FILE`: PEM certificates of the authority that signs the gateway's; None: the system's.
    ca_file: Path | None = None
    #: `PERDURE_TERMINATION_LOG`; by default the kubelet's file, which the SDK never creates.
    termination_log: Path = DEFAULT_TERMINATION_LOG
    #: `PERDURE_INPUT`: the input as JSON, for local mode.
    input_json: str | None = None
    #: `PERDURE_LOCAL_DIRECTORY`: folder of local mode's checkpoints.
    local_directory: Path = Path(".perdure")

    @classmethod
    def read(cls, variables: Mapping[str, str] | None = None) -> Environment:
        """From `os.environ`, or from `variables`. Raises ValueError, naming the variable with a bad value."""
        values = os.environ if variables is None else variables

        def path(name: str) -> Path | None:
            return Path(values[name]) if values.get(name) else None

        attempt = values.get("PERDURE_ATTEMPT") or "1"
        if not attempt.isdecimal() or int(attempt) < 1:
            raise ValueError(f"PERDURE_ATTEMPT is {attempt!r}; it must be a whole number from 1")
        url = values.get("PERDURE_GATEWAY_URL") or None
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError(f"PERDURE_GATEWAY_URL is {url!r}; it must start with http:// or https://")
        return cls(
            gateway_url=url.rstrip("/") if url else None,
            namespace=values.get("PERDURE_NAMESPACE") or "default",
            workflow=values.get("PERDURE_WORKFLOW") or "local",
            task=values.get("PERDURE_TASK") or "local",
            step=values.get("PERDURE_STEP", ""),
            attempt=int(attempt),
            model=values.get("PERDURE_MODEL") or None,
            last_failure=_last_failure(values.get("PERDURE_LAST_FAILURE")),
            input_file=path("PERDURE_INPUT_FILE"),
            token_file=path("PERDURE_TOKEN_FILE"),
            ca_file=path("PERDURE_CA_FILE"),
            termination_log=path("PERDURE_TERMINATION_LOG") or DEFAULT_TERMINATION_LOG,
            input_json=values.get("PERDURE_INPUT") or None,
            local_directory=path("PERDURE_LOCAL_DIRECTORY") or Path(".perdure"),
        )


def _last_failure(text: str | None) -> LastFailure | None:
    try:
        return LastFailure.parse(json.loads(text)) if text else None
    except ValueError as error:
        raise ValueError(f"PERDURE_LAST_FAILURE makes no sense: {error}") from error
