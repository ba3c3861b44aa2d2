"""A run is opened while the start still loads the live runs of the ledger."""

from typing import Any

import pytest
from tests.unit.control.lives import Live
from tests.unit.control.loop_fixture import played
from tests.unit.control.objects import obj
from tests.unit.domain.clock import START

from perdure.control.cluster_cache.run_key import RunKey
from perdure.control.cluster_cache.store import Store
from perdure.control.runs.opening import Opener
from perdure.domain.records import Committed
from perdure.steps import KINDS

VALID = {"steps": [{"name": "a", "agent": {"image": "i"}}]}
FAULTY = {"steps": [{"name": "a", "agent": {"image": "i"}, "dependsOn": ["none"]}]}


class Runs:
    """The runs in memory, of which one is restored while the ledger is asked."""

    def __init__(self) -> None:
        self.by_key: dict[RunKey, Any] = {}
        self.kept: list[str] = []

    def stop_waiting(self, key: RunKey) -> None:
        pass

    def keep(self, key: RunKey, *rest: Any) -> None:
        self.kept.append("keep")

    def keep_new(self, *rest: Any) -> None:
        self.kept.append("keep_new")


@pytest.mark.parametrize("while_", ["load", "commit"])
def test_an_earlier_run_of_the_name_is_not_hidden(while_: str) -> None:
    async def scenario() -> None:
        runs = Runs()
        key = RunKey("Workflow", "team", "audit")
        earlier = Live({"name": "a"}).live

        class Ledger:
            async def load(self, uid: str) -> None:
                if while_ == "load":
                    runs.by_key[key] = earlier

            async def commit(self, commit: Any, *, epoch: int) -> Committed:
                runs.by_key[key] = earlier
                return Committed(version=1, last_sequence=1)

        store = Store()
        spec = VALID if while_ == "load" else FAULTY
        store.apply("Workflow", obj("audit", 1, uid="later", spec=spec))
        context: dict[str, Any] = dict.fromkeys(("status_writer", "kube_events"))
        opener = Opener(
            store=store,
            ledger=Ledger(),  # type: ignore[arg-type]
            kinds=KINDS,
            runs=runs,  # type: ignore[arg-type]
            clock=lambda: START,
            template_timeout=60,
            **context,
        )
        assert await opener.open(store.roots[key], epoch=1) == (None, 0.0)
        assert (runs.kept, runs.by_key[key]) == ([], earlier)

    played(scenario())
