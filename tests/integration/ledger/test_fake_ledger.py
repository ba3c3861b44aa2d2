"""The ledger that simulations use says and keeps of checkpoints what the real one does."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any
from unittest.mock import create_autospec

import pytest

from perdure.domain.records import Superseded
from perdure.ledger import Ledger
from perdure.ledger.types import Overtaken
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
