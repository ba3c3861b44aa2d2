"""The installed command against a real ledger and a real NATS."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from perdure.bus.cloudevents import encode
from perdure.ledger import Ledger
from tests.integration.bus.conftest import DEADLINE, Writer, relaying
from tests.integration.nats import NatsServer

_COMMAND = Path(sys.executable).with_name("perdure")


@asynccontextmanager
async def perdure(*arguments: str, **settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A running `perdure` with these PERDURE_ settings; killed if it has not ended when left."""
    environment: Mapping[str, str] = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")},
        **{f"PERDURE_{name.upper()}": value for name, value in settings.items()},
    }
    process = await asyncio.create_subprocess_exec(
        str(_COMMAND),
        *arguments,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """(exit code, output, errors) of `perdure`."""
    async with perdure(*arguments, **settings) as process, asyncio.timeout(DEADLINE):
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE):
        return (await process.stdout.readline()).decode().rstrip("\n")


async def test_migrate_says_what_it_did(database_url: str) -> None:
    code, output, errors = await run("migrate", database_url=database_url)
    assert (code, errors) == (0, "")
    assert output.startswith("applied 0001_")
    code, output, _ = await run("migrate", database_url=database_url)
    assert (code, output) == (0, "the schema is up to date\n")


async def test_migrate_names_what_to_check_when_the_database_is_away() -> None:
    url = "postgresql://someone:hidden@127.0.0.1:1/ledger"
    code, output, errors = await run("migrate", "--wait", "100ms", database_url=url)
    assert (code, output) == (1, "")
    assert "within 0.1 s" in errors
    assert "PERDURE_DATABASE_URL" in errors
    assert "hidden" not in errors


async def test_events_of_a_run_as_text_and_as_json(ledger_url: str, ledger: Ledger, writer: Writer) -> None:
    uid = await writer.new_run("audit")
    await writer.add(uid, "workflow.created", "task.checkpointed", "task.progress")
    code, output, errors = await run("events", "team-a/audit", database_url=ledger_url)
    lines = output.splitlines()
    assert (code, errors) == (0, "")
    assert lines[0].split() == ["SEQ", "TIME", "TYPE", "TASK", "ATTEMPT", "FACTS"]
    assert [text.split()[0] for text in lines[1:]] == ["1", "2", "3"]
    assert lines[2].split()[2:4] == ["task.checkpointed", "work-abcde"]
    code, output, _ = await run(
        "events", "audit", "-n", "team-a", "-o", "json", "--after", "1", database_url=ledger_url
    )
    assert code == 0
    assert output.encode().splitlines() == [encode(event) for event in await ledger.events(uid, after=1)]


async def test_follow_prints_everything_once_and_ends(
    ledger_url: str, nats_server: NatsServer, ledger: Ledger, writer: Writer
) -> None:
    uid = await writer.new_run("audit")
    await writer.add(uid, "workflow.created")
    settings = {"database_url": ledger_url, "nats_url": nats_server.url}
    async with (
        relaying(ledger, nats_server),
        perdure("events", "team-a/audit", "-f", "-o", "json", **settings) as process,
    ):
        numbers = [orjson.loads(await line(process))["sequence"]]
        for _ in range(3):
            await writer.add(uid, "task.progress", "task.checkpointed")
            numbers += [orjson.loads(await line(process))["sequence"] for _ in range(2)]
        await writer.finish(uid)
        numbers.append(orjson.loads(await line(process))["sequence"])
        async with asyncio.timeout(DEADLINE):
            rest, errors = await process.communicate()
    assert numbers == [str(number) for number in range(1, 9)]
    assert (process.returncode, rest, errors) == (0, b"", b"")


async def test_follow_without_nats_says_so_and_goes_on(ledger_url: str, writer: Writer) -> None:
    uid = await writer.new_run("audit")
    await writer.add(uid, "workflow.created")
    settings = {"database_url": ledger_url, "nats_url": "nats://user:hidden@127.0.0.1:1"}
    async with perdure("events", "team-a/audit", "-f", "--no-headers", **settings) as process:
        assert (await line(process)).split()[0] == "1"
        await writer.finish(uid)
        async with asyncio.timeout(DEADLINE):
            rest, errors = await process.communicate()
    assert process.returncode == 0
    assert rest.decode().split()[2] == "workflow.succeeded"
    assert errors.decode().splitlines() == ["# NATS is away; polling the ledger every 1 s"]


async def test_an_unknown_run_and_an_absent_ledger_have_remedies(ledger_url: str) -> None:
    code, output, errors = await run("events", "team-a/nothing", database_url=ledger_url)
    assert (code, output) == (1, "")
    assert "team-a/nothing" in errors
    assert "kubectl get" in errors
    code, _, errors = await run("events", "team-a/audit", database_url="postgresql://u:hidden@127.0.0.1:1/x")
    assert code == 1
    assert "PERDURE_DATABASE_URL" in errors
    assert "hidden" not in errors
    assert "Traceback" not in errors
