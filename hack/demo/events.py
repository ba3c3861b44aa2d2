"""The run's event log, read through the gateway's pod: live, and again at the end."""

import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from hack.target import NAMESPACE, RELEASE, Problem, Target

Event = dict[str, Any]
#: Seconds for which a command that failed is tried again.
PATIENCE = 30.0
#: Characters of an event's message.
MAX_MESSAGE = 100
LAST = frozenset({"workflow.succeeded", "workflow.failed", "workflow.cancelled"})


def command(target: Target, run: str, *options: str) -> list[str]:
    """The command line that prints the events of `run` (NAMESPACE/NAME)."""
    gateway = f"deploy/{RELEASE}-gateway"
    return target.kubectl_line(
        "exec", "-n", NAMESPACE, gateway, "-c", "gateway", "--", "perdure", "events", run, *options
    )


def follow(target: Target, run: str, uid: str, *, deadline: float) -> Iterator[Event]:
    """The events of the run with this uid as they happen, each once, until its last one.

    Reconnects as often as needed: gateway, ledger and API server may be away for a while. Raises Problem
    when `deadline` (of the monotonic clock) passes first.
    """
    after = 0
    while time.monotonic() < deadline:
        options = ("--follow", "--output", "json", "--after", str(after))
        for line in _lines(command(target, run, *options), target.environment, deadline):
            event = _parse(line)
            # Before the operator has accepted it, the newest run of this name may be an earlier one.
            if event is None or event["workflowuid"] != uid or int(event["sequence"]) <= after:
                continue
            after = int(event["sequence"])
            yield event
            if event["type"] in LAST:
                return
        time.sleep(0.5)
    raise Problem(
        f"{run} did not finish in time; its last event was number {after}",
        f"See why it waits: kubectl describe workflows.perdure.dev {run.partition('/')[2]}",
    )


def printed(target: Target, run: str, *options: str) -> str:
    """The output of `perdure events` for a run; a busy machine may need a second try. Raises Problem."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return target.kubectl(*command(target, run, *options)[1:])
        except Problem:
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


def history(target: Target, run: str, uid: str) -> list[Event]:
    """All events of the run. Raises Problem."""
    text = printed(target, run, "--output", "json")
    return [event for line in text.splitlines() if (event := _parse(line)) and event["workflowuid"] == uid]


def _parse(line: str) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None  # cut off in the middle: it comes again
    return event if isinstance(event, dict) and "sequence" in event else None


def _lines(words: list[str], environment: dict[str, str], deadline: float) -> Iterator[str]:
    """The output of a command, line by line, until the command ends or the deadline passes."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # The events themselves report an interruption.
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    assert process.stdout is not None
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            rest = b""
            while time.monotonic() < deadline:
                if not selector.select(timeout=1.0):
                    continue
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    return
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def line(event: Event, *, start: str) -> str:
    """One event for people, with seconds since `start`, the time of the run's first event."""
    seconds = (datetime.fromisoformat(event["time"]) - datetime.fromisoformat(start)).total_seconds()
    what = [f"{seconds:7.1f} s", f"{event['type']:18}", event.get("task", "")]
    if event.get("attempt"):
        what.append(f"attempt {event['attempt']}")
    data = event.get("data") or {}
    if event["type"] == "task.checkpointed":
        what.append(f"checkpoint {data.get('sequence')}: {data.get('label')}")
    else:
        # A failed container's message may be the end of its log.
        message = str(data.get("message") or "").partition("\n")[0]
        what += [str(data.get("reason") or ""), message[:MAX_MESSAGE]]
    return "  ".join(part for part in what if part).rstrip()
