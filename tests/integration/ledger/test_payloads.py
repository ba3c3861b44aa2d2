"""Payloads stay in the ledger: the operator reads sizes and digests, and copies large bodies without them."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest

from perdure.domain.payloads import INLINE_BYTES, Payload, Source, payload_of, value_of
from perdure.domain.phases import Phase
from perdure.domain.records import Commit, RunState, TaskKey, TaskRecord, VersionConflict
from perdure.ledger import Ledger
from perdure.ledger.operator import REPORTS_PAGE
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, at, load_live

#: 1 MiB of this text is 24 MiB of Python's objects.
EMPTY_LISTS = [[]] * 349_525
MIB = 1024 * 1024


def text(size: int) -> str:
    """A string whose JSON has so many bytes."""
    return "x" * (size - 2)


async def ended(ledger: Ledger, epoch: int, state: RunState, output: Payload | None) -> TaskRecord:
    """The task of an attempt that reported `output`, as a decision commits it."""
    loaded = await ledger.load(state.run.uid)
    assert loaded is not None
    task = replace(loaded.tasks[KEY], phase=Phase.SUCCEEDED, output=output, finished_at=at(9))
    attempt = replace(loaded.attempts[KEY], closed_at=at(9), outcome=Phase.SUCCEEDED)
    await ledger.commit(Commit(run=loaded.run, tasks=(task,), attempts=(attempt,)), epoch=epoch)
    return task


@pytest.mark.parametrize("size", [2, INLINE_BYTES, INLINE_BYTES + 1, MIB])
async def test_a_reported_output_moves_to_its_task(ledger: Ledger, epoch: int, size: int) -> None:
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    await ledger.report(session, samples.success(text(size)))
    ((_, report),) = (await ledger.updates(state.run.uid, since=None)).reports.values()
    assert report.output == payload_of(text(size))
    assert report.output is not None
    held = size <= INLINE_BYTES
    assert (report.output.body is not None, report.output.source is None) == (held, held)

    await ended(ledger, epoch, state, report.output)
    loaded = await ledger.load(state.run.uid)
    assert loaded is not None
    output = loaded.tasks[KEY].output
    assert output == report.output
    assert output is not None
    assert (output.body is not None) == held
    bodies = await ledger.task_payloads(state.run.uid, [KEY], "output")
    assert bodies == {KEY: f'"{text(size)}"'.encode()}
    assert loaded.attempts[KEY].report == report
    stored = await ledger.database.fetchrow(
        "select octet_length(report::text) as size from perdure.attempt where workflow_uid = $1",
        state.run.uid,
    )
    assert stored["size"] < 3 * INLINE_BYTES, "a large output is not kept twice"

    # A later commit of the task sends no body, and keeps the one that is there.
    await ledger.commit(Commit(run=loaded.run, tasks=(replace(loaded.tasks[KEY], message="m"),)), epoch=epoch)
    assert await ledger.task_payloads(state.run.uid, [KEY], "output") == bodies


async def test_numbers_keep_the_digits_that_the_agent_sent(ledger: Ledger, epoch: int) -> None:
    body = b'{"a":1e5,"b":123456789012345678901234567890,"c":1.10}'
    state = await samples.started(ledger, epoch)
    session = await samples.session_of(ledger, state)
    output = Payload(len(body), "0" * 64, body)
    await ledger.report(session, replace(samples.success(), output=output))
    ((_, report),) = (await ledger.updates(state.run.uid, since=None)).reports.values()
    await ended(ledger, epoch, state, report.output)
    assert await ledger.task_payloads(state.run.uid, [KEY], "output") == {KEY: body}


@pytest.mark.parametrize("kind", ["run", "cache"])
async def test_an_output_is_copied_from_elsewhere(ledger: Ledger, epoch: int, kind: str) -> None:
    state = await samples.started(ledger, epoch)
    large = text(MIB)
    if kind == "run":
        run = samples.run_record(phase=Phase.SUCCEEDED, outputs=large, finished_at=at(1), expires_at=at(9))
        await ledger.commit(Commit(run=run), epoch=epoch)
        payload = (await ledger.outcomes([run.uid]))[run.uid].outputs
        assert await ledger.run_outputs(run.uid) == f'"{large}"'.encode()
    else:
        other = samples.run_record()
        task = samples.task_record(
            phase=Phase.SUCCEEDED, output=large, finished_at=at(1), cache_key="k", cache_until=at(99)
        )
        await ledger.commit(Commit(run=other, tasks=(task,)), epoch=epoch)
        payload = (await ledger.cached("team-a", ["k"], at(5)))["k"].output
    assert payload is not None
    assert (payload.size, payload.body) == (MIB, None)
    await ended(ledger, epoch, state, payload)
    assert await ledger.task_payloads(state.run.uid, [KEY], "output") == {KEY: f'"{large}"'.encode()}


async def test_a_task_is_not_written_without_a_body_that_is_gone(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    lost = Payload(MIB, "0" * 64, source=Source("cache", "nothing"))
    with pytest.raises(VersionConflict):
        await ended(ledger, epoch, state, lost)
    assert await ledger.load(state.run.uid) == state


async def test_more_reports_than_one_json_can_hold_are_taken_over(ledger: Ledger, epoch: int) -> None:
    keys = tuple(TaskKey("each", index) for index in range(1100))
    state = await samples.started(ledger, epoch, *keys)
    large = samples.success(EMPTY_LISTS)
    for key in keys:
        await ledger.report(await samples.session_of(ledger, state, key), large)
    tracemalloc.start()
    try:
        updates = await ledger.updates(state.run.uid, since=None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert updates.reports.keys() == set(keys)
    assert len(keys) > REPORTS_PAGE
    assert peak < 20 * MIB
    tasks = [
        replace(state.tasks[key], phase=Phase.SUCCEEDED, output=report.output)
        for key, (_, report) in updates.reports.items()
    ]
    run = replace(state.run, version=updates.version)
    await ledger.commit(Commit(run=run, tasks=tuple(tasks[:100])), epoch=epoch)
    first = await ledger.task_payloads(state.run.uid, [tasks[0].key], "output")
    assert len(first[tasks[0].key]) == large.output.size  # type: ignore[union-attr] # a payload


async def test_outputs_of_live_runs_take_no_memory(ledger: Ledger, epoch: int) -> None:
    for _ in range(25):
        state = await samples.started(ledger, epoch)
        await ended(ledger, epoch, state, payload_of(EMPTY_LISTS))
    tracemalloc.start()
    try:
        states = await load_live(ledger)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(states) == 25
    assert held < 2 * MIB
    assert peak < 4 * MIB


async def test_rows_of_earlier_versions_have_sizes_and_digests(ledger: Ledger, epoch: int) -> None:
    state = await samples.started(ledger, epoch)
    values: list[Any] = [text(MIB), {"n": [1, None]}]
    for sql, value in zip(("output", "input"), values, strict=True):
        payload = payload_of(value)
        assert payload is not None
        await ledger.database.fetch(
            f"update perdure.task set {sql} = $2, {sql}_size = null, {sql}_digest = null"
            " where workflow_uid = $1",
            state.run.uid,
            payload.body,
        )
    loaded = await ledger.load(state.run.uid)
    assert loaded is not None
    task = loaded.tasks[KEY]
    assert (task.output, task.input) == tuple(map(payload_of, values))
    assert value_of(task.input) == {"n": [1, None]}
