"""Lines in memory: the jobs of each key of a queue, of which so many have their turn at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from neoq.held.limits import Limits, Line, LineState, Rate
from neoq.job import Job
from neoq.memory.queues import WAITING, Place, Plain, ReadyQueue, Records, is_void, place_of
from neoq.record import Status

if TYPE_CHECKING:
    from neoq.clock import Clock

_RUNNING, _DEAD, _RETRYING = Status.RUNNING, Status.DEAD, Status.RETRYING
_ORDER: dict[LineState, int] = {"dead": 0, "retrying": 1, "running": 2, "waiting": 3}


_SPARE = 64  # places of jobs that were taken from a list may lie about before they are swept out


class KeyLine:
    """The jobs of one key: those that have a turn, and those that wait for one.

    Most arrive in their order and lie in a list, of which the first were taken. Others lie in a heap, and so
    do those that have their turn and are due again, which go first.
    """

    __slots__ = ("_in_order", "_last", "_others", "_taken", "alarm", "number", "tat", "turns")

    def __init__(self) -> None:
        self.turns: dict[int, None] = {}
        self.number = 0  # that wait; void entries do not count
        self.tat = 0.0  # of its rate
        self.alarm = 0.0  # the latest that was set
        self._in_order: list[Job | None] = []
        self._taken = 0
        self._last: Place = 0, 0.0, 0  # of what was put in order last
        self._others: list[tuple[bool, Place, int, Job]] = []

    def push(self, job: Job, serial: int) -> bool:
        """Let a job wait; whether it has another priority than 0."""
        self.number += 1
        place, follows = place_of(job), job.id not in self.turns
        if follows and (place > self._last or not self._in_order):
            self._last = place
            self._in_order.append(job)
        else:
            heappush(self._others, (follows, place, serial, job))
        return place[0] != 0

    def head(self) -> Job | None:
        """The job that comes next; its entry may be void."""
        if self._others and self._is_other_first():
            return self._others[0][-1]
        return self._in_order[self._taken] if self._in_order else None

    def next(self, slots: float) -> Job | None:
        """The head, if of so many turns there is one for it, or it has its own; its entry may be void."""
        if len(self.turns) < slots:
            return self.head()
        return self._others[0][-1] if self._others and not self._others[0][0] else None

    def hand_on(self, job_id: int, slots: float) -> Job | None:
        """Take a job's turn back, and give it to the next in order; None where a closer look is needed.

        Each end of an ordered job comes here, so it takes the next one without a call.
        """
        turns, number, in_order, taken = self.turns, self.number, self._in_order, self._taken
        del turns[job_id]
        # Unless they are so many, some entries are void.
        if not number or self._others or len(in_order) - taken != number or len(turns) >= slots:
            return None
        job: Job = in_order[taken]  # type: ignore[assignment]  # it was not taken yet
        in_order[taken] = None
        self._taken = taken + 1
        self.number = number - 1
        turns[job.id] = None
        if number == 1 or taken >= _SPARE:
            self._sweep()
        return job

    def pop(self) -> None:
        """Take the entry out that comes next."""
        if self._others and self._is_other_first():
            heappop(self._others)
        else:
            self._take()

    def _take(self) -> None:
        self._in_order[self._taken] = None
        self._taken += 1
        self._sweep()

    def _sweep(self) -> None:
        """Give up the places of those that were taken, if they are many or all."""
        in_order, taken = self._in_order, self._taken
        if taken == len(in_order) or taken > _SPARE + len(in_order) // 1024:
            del in_order[:taken]
            self._taken = 0

    def has_void(self) -> bool:
        """Whether some entries are of jobs that wait here no more."""
        return len(self._in_order) - self._taken + len(self._others) > self.number

    def _is_other_first(self) -> bool:
        follows, place = self._others[0][:2]
        return not (self._in_order and follows and place > place_of(self._in_order[self._taken]))  # type: ignore[arg-type]


class Lines:
    """The lines of one queue; callers hold the lock of the table."""

    def __init__(
        self, ready: ReadyQueue, records: Records, clock: Clock, alarm: Callable[[float, str], None]
    ) -> None:
        self._ready = ready
        self._records = records
        self._clock = clock
        self._alarm = alarm
        self._serial = itertools.count()
        self._ranked = False  # some job has, or had, another priority than 0
        self.by_key: dict[str, KeyLine] = {}
        self.limits = Limits()

    @property
    def limits(self) -> Limits:
        """Those of the queue."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._slots = math.inf if limits.slots is None else limits.slots
        self._rate = limits.rate_per_key

    def enter(self, job: Job) -> None:
        """Make a job that is due ready, or let it wait in its line."""
        assert job.key is not None
        line = self._line(job.key)
        job.held, job.counted, job.special, job.waits = "line", True, True, False
        self._records[job.id] = job
        self._ready.in_line += 1
        if line.push(job, next(self._serial)):
            self._ranked = True
        self._advance(job.key, line, job)

    def adopt(self, job: Job) -> None:
        """Give a turn to a job that runs already."""
        if job.key is not None:
            job.counted = job.special = True
            self._line(job.key).turns[job.id] = None

    def withdraw(self, job: Job, copy: Job | None) -> None:
        """Take a waiting job out of its line; the entry itself is swept out later."""
        if copy is None:
            del self._records[job.id]
        else:
            self._records[job.id] = copy
        self._ready.in_line -= 1
        if job.key is not None and (line := self.by_key.get(job.key)) is not None:
            line.number -= 1
            self._advance(job.key, line)

    def leave(self, job: Job) -> None:
        """Give up a job's turn, if it has one."""
        key = job.key
        if key is not None and (line := self.by_key.get(key)) is not None and job.id in line.turns:
            del line.turns[job.id]
            self._advance(key, line)

    def leave_all(self, jobs: Iterable[Job]) -> None:
        """Give up the turns of jobs that have ended, and make the next of each line ready."""
        now, of_key = self._clock.time(), self.by_key.get
        slots = self._slots if self._rate is None else 0  # a rate wants a closer look
        ready: list[Job] = []
        try:
            for job in jobs:
                line = of_key(job.key)  # type: ignore[arg-type]
                if line is None or job.id not in line.turns:
                    continue
                following = line.hand_on(job.id, slots)
                if following is None:
                    self._advance(job.key, line, now=now)  # type: ignore[arg-type]
                else:
                    following.held, following.due = None, now
                    ready.append(following)
        finally:
            if ready:
                self._ready.in_line -= len(ready)
                self._ready.push_next(ready, now, ranked=self._ranked)

    def pause(self, job: Job) -> None:
        """A job runs no more, and is not over: in an ordered line it keeps its turn."""
        if not self.limits.ordered:
            self.leave(job)

    def moved(self, job: Job, *, later: bool, other_key: bool) -> None:
        """A job that was ready or waited has another time, or key: a turn that it has not used is over."""
        if other_key or (later and not job.waits):
            self.leave(job)

    def ended(self, job: Job) -> None:
        """A job has ended: unless it is dead and holds its line, its turn is over."""
        if not (job.status is _DEAD and self.limits.ordered and self.limits.hold_dead):
            self.leave(job)

    def holds(self, job: Job) -> bool:
        """Whether a job that has ended holds its line."""
        line = self.by_key.get(job.key or "")
        return line is not None and job.id in line.turns

    def heads(self) -> list[Job | Plain]:
        """The first of those that wait in each line."""
        return [head for line in self.by_key.values() if (head := line.head()) is not None]

    def claimed(self, jobs: Iterable[Job]) -> None:
        """Jobs were handed out: their lines may have another one ready, where they wait for a rate."""
        rate = self._rate
        if rate is None:
            return
        for job in jobs:
            if job.key is not None and (line := self.by_key.get(job.key)) is not None:
                line.tat = rate.after(line.tat, self._clock.time())
                self._advance(job.key, line)

    def look(self, key: str) -> None:
        """The time has come at which the line of a key may go on."""
        line = self.by_key.get(key)
        if line is not None:
            self._advance(key, line)

    def change(self, limits: Limits) -> list[int]:
        """Have other limits; return the dead jobs that hold their lines no more."""
        another_rate = limits.rate_per_key != self._rate
        self.limits = limits
        freed: list[int] = []
        for key, line in list(self.by_key.items()):
            if another_rate:
                line.tat = 0.0  # what that has used up does not count
            for job_id in list(line.turns):
                job = self._records.get(job_id)
                dead = isinstance(job, Job) and job.status is _DEAD
                kept = limits.ordered and (limits.hold_dead or not dead)
                runs = isinstance(job, Job) and (job.status is _RUNNING or _is_ready(job))
                if not (kept or runs):
                    del line.turns[job_id]
                    if dead:
                        freed.append(job_id)
            line.alarm = 0.0  # the next one may be earlier
            self._advance(key, line)
        return freed

    def shown(self, queue: str, limit: int) -> list[Line]:
        """The lines in which a job waits or that stand still, those that stand still first."""
        lines = []
        for key, line in self.by_key.items():
            head = next(iter(line.turns), None)
            state = self._state(head)
            if line.number or state in {"dead", "retrying"}:
                lines.append(Line(queue, key, state, head, line.number))
        return sorted(lines, key=lambda line: (_ORDER[line.state], line.key))[:limit]

    def _state(self, head: int | None) -> LineState:
        job = None if head is None else self._records.get(head)
        if not isinstance(job, Job) or job.held == "line" or _is_ready(job):
            return "waiting"
        if job.status is _RUNNING:
            return "running"
        if job.status is _DEAD:
            return "dead"
        return "retrying" if job.status is _RETRYING else "waiting"

    def _line(self, key: str) -> KeyLine:
        line = self.by_key.get(key)
        if line is None:
            line = self.by_key[key] = KeyLine()
        return line

    def _advance(self, key: str, line: KeyLine, new: Job | None = None, *, now: float | None = None) -> None:
        """Make ready what may go on now. One that has waited for others is due from now on, behind them."""
        turns = line.turns
        if now is None:
            now = self._clock.time()
        while (job := line.next(self._slots)) is not None:
            if line.has_void() and (is_void(job, self._records) or job.held != "line"):
                line.pop()
                continue
            if self._rate is not None and not self._may_start(key, line, self._rate, now):
                break
            line.pop()
            line.number -= 1
            self._ready.in_line -= 1
            turns[job.id] = None
            job.held = None
            if job is not new:
                job.due = now
            self._ready.push(job)
        if not (turns or line.number):
            if self._rate is None or line.tat <= now:
                self.by_key.pop(key, None)
            elif line.alarm < line.tat:
                line.alarm = line.tat
                self._alarm(line.tat, key)

    def _may_start(self, key: str, line: KeyLine, rate: Rate, now: float) -> bool:
        """Whether the rate of a key lets its next job be ready now."""
        ready = (isinstance(job := self._records.get(one), Job) and _is_ready(job) for one in line.turns)
        if any(ready):  # its start is what the next one's time depends on
            return False
        earliest = rate.earliest(line.tat)
        if earliest > now and line.alarm < earliest:
            line.alarm = earliest
            self._alarm(earliest, key)
        return earliest <= now


def _is_ready(job: Job) -> bool:
    """Whether a job that has its turn was not claimed yet, and may be."""
    return job.status in WAITING and not job.waits and job.held is None
