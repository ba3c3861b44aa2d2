"""Files and environment of one attempt's pod."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perdure_agent._environment import Environment
from perdure_agent._last_failure import LastFailure
from perdure_agent.testing._task import Attempt, Task

#: Size of the largest input that is mounted; the agent requests a larger one. Bytes of JSON.
_MOUNTED_INPUT = 64 * 1024


@dataclass(slots=True)
class Pod:
    """One attempt's pod."""

    attempt: Attempt
    environment: Environment
    killed: bool = False
    tokens: int = 1

    @classmethod
    def create(
        cls, folder: Path, task: Task, attempt: Attempt, *, model: str | None, gateway_url: str
    ) -> Pod:
        """A pod whose files are in `folder`, which must not exist."""
        folder.mkdir()
        content = json.dumps(task.input, ensure_ascii=False).encode()
        (folder / "input.json").write_bytes(content if len(content) <= _MOUNTED_INPUT else b"")
        (folder / "token").write_text(attempt.token)
        environment = Environment(
            gateway_url=gateway_url,
            namespace=task.namespace,
            workflow=task.workflow,
            task=task.name,
            step=task.step,
            attempt=attempt.number,
            model=model,
            last_failure=LastFailure.parse(task.last_failure),
            input_file=folder / "input.json",
            token_file=folder / "token",
            termination_log=folder / "termination-log",
        )
        return cls(attempt, environment)

    def expire_token(self) -> None:
        """Reject the token in the file from now on."""
        self.tokens += 1
        self.attempt.expired.add(self.attempt.token)
        self.attempt.token = token(self.attempt.number, self.tokens)

    def renew_token(self) -> None:
        """Replace the file by one with a valid token, as the kubelet does."""
        file = self.environment.token_file
        assert file is not None
        fresh = file.with_name("token-fresh")
        fresh.write_text(self.attempt.token)
        fresh.replace(file)

    @property
    def termination_message(self) -> str | None:
        """Termination message of the container; None without one."""
        file = self.environment.termination_log
        return file.read_text() if file.exists() else None

    def variables(self) -> dict[str, str]:
        """The contract's environment variables."""
        environment = self.environment
        found: dict[str, Any] = {
            "PERDURE_GATEWAY_URL": environment.gateway_url,
            "PERDURE_NAMESPACE": environment.namespace,
            "PERDURE_WORKFLOW": environment.workflow,
            "PERDURE_TASK": environment.task,
            "PERDURE_STEP": environment.step,
            "PERDURE_ATTEMPT": environment.attempt,
            "PERDURE_MODEL": environment.model,
            "PERDURE_INPUT_FILE": environment.input_file,
            "PERDURE_TOKEN_FILE": environment.token_file,
            "PERDURE_TERMINATION_LOG": environment.termination_log,
        }
        failure = environment.last_failure
        if failure is not None:
            found["PERDURE_LAST_FAILURE"] = json.dumps(
                {
                    "attempt": failure.attempt,
                    "reason": failure.reason,
                    "message": failure.message,
                    "exitCode": failure.exit_code,
                }
            )
        return {name: str(value) for name, value in found.items() if value is not None}


def token(attempt: int, number: int) -> str:
    """The `number`-th token of an attempt's pod."""
    return f"testing-{attempt}-{number}"
