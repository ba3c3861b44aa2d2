"""The program of an evaluation child: reads batches from its input, and answers each request.

It is started with an empty environment, sets its own limits, and holds nothing that a defect of the evaluator
could reveal. Whatever ends it ends no more than the evaluation that was under way.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from typing import Any, BinaryIO

import orjson

from perdure.control.evaluation.limits import (
    ADDRESS_BYTES,
    CPU_SECONDS,
    DATA_BYTES,
    MAX_RESULT_BYTES,
    MAX_RESULT_VALUES,
    STACK_BYTES,
)
from perdure.control.evaluation.wire import ERROR, LENGTH, OVERRUN, READY, VALUE, Batch, decode_batch
from perdure.domain.expressions.cel import ExpressionError, compile_expression
from perdure.domain.expressions.evaluation import step_value


def main() -> None:
    """Answer batches until the input ends."""
    _limit()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    _write(sink, READY)
    while (body := _read(source)) is not None:
        _answer(decode_batch(body), sink)


def _limit() -> None:
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, ADDRESS_BYTES),
        (resource.RLIMIT_DATA, DATA_BYTES),
        (resource.RLIMIT_STACK, STACK_BYTES),
    ):
        resource.setrlimit(kind, (value, value))
    # The signal is not handled: it ends the process, also inside native code.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # The operator ends its children itself; a signal to the whole group is the operator's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _write(sink: BinaryIO, message: bytes) -> None:
    sink.write(LENGTH.pack(len(message)) + message)
    sink.flush()


def _read(source: BinaryIO) -> bytes | None:
    head = source.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    body = source.read(length)
    return body if len(body) == length else None


def _answer(batch: Batch, sink: BinaryIO) -> None:
    parsed: dict[int, Any] = {}
    for source, values in batch.requests:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            kind, body = VALUE, evaluate(source, values, batch, parsed)
        except ExpressionError as error:
            kind, body = ERROR, str(error).encode("utf-8", "replace")
        except (MemoryError, RecursionError):
            kind, body = OVERRUN, b""
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(sink, kind + body)
        if kind == OVERRUN:
            # Another process begins with all of its memory.
            os._exit(0)


def evaluate(
    source: str,
    values: tuple[tuple[tuple[str, ...], int], ...],
    batch: Batch,
    parsed: dict[int, Any],
) -> bytes:
    """What an expression gives, as compact JSON. Raises ExpressionError and MemoryError."""
    expression = compile_expression(source)
    names: dict[str, Any] = {"steps": {}} if "steps" in expression.names else {}
    for name, place in values:
        if place not in parsed:
            parsed[place] = orjson.loads(batch.bodies[place])
        if len(name) == 1:
            names[name[0]] = parsed[place]
        else:
            names[name[0]][name[1]] = step_value(parsed[place])
    value = expression.evaluate(names)
    body = orjson.dumps(value)
    if len(body) > MAX_RESULT_BYTES:
        raise ExpressionError(
            f"${{{source}}}: the result has {len(body)} bytes of JSON; the limit is {MAX_RESULT_BYTES}"
        )
    # Every value but the first of a list or map stands after a comma, and an empty one has a bracket.
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_RESULT_VALUES and (
        (number := _count(value)) > MAX_RESULT_VALUES
    ):
        raise ExpressionError(
            f"${{{source}}}: the result has {number} values; the limit is {MAX_RESULT_VALUES}"
        )
    return body


def _count(value: Any) -> int:
    number = 0
    unread = [value]
    while unread:
        value = unread.pop()
        number += 1
        if isinstance(value, list):
            unread += value
        elif isinstance(value, dict):
            unread += value.values()
    return number


if __name__ == "__main__":
    main()
