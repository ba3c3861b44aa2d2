"""The fake ledger of simulations answers as the real one does: for checkpoints and for signals."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any
from unittest.mock import create_autospec

import pytest

from perdure.domain.phases import Phase
from perdure.domain.records import Commit, Superseded, TaskKey, VersionConflict
from perdure.ledger import Ledger
from perdure.ledger.types import Overtaken, SignalRefused
from tests.fakes.faults import NONE, Faults
from tests.fakes.guarantees import Guarantees
from tests.fakes.ledger import FakeLedger, Rows
from tests.integration.ledger import samples
from tests.integration.ledger.samples import KEY, at

KEPT = 4


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_checkpoints_leave_the_same(ledger: Ledger, epoch: int, seed: int) -> None:
    draw = random.Random(seed)
    state = await samples.started(ledger, epoch, spec={"retention": {"checkpointsPerTask": KEPT}})
    # The guarantees of a simulated world need its pods.
    guarantees = create_autospec(Guarantees, instance=True)
    fake = FakeLedger(Faults(seed, NONE), guarantees, lambda uid: None)
    uid = state.run.uid
    rows = fake.rows[uid] = Rows(state.run, tasks=dict(state.tasks), attempts={(KEY, 1): state.attempts[KEY]})
    sessions = [await samples.session_of(ledger, state)]

    for moment in range(60):
        if moment in (20, 40):
            new = await samples.superseded(ledger, state, epoch)
            loaded = await ledger.load(uid)
            assert loaded is not None
            state = loaded
            found = await ledger.attempt_for_pod("team-a", str(new.pod_uid))
            assert found is not None
            sessions.append(found)
            closed = rows.attempts[KEY, new.number - 1]
            rows.attempts[KEY, new.number - 1] = replace(closed, closed_at=at(60))
            rows.attempts[KEY, new.number] = new
            rows.tasks = dict(state.tasks)
        session = draw.choice([sessions[-1], sessions[-1], *sessions])
        data = draw.choice([b"a", b"b"])
        about: dict[str, Any] = {
            "order": draw.choice([None, *range(max(1, moment % 20 - 3), moment % 20 + 3)]),
            "recoverable": draw.random() < 0.3,
            "label": draw.choice(["x", "y", None]),
        }

        async def real(session: Any = session, data: bytes = data, about: Any = about) -> Any:
            try:
                return await ledger.write_checkpoint(
                    session, data, content_type="text/plain", now=at(1), **about
                )
            except (Superseded, Overtaken) as error:
                return type(error)

        def pretended(session: Any = session, data: bytes = data, about: Any = about) -> Any:
            try:
                return fake.write_checkpoint(
                    session,
                    "",
                    1 if about["recoverable"] else None,
                    data.decode(),
                    order=about["order"],
                    label=about["label"],
                    now=at(1),
                )
            except (Superseded, Overtaken) as error:
                return type(error)

        assert pretended() == await real(), (moment, about)
        kept = [
            (info.sequence, info.attempt, info.label, info.recoverable)
            for info in await ledger.checkpoints(sessions[-1], limit=100)
        ]
        mine = [
            (found.sequence, found.attempt, found.label, found.part is not None)
            for found in reversed(rows.checkpoints.get(KEY, []))
        ]
        assert mine == kept, moment
        real_vitals = (await ledger.updates(uid, since=None)).vitals
        assert [found.checkpoint_sequence for found in real_vitals] == [
            found.checkpoint_sequence for found in rows.vitals.values()
        ]
        for label in (None, "x", "y"):
            opened = await ledger.open_latest(sessions[-1], label)
            current = fake.newest(rows, KEY, label)
            assert (opened and opened.info.sequence) == (current and current.sequence)


@pytest.mark.parametrize("seed", range(4))
async def test_the_same_signals_leave_the_same(ledger: Ledger, epoch: int, seed: int) -> None:
    draw = random.Random(seed)
    state = await samples.started(ledger, epoch)
    uid = state.run.uid
    fake = FakeLedger(Faults(seed, NONE), create_autospec(Guarantees, instance=True), lambda uid: None)
    fake.epoch = epoch
    fake.rows[uid] = Rows(state.run)
    version = state.run.version

    for moment in range(60):
        if draw.random() < 0.6:
            signal = samples.signal(str(draw.randrange(20)), moment, key=TaskKey("work", draw.randrange(2)))
            where = draw.choice([uid, uid, uid, "a2c1d7d4-0000-4000-8000-000000000000"])
            answers = await _both(
                lambda where=where, signal=signal: fake.send_signal(where, signal),
                lambda where=where, signal=signal: ledger.send_signal(where, signal),
            )
        else:
            run = replace(state.run, version=max(1, version - draw.randrange(2)))
            if moment > 50:
                run = replace(run, phase=Phase.SUCCEEDED, finished_at=at(moment))
            unread = [signal.id for signal in sum((await _inbox(ledger, uid)).values(), ())]
            commit = Commit(run=run, consumed=tuple(draw.sample(unread, min(len(unread), 2))))
            answers = await _both(
                lambda commit=commit: fake.commit(commit, epoch=epoch),
                lambda commit=commit: ledger.commit(commit, epoch=epoch),
            )
            if run.phase.terminal and not isinstance(answers[0], type):
                state = replace(state, run=run)
        assert answers[0] == answers[1], moment
        updates = await ledger.updates(uid, since=None)
        version = updates.version
        assert fake.updates(uid, since=None) == updates, moment


async def _inbox(ledger: Ledger, uid: str) -> Any:
    return (await ledger.updates(uid, since=None)).signals


async def _both(pretended: Any, real: Any) -> tuple[Any, Any]:
    """What both ledgers answer: a result, or the type of an error."""
    try:
        first = pretended()
    except (SignalRefused, VersionConflict) as error:
        first = type(error)
    try:
        second = await real()
    except (SignalRefused, VersionConflict) as error:
        second = type(error)
    return first, second
