"""Limits of an agent's command, arguments and environment, which expressions may have computed.

The schema's limits are for what people write. A longer text that an expression gives is right as long as the
kernel passes it to a program: Linux refuses one argument or variable of 128 KiB, and all of them together
beyond a quarter of the stack's limit (`MAX_ARG_STRLEN` and `ARG_MAX`, execve(2)). Both are checked before
anything is sent, since the API server and the container runtime report them late and in other words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from perdure.api.agent import MAX_TEXT
from perdure.domain.expressions.cel import ExpressionError

#: Bytes of one argument, or of the value of one variable, as the agent receives it.
MAX_ARGUMENT_BYTES = 96 * 1024
#: Bytes of all arguments and variables of one agent, names included.
MAX_ARGUMENTS_BYTES = 512 * 1024
#: Characters of a text in an AgentTask that is longer than the schema allows.
SHOWN = 1024

_REMEDY = "pass large data as the step's input, or as a reference to where the agent can fetch it"


def check_arguments(agent: Mapping[str, Any]) -> None:
    """Raise ExpressionError if a rendered agent block has an argument or variable that cannot be passed."""
    total = 0
    for path, name, text in _texts(agent):
        # The kubelet reads `$$` as `$`.
        size = len(text.replace("$$", "$").encode())
        if size > MAX_ARGUMENT_BYTES:
            raise ExpressionError(
                f"{path}: {size} bytes; "
                f"the limit of one argument or variable is {MAX_ARGUMENT_BYTES}: {_REMEDY}"
            )
        total += size + len(name)
    if total > MAX_ARGUMENTS_BYTES:
        raise ExpressionError(
            f"agent: command, args and env have {total} bytes; "
            f"the limit of all together is {MAX_ARGUMENTS_BYTES}: {_REMEDY}"
        )


def displayed(agent: Mapping[str, Any]) -> dict[str, Any]:
    """A rendered agent block for an AgentTask: what is longer than the schema allows is shortened."""
    shown = dict(agent)
    for field in ("command", "args"):
        if field in shown:
            shown[field] = [_shortened(text) for text in shown[field]]
    if "env" in shown:
        shown["env"] = [
            {**variable, "value": _shortened(variable["value"])} if "value" in variable else variable
            for variable in shown["env"]
        ]
    return shown


def _texts(agent: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Path, name (of a variable) and text of everything that the agent receives."""
    for field in ("command", "args"):
        for position, text in enumerate(agent.get(field) or ()):
            yield f"agent.{field}[{position}]", "", text
    for variable in agent.get("env") or ():
        yield f"agent.env.{variable['name']}", variable["name"], variable.get("value") or ""


def _shortened(text: Any) -> Any:
    if not isinstance(text, str) or len(text) <= MAX_TEXT:
        return text
    return f"{text[:SHOWN]}… ({len(text) - SHOWN} more characters; the pod has all)"
