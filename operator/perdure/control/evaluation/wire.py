"""The protocol between the operator and an evaluation child, over pipes.

A message is its length, four bytes in network order, and its body. A batch is a JSON head and the bodies that
its requests see, each once however many requests see it; they are not parsed before the child needs them. The
child answers the requests of a batch in order, one message each: a byte for the kind, then the value as JSON
or the text of the error. So the request at which a child died is the first without an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Any

import orjson

from perdure.domain.expressions.evaluation import EncodedValue, EvaluationRequest

LENGTH = Struct("!I")
#: Bytes of one message: a batch with the values of one request, which is never divided.
MAX_MESSAGE_BYTES = 64 * 1024 * 1024

#: Kinds of messages from the child: its first; a value; an error; the want of memory, its last.
READY, VALUE, ERROR, OVERRUN = b"r", b"v", b"e", b"o"


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as the child receives it: expressions, with the names and places of the bodies they see."""

    requests: tuple[tuple[str, tuple[tuple[tuple[str, ...], int], ...]], ...]
    bodies: tuple[memoryview, ...]


def encode_batch(requests: Sequence[EvaluationRequest]) -> bytes:
    """The message of a batch, with its length."""
    places: dict[bytes, int] = {}
    bodies: list[bytes] = []

    def place(value: EncodedValue) -> int:
        if value.digest not in places:
            places[value.digest] = len(bodies)
            bodies.append(value.body)
        return places[value.digest]

    entries = [
        (request.source, [(name, place(value)) for name, value in request.values]) for request in requests
    ]
    head = orjson.dumps({"requests": entries, "sizes": [len(body) for body in bodies]})
    total = LENGTH.size + len(head) + sum(map(len, bodies))
    return b"".join((LENGTH.pack(total), LENGTH.pack(len(head)), head, *bodies))


def decode_batch(body: bytes) -> Batch:
    """The batch of a message without its length."""
    view = memoryview(body)
    start = LENGTH.size + LENGTH.unpack_from(body)[0]
    head: dict[str, Any] = orjson.loads(view[LENGTH.size : start])
    bodies = []
    for size in head["sizes"]:
        bodies.append(view[start : start + size])
        start += size
    requests = tuple(
        (source, tuple((tuple(name), place) for name, place in values)) for source, values in head["requests"]
    )
    return Batch(requests, tuple(bodies))
