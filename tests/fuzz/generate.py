"""Inputs from a seed: text that is nearly right, right, far too much, or damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any, Final

#: Characters on which parsers and encoders have failed.
_ODD: Final = [
    *"\x00\x01\x1b\x7f\u0085\u00a0\u00ad\u200b\u2028\u202e\u2066\ufeff\ufffe\uffff\U0001f4a3\U0010ffff\ud800",
    *"e\u0301${}$$\"'`\\/#&<>",
]
_NUMBERS: Final = [
    "0 1 -1 127 2147483648 9007199254740993 9223372036854775807 9223372036854775808 18446744073709551616",
    "-9223372036854775809 1.0 0.1 1e308 1e309 1e-400 -0.0 0x7f 0xffffffffffffffff 1u 18446744073709551616u",
]
_NAMES: Final = "inputs steps workflow item index last attempt x y size type a in true false null".split()
_FIELDS: Final = "s n m output outputs phase exitCode value key a".split()
_METHODS: Final = (
    "size startsWith endsWith contains matches split join replace trim substring charAt indexOf lowerAscii "
    "upperAscii format reverse getFullYear getSeconds flatten sort distinct slice"
).split()
_FUNCTIONS: Final = (
    "size int uint double string bool bytes type dyn duration timestamp has lists.range math.greatest "
    "math.least base64.encode base64.decode json"
).split()
_MACROS: Final = "map filter exists exists_one all".split()
_OPERATORS: Final = "+ - * / % == != < <= > >= && || in".split()


def expression(chance: Random, depth: int = 0) -> str:
    """CEL text: mostly correct by its grammar, of any size, sometimes damaged."""
    if depth == 0 and chance.random() < 0.05:
        return _long(chance)
    text = _term(chance, depth)
    return _damage(chance, text) if depth == 0 and chance.random() < 0.2 else text


def _term(chance: Random, depth: int) -> str:
    if depth > 5 or chance.random() < 0.25:
        return _leaf(chance)

    def inner() -> str:
        return _term(chance, depth + 1)

    shapes: list[Callable[[], str]] = [
        lambda: f"{inner()} {chance.choice(_OPERATORS)} {inner()}",
        lambda: f"({inner()})",
        lambda: f"{chance.choice('!-')}{inner()}",
        lambda: f"{inner()} ? {inner()} : {inner()}",
        lambda: f"{inner()}.{chance.choice(_FIELDS)}",
        lambda: f"{inner()}[{inner()}]",
        lambda: f"{chance.choice(_FUNCTIONS)}({', '.join(inner() for _ in range(chance.randrange(3)))})",
        lambda: (
            f"{inner()}.{chance.choice(_METHODS)}({', '.join(inner() for _ in range(chance.randrange(3)))})"
        ),
        lambda: f"{inner()}.{chance.choice(_MACROS)}({chance.choice('xyz')}, {inner()})",
        lambda: f"[{', '.join(inner() for _ in range(chance.randrange(4)))}]",
        lambda: "{" + ", ".join(f"{inner()}: {inner()}" for _ in range(chance.randrange(3))) + "}",
        lambda: (
            f"lists.range({chance.choice([0, 3, 50, 1000, 10_000])}).{chance.choice(_MACROS)}(x, {inner()})"
        ),
    ]
    return chance.choice(shapes)()


def _leaf(chance: Random) -> str:
    kind = chance.randrange(5)
    if kind == 0:
        return chance.choice(" ".join(_NUMBERS).split())
    if kind == 1:
        return json.dumps(odd_text(chance, chance.choice([0, 1, 5, 40])), ensure_ascii=chance.random() < 0.5)
    if kind == 2:
        return f"steps.{chance.choice('abc')}.{chance.choice(_FIELDS)}"
    if kind == 3:
        return f"inputs.{chance.choice(_FIELDS)}"
    return chance.choice(_NAMES)


def _long(chance: Random) -> str:
    unit = chance.choice(
        ["1+", "!", "-", "(", "[", "{1:", "a.", '"a"+', "x?1:", "[0]", ".trim()", "\\", "'", "\n"]
    )
    return unit * chance.choice([90, 500, 1_001, 3_000, 8_193, 40_000]) + chance.choice(["1", "", ")", "x"])


def odd_text(chance: Random, length: int) -> str:
    """Text with odd characters in it."""
    return "".join(
        chance.choice(_ODD) if chance.random() < 0.3 else chr(chance.randrange(32, 0x250))
        for _ in range(length)
    )


def _damage(chance: Random, text: str) -> str:
    for _ in range(chance.randrange(1, 4)):
        place = chance.randrange(len(text) + 1)
        cut = chance.randrange(4)
        text = text[:place] + odd_text(chance, chance.randrange(3)) + text[place + cut :]
    return text


def value(chance: Random, depth: int = 0) -> Any:
    """JSON as a program decodes it."""
    if depth > 4 or chance.random() < 0.4:
        return chance.choice(
            [
                None,
                True,
                chance.randrange(-5, 300),
                10 ** chance.choice([3, 18, 19, 40, 400]),
                chance.choice([0.1, 1.0, 1e308, -0.0, 5e-324]),
                odd_text(chance, chance.choice([0, 3, 30])),
                "${" + expression(chance, 3) + "}",
                "x" * chance.choice([1, 64, 253, 254, 33_000]),
            ]
        )
    if chance.random() < 0.5:
        return [value(chance, depth + 1) for _ in range(chance.choice([0, 1, 3, 12]))]
    return {odd_text(chance, 3): value(chance, depth + 1) for _ in range(chance.choice([0, 1, 3, 8]))}


def workflow(chance: Random) -> dict[str, Any]:
    """A Workflow: a correct one, of which some parts were replaced."""
    spec: dict[str, Any] = {
        "inputs": {"s": "text", "n": [1, 2, 3], "m": {"k": 1}},
        "steps": [_step(chance, name) for name in "abc"[: chance.randrange(1, 4)]],
    }
    if chance.random() < 0.3:
        spec["outputs"] = {"o": "${" + expression(chance) + "}"}
    if chance.random() < 0.2:
        spec["finally"] = [_step(chance, "f")]
    manifest: dict[str, Any] = {
        "apiVersion": "perdure.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {
            "name": "x",
            "namespace": "n",
            "uid": "0b7c5c2e-6f0e-4b0f-9a51-1c4e1f1d8a11",
            "generation": 1,
        },
        "spec": spec,
    }
    if chance.random() < 0.7:
        for _ in range(chance.randrange(1, 4)):
            _replace_part(chance, manifest["spec"])
    return manifest


def _step(chance: Random, name: str) -> dict[str, Any]:
    step: dict[str, Any] = {"name": name, "agent": {"image": "i", "args": ["${" + expression(chance) + "}"]}}
    for field in ("when", "forEach", "input"):
        if chance.random() < 0.3:
            step[field] = "${" + expression(chance) + "}"
    if chance.random() < 0.2:
        step["wait"] = {"duration": chance.choice(["1s", "999999999h", "0s", "${inputs.s}", "1e9s"])}
        del step["agent"]
    elif chance.random() < 0.2:
        step["workflow"] = {
            "spec": {"steps": [{"name": "c", "agent": {"image": "i"}}]},
            "inputs": value(chance),
        }
        del step["agent"]
    if chance.random() < 0.2:
        step["retry"] = {"limit": chance.choice([0, 3, -1, 10**9]), "on": "${" + expression(chance) + "}"}
    if chance.random() < 0.3:
        step["dependsOn"] = chance.sample(["a", "b", "c", "nowhere"], 2)
    return step


def _replace_part(chance: Random, part: Any) -> None:
    """Replace, remove or add one member somewhere below."""
    while True:
        if isinstance(part, dict) and part:
            key: Any = chance.choice(list(part))
        elif isinstance(part, list) and part:
            key = chance.randrange(len(part))
        else:
            return
        below = part[key]
        if chance.random() < 0.4 or not isinstance(below, (dict, list)):
            break
        part = below
    action = chance.randrange(4)
    if action == 0:
        del part[key]
    elif action == 1 and isinstance(part, dict):
        part[odd_text(chance, 4)] = value(chance)
    elif action == 2 and isinstance(part, list):
        part.extend([part[key]] * chance.choice([1, 3, 200]))
    else:
        part[key] = value(chance)


def json_bytes(chance: Random) -> bytes:
    """A body: JSON of an agent, right, damaged, too deep or too large."""
    kind = chance.randrange(6)
    if kind == 0:
        unit = chance.choice([b"[", b'{"a":', b"[[],", b'[{"":'])
        return (
            b'{"output":'
            + unit * chance.choice([5, 99, 101, 5_000])
            + b"1"
            + b"]" * chance.choice([0, 5, 101])
        )
    if kind == 1:
        unit = chance.choice(
            [b"[],", b"0,", b'"\\u0000",', b'"\\ud800",', b"1e999,", b"-,", b"9" * 4_400 + b","]
        )
        return b'{"output":[' + unit * chance.choice([1, 50, 400]) + b"0]}"
    document = {
        chance.choice(["output", "message", "retryable", "percent", "x"]): value(chance) for _ in range(2)
    }
    try:
        data = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    except RecursionError:
        data = b"{}"
    if kind == 2:
        place = chance.randrange(len(data) + 1)
        data = data[:place] + chance.randbytes(chance.randrange(4)) + data[place + chance.randrange(3) :]
    return data


def request(chance: Random) -> bytes:
    """An HTTP request, right or damaged, which a gateway on loopback may answer or not."""
    method = chance.choice([b"GET", b"PUT", b"POST", b"HEAD", b"DELETE", b"BREW", b"get"])
    path = chance.choice(
        [
            b"/agent/v1/task",
            b"/agent/v1/checkpoints",
            b"/agent/v1/checkpoints/latest",
            b"/agent/v1/checkpoints/" + b"9" * chance.choice([1, 18, 19, 4_301]),
            b"/agent/v1/result",
            b"/agent/v1/failure",
            b"/agent/v1/progress",
            b"/agent/v1/" + odd_text(chance, 9).encode("utf-8", "surrogatepass"),
            b"/healthz",
        ]
    )
    if chance.random() < 0.2:
        path += b"?" + odd_text(chance, 20).encode("utf-8", "surrogatepass").replace(b" ", b"+")
    body = json_bytes(chance) if chance.random() < 0.5 else chance.randbytes(chance.choice([0, 1, 700]))
    length = len(body) if chance.random() < 0.9 else chance.choice([0, 5, -1, 10**30])
    lines = [b"Host: gateway", b"Content-Length: %d" % length]
    if chance.random() < 0.9:
        lines.append(b"Authorization: Bearer " + chance.choice([b"pod-1", b"", b"x" * 9_000, b"e30.e30.e30"]))
    for name in (b"Content-Type", b"Perdure-Label", b"Perdure-Sha256", b"Perdure-Order", b"Range", b"Expect"):
        if chance.random() < 0.2:
            text = odd_text(chance, chance.choice([0, 3, 80])).encode("utf-8", "surrogatepass")
            lines.append(
                name + b": " + chance.choice([text, b"1", b"-1", b"9" * 4_301, b"application/json", b"%ff"])
            )
    if chance.random() < 0.05:
        lines.append(b"Transfer-Encoding: chunked")
    data = method + b" " + path + b" HTTP/1.1\r\n" + b"\r\n".join(lines) + b"\r\n\r\n" + body
    if chance.random() < 0.1:
        place = chance.randrange(len(data))
        data = data[:place] + chance.randbytes(3) + data[place + 2 :]
    return data


def token(chance: Random) -> str:
    """A token that is not one."""
    import base64

    def part() -> str:
        data = json.dumps(
            {name: value(chance, 3) for name in chance.sample(["alg", "kid", "iss", "aud", "exp", "sub"], 3)}
        )
        return base64.urlsafe_b64encode(data.encode("utf-8", "surrogatepass")).decode().rstrip("=")

    text = ".".join(part() for _ in range(chance.choice([1, 2, 3, 3, 3, 9])))
    return _damage(chance, text) if chance.random() < 0.3 else text
