"""A pod that attacks the gateway; standard library only.

Without `PERDURE_TOKEN_FILE` its requests are not authenticated. With it the program is an agent: its requests
bear the pod's own token, and are as large, slow, frequent or odd as they can be. Arguments: host, port, seed,
seconds.
"""

import contextlib
import json
import os
import random
import socket
import sys
import threading
import time

HOST, PORT, SEED, SECONDS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
CHANCE = random.Random(SEED)
#: Seconds that one attack may take; the slow ones are slower than any limit of a server.
LONG = 40.0
COUNTS: dict[str, dict[str, int]] = {}


def connect(timeout: float = 5.0) -> socket.socket:
    return socket.create_connection((HOST, PORT), timeout=timeout)


def token() -> str:
    with open(os.environ["PERDURE_TOKEN_FILE"]) as file:
        return file.read().strip()


def note(name: str, answer: bytes) -> None:
    status = answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/") else "closed"
    COUNTS.setdefault(name, {}).setdefault(status, 0)
    COUNTS[name][status] += 1


def send(name: str, *parts: bytes, pause: float = 0.0, patience: float = 10.0) -> None:
    """Send parts one after the other, and count the status of the answer."""
    answer = b""
    with contextlib.suppress(OSError), connect() as peer:
        with contextlib.suppress(OSError):
            for part in parts:
                peer.sendall(part)
                if pause:
                    time.sleep(pause)
        peer.settimeout(patience)
        answer = peer.recv(65536)
    note(name, answer)


def head(method: str, path: str, *lines: str) -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: gateway", *lines, "", ""]).encode(
        "utf-8", "replace"
    )


def own(method: str, path: str, *lines: str) -> bytes:
    return head(method, path, f"Authorization: Bearer {token()}", *lines)


# --- without a token


def pipelining() -> None:
    """Thousands of requests at once, the answers read or left."""
    batch = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * CHANCE.choice([100, 10_000])
    end = time.monotonic() + 3
    answer = b""
    with contextlib.suppress(OSError), connect() as peer:
        peer.settimeout(1.0)
        while time.monotonic() < end:
            peer.sendall(batch)
            if CHANCE.random() < 0.7:
                answer = answer or peer.recv(1 << 20)
    note("pipelining", answer)


def headers_without_end() -> None:
    lines = b"".join(b"a%d: b\r\n" % number for number in range(10_000))
    send("headers without end", b"GET / HTTP/1.1\r\nHost: a\r\n", *[lines] * CHANCE.choice([5, 200]))


def one_huge_header() -> None:
    size = CHANCE.choice([31_000, 100_000, 20_000_000])
    send(
        "one huge header",
        b"GET / HTTP/1.1\r\nHost: a\r\nx: ",
        *[b"y" * 65536] * (size // 65536 + 1),
        b"\r\n\r\n",
    )


def huge_url() -> None:
    size = CHANCE.choice([9_000, 70_000, 20_000_000])
    send("huge URL", b"GET /", *[b"y" * 65536] * (size // 65536 + 1), b" HTTP/1.1\r\nHost: a\r\n\r\n")


def half_a_request() -> None:
    send("half a request", b"GET /agent/v1/task HTT", patience=LONG)


def nothing() -> None:
    send("nothing at all", patience=LONG)


def drip() -> None:
    send("a byte a second", *[bytes([byte]) for byte in b"GET / HTTP/1.1\r\nHost: slow"], pause=1.0)


def garbage() -> None:
    send("garbage", CHANCE.randbytes(CHANCE.choice([10, 1000, 100_000])))


def client_hello() -> None:
    send("TLS on a plain port", bytes.fromhex("1603010200010001fc0303") + CHANCE.randbytes(500))


def smuggling() -> None:
    lines = ("Content-Length: 5", "Transfer-Encoding: chunked")
    send("two lengths", head("POST", "/agent/v1/result", *lines) + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n")


def odd_paths() -> None:
    path = CHANCE.choice(
        [
            "/agent/v1/checkpoints/" + "9" * 4301,
            "/agent/v1/checkpoints/%00",
            "/agent/v1/" + "../" * 500,
            "/agent/v1/checkpoints/-1",
            "/%ff%fe",
            "//" * 4000,
        ]
    )
    send("odd paths", head(CHANCE.choice(["GET", "PUT", "HEAD", "BREW"]), path))


def bad_tokens() -> None:
    part = CHANCE.choice(["e30", "x" * 8000, "e30." * 3, "\u202e", "[" * 3000])
    send("bad tokens", head("GET", "/agent/v1/task", f"Authorization: Bearer {part}.e30.x"))


def crowd() -> None:
    """Hundreds of connections that say nothing."""
    peers: list[socket.socket] = []
    with contextlib.suppress(OSError):
        while len(peers) < 800:
            peers.append(connect(1.0))
    time.sleep(CHANCE.choice([1, 15]))
    note("crowd", b"HTTP/1.1 %03d" % min(999, len(peers)))
    for peer in peers:
        peer.close()


# --- as an agent


def body(name: str, method: str, path: str, data: bytes, *lines: str) -> None:
    send(name, own(method, path, f"Content-Length: {len(data)}", *lines), data, patience=30.0)


def huge_result() -> None:
    """Results of which the first that is accepted ends the task."""
    size = CHANCE.choice([1 << 19, 1 << 20, (1 << 20) + 1, 8 << 20, 9 << 20])
    unit = CHANCE.choice([b"[],", b"0,", b"{},", b'"",', b'"\\u0000",', b"1e1,", b"99999999999999999999,"])
    data = b'{"output":[' + unit * (size // len(unit)) + b"0]}"
    body("huge result", "POST", "/agent/v1/result", data, "Content-Type: application/json")


def deep_result() -> None:
    depth = CHANCE.choice([99, 101, 5_000, 500_000])
    data = b'{"output":' + b"[" * depth + b"]" * depth + b"}"
    body("deep result", "POST", "/agent/v1/result", data, "Content-Type: application/json")


def odd_result() -> None:
    data = CHANCE.choice(
        [
            b'{"output":"\\ud800"}',
            b'{"output":"\xff"}',
            b'{"output":1e400}',
            b'{"output":' + b"9" * 4400 + b"}",
            b'{"output":NaN}',
            b'{"a":1,"a":2}',
            b"{",
            b"",
        ]
    )
    body("odd result", "POST", "/agent/v1/result", data, "Content-Type: application/json")


def checkpoints() -> None:
    """Small checkpoints as fast as answers come."""
    with contextlib.suppress(OSError), connect() as peer:
        request = own("PUT", "/agent/v1/checkpoints", "Content-Length: 1") + b"x"
        answer = b""
        for _ in range(300):
            peer.sendall(request)
            answer = peer.recv(65536) or answer
    note("checkpoints", answer)


def slow_uploads() -> None:
    """As many large uploads as there are slots, each of which stops after its first kilobyte."""

    def one() -> None:
        start = own("PUT", "/agent/v1/checkpoints", f"Content-Length: {64 << 20}") + b"x" * 1024
        send("slow upload", start, patience=LONG)

    group = [threading.Thread(target=one, daemon=True) for _ in range(4)]
    for thread in group:
        thread.start()
    for thread in group:
        thread.join()


def trickled_upload() -> None:
    start = own("PUT", "/agent/v1/checkpoints", f"Content-Length: {64 << 20}")
    send("trickled upload", start + b"x" * (2 << 20), *[b"y"] * 60, pause=0.5)


def unread_answers() -> None:
    """Large answers that are asked for and never read."""
    with contextlib.suppress(OSError), connect() as peer:
        for _ in range(50):
            peer.sendall(own("GET", "/agent/v1/checkpoints/latest"))
        time.sleep(CHANCE.choice([1, 20]))
    note("unread answers", b"HTTP/1.1 000")


def floods() -> None:
    method, path = CHANCE.choice(
        [
            ("GET", "/agent/v1/task"),
            ("HEAD", "/agent/v1/checkpoints/latest"),
            ("POST", "/agent/v1/heartbeat"),
            ("GET", "/agent/v1/checkpoints"),
        ]
    )
    answer = b""
    with contextlib.suppress(OSError), connect() as peer:
        for _ in range(500):
            peer.sendall(own(method, path, "Content-Length: 0"))
            answer = peer.recv(65536) or answer
    note("floods", answer)


def progress() -> None:
    answer = b""
    with contextlib.suppress(OSError), connect() as peer:
        for number in range(500):
            data = json.dumps({"percent": number % 101, "message": "\u202e" + "z" * 900}).encode()
            lines = (f"Content-Length: {len(data)}", "Content-Type: application/json")
            peer.sendall(own("POST", "/agent/v1/progress", *lines) + data)
            answer = peer.recv(65536) or answer
    note("progress", answer)


OUTSIDE = [
    pipelining,
    headers_without_end,
    one_huge_header,
    huge_url,
    half_a_request,
    nothing,
    drip,
    garbage,
    client_hello,
    smuggling,
    odd_paths,
    bad_tokens,
    crowd,
]
INSIDE = [
    deep_result,
    odd_result,
    checkpoints,
    slow_uploads,
    trickled_upload,
    unread_answers,
    floods,
    progress,
]
SLOW = {half_a_request, nothing, drip, slow_uploads, trickled_upload, unread_answers, crowd}


def main() -> None:
    inside = "PERDURE_TOKEN_FILE" in os.environ
    attacks = INSIDE if inside else OUTSIDE
    said = started = time.monotonic()
    while time.monotonic() < started + SECONDS:
        attack = CHANCE.choice(attacks)
        if attack in SLOW:
            if threading.active_count() < 12:
                threading.Thread(target=attack, daemon=True).start()
        else:
            attack()
        # The attacker shares the machine with what it attacks; without a pause it would only take the cores.
        time.sleep(0.2)
        if time.monotonic() > said + 10:
            print(json.dumps(COUNTS), flush=True)
            said = time.monotonic()
    for _ in range(5 * inside):
        huge_result()
    print(json.dumps(COUNTS), flush=True)
    # Slow attacks end with the process.
    os._exit(0)


main()
