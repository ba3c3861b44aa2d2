"""Who may start attempts under limits that many runs share.

A free slot is reserved at once for the run whose turn it is, until that run is reconciled. If runs were only
notified of free slots, the run that is reconciled first would take the slot, whatever its priority.

Whose turn it is: the highest priority that its namespace's limit lets in; among equals the namespace that was
served least recently, and in it the run that was served least recently; of those never served, the older run.
A newcomer comes after all that wait, and before the one that was served last, so that a stream of new runs
cannot starve an old one. A slot that is handed back unused was no turn.

How much a run wants is known only once it has been decided about. Until then it counts as wanting one slot,
and the run may have as well what no other run wants (`SPARE`).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from perdure.domain.engine.lazy_heap import LazyHeap

#: Slots that a pass may have if no other run wants them, though the run is not known to want so many.
SPARE = 8

_Rank = tuple[Any, ...]


class _Turns:
    """When something was served: the turns that it used, and those it may still hand back."""

    __slots__ = ("_last", "_open")

    def __init__(self, joined: int) -> None:
        self._last = joined
        self._open: list[int] = []

    @property
    def newest(self) -> int:
        return max(self._last, self._open[-1]) if self._open else self._last

    def take(self, turn: int) -> None:
        """Turns only ever grow, so the list stays in order."""
        self._open.append(turn)

    def close(self, turn: int, *, used: bool) -> None:
        del self._open[bisect_left(self._open, turn)]
        if used:
            self._last = max(self._last, turn)


@dataclass(slots=True)
class _Group:
    """The runs of one priority in one namespace."""

    priority: int
    namespace: str
    turns: _Turns
    runs: set[str] = field(default_factory=set)
    #: Those that want more than they have been given.
    wanting: LazyHeap[str, _Rank] = field(default_factory=LazyHeap)


@dataclass(slots=True)
class _Run:
    uid: str
    namespace: str
    #: None until its first pass: it has attempts, but it is not known who it is.
    group: _Group | None = None
    order: datetime | None = None
    open: int = 0
    #: What its pass under way may still start.
    reserved: int = 0
    #: What is kept for its next pass.
    offered: int = 0
    #: Further attempts it would start, as of its last pass.
    wants: int = 0
    passing: bool = False
    turns: _Turns = field(default_factory=lambda: _Turns(0))
    #: The turns of `reserved` and `offered`, oldest first.
    given: list[int] = field(default_factory=list)

    @property
    def wanting(self) -> bool:
        demand = max(self.wants, 1) if self.passing else self.wants
        return self.reserved + self.offered < demand


class Slots:
    """Shares out the attempts that may be open at once. In memory; of one leader, in one event loop.

    Every pass over a run that may start attempts is `grant` … `settle`, and a pass that fails settles too,
    wanting nothing: what it cannot take now must not be kept from others. Its repetition asks again.
    """

    def __init__(self, total: int | None, per_namespace: int | None) -> None:
        """Limits of open attempts, in all and in any one namespace; None (or 0) for no limit."""
        self._total = total or None
        self._per_namespace = per_namespace or None
        self.clear()

    @property
    def bounded(self) -> bool:
        """True if there is any limit. Without, the other methods do nothing."""
        return self._total is not None or self._per_namespace is not None

    def clear(self) -> None:
        """Forget all runs."""
        self._runs: dict[str, _Run] = {}
        self._used = 0
        self._used_in: Counter[str] = Counter()
        self._groups: dict[tuple[int, str], _Group] = {}
        #: Priorities of the groups in each namespace.
        self._priorities_in: dict[str, set[int]] = {}
        #: Namespaces with runs that want something and may have it, by priority; and these priorities.
        self._levels: dict[int, LazyHeap[str, _Rank]] = {}
        self._priorities: LazyHeap[int, _Rank] = LazyHeap()
        #: The newest turn. Turns are even numbers, so that a newcomer finds a place between two.
        self._turn = 0
        #: Runs for which something is kept, and which were not returned to the caller yet.
        self._wakes: dict[str, None] = {}

    def hold(self, uid: str, namespace: str, open: int) -> None:
        """A run has this many open attempts now: after it was restored, or in a pass after a commit.

        More than the limit allows are tolerated (it may have been lowered): then nothing starts meanwhile.
        """
        if not self.bounded:
            return
        run = self._runs.get(uid)
        if run is None:
            if not open:
                return
            run = self._runs[uid] = _Run(uid, namespace)
        self._set_open(run, open)

    def grant(self, uid: str, namespace: str, priority: int, order: datetime) -> int | None:
        """How many attempts the run's next decision may start; None for any number.

        They are reserved until `settle`. `order` is when the run was made. Called again in the same pass, it
        gives what is left of the reservation, and what has come since.
        """
        if not self.bounded:
            return None
        run = self._runs.get(uid)
        if run is None:
            run = self._runs[uid] = _Run(uid, namespace)
        if run.group is None:
            self._join(run, priority, order)
        run.passing = True
        self._rank(run)
        self._share_out()
        while run.reserved + run.offered < SPARE and self._has_room(run.namespace):
            self._give(run)  # no other run may have the slot, or that run would have it by now
        run.reserved, run.offered = run.reserved + run.offered, 0
        self._wakes.pop(uid, None)
        return run.reserved

    def reserved(self, uid: str) -> int:
        """How many attempts the pass of a run that is under way may still start."""
        run = self._runs.get(uid)
        return 0 if run is None else run.reserved

    def settle(self, uid: str, open: int, wants: int) -> list[str]:
        """A pass is over: the run has `open` attempts and would start `wants` more if it might.

        Returns the runs to be reconciled now, because slots are kept for them; this one may be among them.
        """
        run = self._runs.get(uid)
        if run is not None:
            self._set_open(run, open)
            # Who wants more has used all it was given, even if as many other attempts of it have ended.
            self._hand_back(run, run.reserved, used=wants > 0)
            run.reserved = 0
            run.passing = False
            run.wants = wants
            excess_tasks = max(0, run.offered - wants)
            run.offered -= excess_tasks
            self._hand_back(run, excess_tasks, used=False)
            if run.offered:
                self._wakes[uid] = None
            self._rank(run)
        return self._shared_out()

    def forget(self, uid: str) -> list[str]:
        """A run has ended or was deleted. Returns the runs to be reconciled now, as `settle` does."""
        run = self._runs.get(uid)
        if run is not None:
            self._set_open(run, 0)
            self._hand_back(run, run.reserved + run.offered, used=False)
            if run.group is not None:
                self._leave(run.group, uid)
            self._wakes.pop(uid, None)
            del self._runs[uid]
        return self._shared_out()

    # --- giving and taking

    def _shared_out(self) -> list[str]:
        self._share_out()
        woken = list(self._wakes)
        self._wakes.clear()
        return woken

    def _share_out(self) -> None:
        """Reserve every free slot for a run that wants the slot and may have it."""
        while self._total is None or self._used < self._total:
            priority = self._priorities.first()
            namespace = None if priority is None else self._levels[priority].first()
            if priority is None or namespace is None:
                return
            uid = self._groups[priority, namespace].wanting.first()
            assert uid is not None, "a group without a wanting run is not ranked"
            self._give(self._runs[uid])

    def _give(self, run: _Run) -> None:
        assert run.group is not None, "nothing is given to a run that never had a pass"
        self._turn += 2
        run.offered += 1
        run.given.append(self._turn)
        run.turns.take(self._turn)
        run.group.turns.take(self._turn)
        if not run.passing:
            self._wakes[run.uid] = None
        self._count(run.namespace, 1)
        self._rank(run)

    def _set_open(self, run: _Run, open: int) -> None:
        more = open - run.open
        run.open = open
        self._count(run.namespace, more)
        started = max(0, min(more, run.reserved))
        run.reserved -= started
        # The oldest were used; their slots stay taken, by the attempts.
        self._close(run, run.given[:started], used=True)
        self._count(run.namespace, -started)

    def _hand_back(self, run: _Run, number: int, *, used: bool) -> None:
        """Close that many turns, the used ones from the oldest, and free their slots."""
        if number:
            self._close(run, run.given[:number] if used else run.given[-number:], used=used)
            self._count(run.namespace, -number)

    def _close(self, run: _Run, turns: list[int], *, used: bool) -> None:
        if not turns or run.group is None:
            return
        for turn in turns:
            run.given.remove(turn)
            run.turns.close(turn, used=used)
            run.group.turns.close(turn, used=used)
        self._rank(run)

    # --- who is next

    def _has_room(self, namespace: str) -> bool:
        return (self._total is None or self._used < self._total) and not self._full(namespace)

    def _full(self, namespace: str) -> bool:
        return self._per_namespace is not None and self._used_in[namespace] >= self._per_namespace

    def _count(self, namespace: str, more: int) -> None:
        """So many slots more are taken in a namespace, which may open or close it for its runs."""
        if not more:
            return
        full = self._full(namespace)
        self._used += more
        self._used_in[namespace] += more
        if not self._used_in[namespace]:
            del self._used_in[namespace]
        if self._full(namespace) != full:
            for priority in self._priorities_in.get(namespace, ()):
                self._rank_group(self._groups[priority, namespace])

    def _rank(self, run: _Run) -> None:
        if run.group is None:
            return
        if run.wanting:
            run.group.wanting.put(run.uid, (run.turns.newest, run.order, run.uid))
        else:
            run.group.wanting.drop(run.uid)
        self._rank_group(run.group)

    def _rank_group(self, group: _Group) -> None:
        level = self._levels.setdefault(group.priority, LazyHeap())
        uid = group.wanting.first()
        if uid is None or self._full(group.namespace):
            level.drop(group.namespace)
        else:
            level.put(group.namespace, (group.turns.newest, self._runs[uid].order, uid))
        if level:
            self._priorities.put(group.priority, (-group.priority,))
        else:
            self._priorities.drop(group.priority)
            del self._levels[group.priority]

    def _join(self, run: _Run, priority: int, order: datetime) -> None:
        place = priority, run.namespace
        if place not in self._groups:
            self._groups[place] = _Group(priority, run.namespace, _Turns(self._turn - 1))
            self._priorities_in.setdefault(run.namespace, set()).add(priority)
        run.group = self._groups[place]
        run.group.runs.add(run.uid)
        run.order = order
        run.turns = _Turns(self._turn - 1)

    def _leave(self, group: _Group, uid: str) -> None:
        group.runs.discard(uid)
        group.wanting.drop(uid)
        self._rank_group(group)
        if not group.runs:
            del self._groups[group.priority, group.namespace]
            self._priorities_in[group.namespace].discard(group.priority)
            if not self._priorities_in[group.namespace]:
                del self._priorities_in[group.namespace]
