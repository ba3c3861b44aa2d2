"""Shared limits under any interleaving of passes, ends and new runs, against rules written down plainly."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.control.queue.slots import Slots

limits = st.one_of(st.none(), st.integers(1, 6))
steps = st.one_of(
    st.tuples(st.just("add"), st.sampled_from("xyz"), st.integers(-1, 1), st.integers(0, 9)),
    st.tuples(st.just("begin"), st.integers(0, 30)),
    st.tuples(st.just("begin"), st.integers(0, 30)),
    st.tuples(st.just("decide"), st.integers(0, 30)),
    st.tuples(st.just("finish"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("finish"), st.integers(0, 30), st.booleans()),
    st.tuples(st.just("end"), st.integers(0, 30), st.integers(0, 2)),
    st.tuples(st.just("more"), st.integers(0, 30), st.integers(1, 3)),
    st.tuples(st.just("forget"), st.integers(0, 30)),
)


@dataclass
class Run:
    """A run, and what a leader knows of it."""

    uid: str
    namespace: str
    priority: int
    number: int
    #: Tasks that are ready and could start.
    backlog: int
    open: int = 0
    #: Attempts that have ended, of which the next pass will learn.
    ended: int = 0
    #: What the pass under way may still start; None if there is none.
    granted: int | None = None

    @property
    def order(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.number)


class World:
    """A leader with any number of workers, whose passes go on in any order."""

    def __init__(self, total: int | None, per_namespace: int | None) -> None:
        self.total = total
        self.per_namespace = per_namespace
        self.slots = Slots(total, per_namespace)
        self.runs: dict[str, Run] = {}
        self.made = 0
        self.queue: list[str] = []

    def add(self, namespace: str, priority: int, backlog: int) -> Run:
        self.made += 1
        run = Run(f"{namespace}{self.made}", namespace, priority, self.made, backlog)
        self.runs[run.uid] = run
        self.wake([run.uid])
        return run

    def wake(self, uids: list[str]) -> None:
        self.queue += [uid for uid in uids if uid not in self.queue]

    def begin(self, position: int) -> None:
        """A worker takes a key, which no other worker has."""
        free = [uid for uid in self.queue if uid in self.runs and self.runs[uid].granted is None]
        if free:
            run = self.runs[free[position % len(free)]]
            self.queue.remove(run.uid)
            run.granted = self.slots.grant(run.uid, run.namespace, run.priority, run.order)
            self.check()

    def passing(self) -> list[Run]:
        return [run for run in self.runs.values() if run.granted is not None]

    def decide(self, position: int) -> None:
        """One decision of a pass: what has ended is closed, and what may be is started."""
        if passing := self.passing():
            run = passing[position % len(passing)]
            assert run.granted is not None
            starts = min(run.backlog, run.granted)
            run.backlog -= starts
            run.open += starts - run.ended
            run.ended = 0
            self.slots.hold(run.uid, run.namespace, run.open)
            run.granted = self.slots.grant(run.uid, run.namespace, run.priority, run.order)
            self.check()

    def finish(self, position: int, *, fails: bool = False) -> None:
        """The end of a pass. One that fails is repeated."""
        if passing := self.passing():
            run = passing[position % len(passing)]
            if not fails:
                # As a leader decides until there is nothing more to decide.
                while run.ended or (run.granted and run.backlog):
                    self.decide(passing.index(run))
            else:
                self.wake([run.uid])
            run.granted = None
            self.wake(self.slots.settle(run.uid, run.open, 0 if fails else run.backlog))
            self.check()

    def forget(self, position: int) -> None:
        idle = [run for run in self.runs.values() if run.granted is None]
        if idle:
            run = idle[position % len(idle)]
            del self.runs[run.uid]
            self.wake(self.slots.forget(run.uid))
            self.check()

    def end(self, position: int, number: int) -> None:
        """Attempts of a run end."""
        if self.runs:
            run = list(self.runs.values())[position % len(self.runs)]
            run.ended += min(number, run.open - run.ended)
            self.wake([run.uid])

    def more(self, position: int, number: int) -> None:
        """More of a run's tasks are ready."""
        if self.runs:
            run = list(self.runs.values())[position % len(self.runs)]
            run.backlog += number
            self.wake([run.uid])

    def settle(self) -> None:
        """Work until nothing is left to do."""
        for _ in range(10_000):
            while self.passing():
                self.finish(0)
            if not [uid for uid in self.queue if uid in self.runs]:
                return
            self.begin(0)
        raise AssertionError("the queue is never empty")

    # --- what must hold

    def taken(self) -> Counter[str]:
        """Slots by namespace, with those that a decision may take at any moment."""
        taken: Counter[str] = Counter()
        for run in self.runs.values():
            taken[run.namespace] += run.open + (run.granted or 0)
        return taken

    def check(self) -> None:
        taken = self.taken()
        assert self.total is None or taken.total() <= self.total
        assert self.per_namespace is None or all(one <= self.per_namespace for one in taken.values())

    def may_start(self) -> list[Run]:
        """Runs that could start something if the rules of priority did not exist."""
        taken = self.taken()
        return [
            run
            for run in self.runs.values()
            if run.backlog
            and (self.total is None or taken.total() < self.total)
            and (self.per_namespace is None or taken[run.namespace] < self.per_namespace)
        ]


def play(world: World, script: list[tuple[object, ...]]) -> None:
    for step in script:
        match step:
            case ("add", str() as namespace, int() as priority, int() as backlog):
                world.add(namespace, priority, backlog)
            case ("begin", int() as position):
                world.begin(position)
            case ("decide", int() as position):
                world.decide(position)
            case ("finish", int() as position, bool() as fails):
                world.finish(position, fails=fails)
            case ("end", int() as position, int() as number):
                world.end(position, number)
            case ("more", int() as position, int() as number):
                world.more(position, number)
            case ("forget", int() as position):
                world.forget(position)


@settings(max_examples=400)
@given(limits, limits, st.lists(steps, max_size=60))
def test_limits_hold_and_no_slot_is_idle_that_a_run_wants(
    total: int | None, per_namespace: int | None, script: list[tuple[object, ...]]
) -> None:
    world = World(total, per_namespace)
    if not world.slots.bounded:
        return
    play(world, script)
    world.settle()
    assert world.may_start() == []
    # No further run comes: every run that can start is served to its end, so no request was lost.
    for _ in range(1000):
        if not any(run.open for run in world.runs.values()):
            break
        for position, run in enumerate(world.runs.values()):
            world.end(position, run.open)
        world.settle()
    assert all(not run.backlog and not run.open for run in world.runs.values())


class Plain:
    """A reference model of turns: it computes each answer from the whole history of turns."""

    def __init__(self, world: World) -> None:
        self.world = world
        #: Who started what, in order; and how long that was when runs and groups joined.
        self.history: list[tuple[str, int, str]] = []
        self.joined: dict[object, int] = {}

    def _served(self, member: object, positions: list[int]) -> float:
        """The last turn, or for newcomers a moment just before the newest one."""
        return positions[-1] if positions else self.joined[member] - 1.5

    def next(self) -> str | None:
        ready = self.world.may_start()
        top = [run for run in ready if run.priority == max(other.priority for other in ready)]

        def rank(run: Run) -> tuple[float, float, datetime]:
            group = [
                at
                for at, (namespace, priority, _) in enumerate(self.history)
                if (namespace, priority) == (run.namespace, run.priority)
            ]
            own = [at for at, (_, _, uid) in enumerate(self.history) if uid == run.uid]
            return (
                self._served((run.namespace, run.priority), group),
                self._served(run.uid, own),
                run.order,
            )

        def group_rank(run: Run) -> tuple[float, datetime]:
            first = min((other for other in top if other.namespace == run.namespace), key=rank)
            return rank(run)[0], first.order

        if not top:
            return None
        namespace = min(top, key=group_rank).namespace
        return min((run for run in top if run.namespace == namespace), key=rank).uid


@settings(max_examples=300)
@given(
    st.integers(1, 3),
    st.one_of(st.none(), st.integers(1, 2)),
    st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 1), st.integers(1, 6)), min_size=1, max_size=6),
    st.lists(st.integers(0, 5), max_size=40),
)
def test_every_freed_slot_goes_to_the_run_whose_turn_it_is(
    total: int, per_namespace: int | None, runs: list[tuple[str, int, int]], ends: list[int]
) -> None:
    world = World(total, per_namespace)
    # Others have everything while the runs arrive, so that all of them wait.
    holders = [world.add(f"holder-{number}", 9, 1) for number in range(total)]
    world.settle()
    plain = Plain(world)
    for namespace, priority, backlog in runs:
        run = world.add(namespace, priority, backlog)
        plain.joined[run.uid] = 0
        plain.joined.setdefault((namespace, priority), 0)
        world.settle()
    for position in [*[0] * total, *ends]:
        started = Counter({run.uid: run.backlog for run in world.runs.values()})
        running = [run for run in world.runs.values() if run.open]
        if not running:
            break
        ending = next((run for run in holders if run.open), running[position % len(running)])
        # The model ends the attempt first, as the pass will.
        ending.open -= 1
        expected = plain.next()
        ending.open += 1
        world.end(list(world.runs).index(ending.uid), 1)
        world.settle()
        started.subtract({run.uid: run.backlog for run in world.runs.values()})
        assert +started == (Counter() if expected is None else Counter([expected]))
        if expected is not None:
            chosen = world.runs[expected]
            plain.history.append((chosen.namespace, chosen.priority, expected))


@given(st.integers(1, 4), st.lists(st.integers(0, 20), min_size=20, max_size=60), st.integers(1, 3))
def test_equals_in_two_namespaces_are_served_alike(total: int, ends: list[int], runs: int) -> None:
    world = World(total, None)
    for _ in range(runs):
        world.add("x", 0, 1000)
    world.add("y", 0, 1000)
    world.settle()
    served: list[str] = []
    for position in ends:
        before = {run.uid: run.backlog for run in world.runs.values()}
        running = [at for at, run in enumerate(world.runs.values()) if run.open]
        world.end(running[position % len(running)], 1)
        world.settle()
        served += [run.namespace for run in world.runs.values() if run.backlog < before[run.uid]]
    assert len(served) == len(ends), "one slot is freed at a time, and taken by one"
    for begin in range(len(served)):
        for end in range(begin, len(served)):
            window = Counter(served[begin:end])
            assert abs(window["x"] - window["y"]) <= 1, served


@given(
    st.integers(1, 4),
    st.integers(1, 50),
    st.integers(1, 6),
    st.lists(st.integers(0, 20), min_size=6, max_size=6),
)
def test_a_backlog_delays_what_is_urgent_by_no_more_than_the_slots_it_has(
    total: int, backlogs: int, urgent: int, ends: list[int]
) -> None:
    world = World(total, None)
    for _ in range(backlogs):
        world.add("x", -1, 1000)
    world.settle()
    run = world.add("x", 1, urgent)
    world.settle()
    for freed, position in enumerate(ends[:urgent], start=1):
        low = [at for at, other in enumerate(world.runs.values()) if other.open and other is not run]
        if low:
            world.end(low[position % len(low)], 1)
            world.settle()
            assert run.open == min(freed, urgent)


def test_thousands_of_waiting_runs_cost_a_call_no_more_than_a_few() -> None:
    """Counted in comparisons of ranks, which is what a search would cost."""

    class Age(datetime):
        compared = 0

        def __lt__(self, other: object) -> bool:
            Age.compared += 1
            return super().__lt__(other)  # type: ignore[operator]

    slots = Slots(1, None)
    for number in range(5000):
        slots.grant(str(number), f"ns-{number % 50}", number % 3, Age(2026, 1, 1 + number % 28))
        slots.settle(str(number), 1 if number == 0 else 0, 5)
    Age.compared = 0
    running = "0"
    for _ in range(100):
        slots.grant(running, f"ns-{int(running) % 50}", int(running) % 3, Age(2026, 1, 1))
        (following,) = slots.settle(running, 0, 5)
        assert slots.grant(following, f"ns-{int(following) % 50}", int(following) % 3, Age(2026, 1, 1)) == 1
        assert slots.settle(following, 1, 4) == []
        running = following
    assert Age.compared < 100 * 200
