"""The meter: what the jobs of this process came to, by queue, and how long they waited and ran."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import sub
from typing import Any

from neoq.job import Job, queue_of
from neoq.outcome import ROLLED_BACK, Outcome, Successes
from neoq.record import Status
from neoq.series import BUCKETS, NOTHING, OUTCOMES, Histogram

COUNTED = (*OUTCOMES, "stale")
SHORTEST = BUCKETS[0]  # seconds: jobs that ran within this together are not looked at one by one
# By identity: a member of an enum is hashed, and looked up in its class, by code in Python.
_SUCCEEDED, _PENDING = Status.SUCCEEDED, Status.PENDING
_NAMES = {
    id(Status.SUCCEEDED): "succeeded",
    id(Status.RETRYING): "retried",
    id(Status.DEAD): "dead",
    id(Status.CANCELLED): "cancelled",
    id(Status.PENDING): "snoozed",
}


@dataclass(frozen=True, slots=True)
class QueueTotals:
    """What one process has counted of a queue since it began.

    ``outcomes`` has a number for each of `OUTCOMES`, and "stale": attempts whose lease was lost, and with it
    their outcome. ``runs_ok`` are attempts that succeeded or snoozed, ``runs_failed`` the others.
    """

    outcomes: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0), hash=False)
    waits: Histogram = NOTHING
    runs_ok: Histogram = NOTHING
    runs_failed: Histogram = NOTHING
    enqueued: int = 0


class _Durations:
    """A histogram that grows."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one; a clock that was set back makes it no less than nothing."""
        seconds = max(0.0, seconds)
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def add_all(self, durations: list[float]) -> None:
        """Count several, and look at none by itself."""
        durations.sort()
        if durations[0] < 0.0:
            durations = [max(0.0, seconds) for seconds in durations]
        counts, counted, number = self.counts, 0, len(durations)
        place = bisect_left(BUCKETS, durations[0])
        while counted < number:
            upto = number if place == len(BUCKETS) else bisect_right(durations, BUCKETS[place])
            counts[place] += upto - counted
            counted, place = upto, place + 1
        self.sum += sum(durations)

    def add_alike(self, number: int, place: int, together: float) -> None:
        """Count several of one bucket, which sum up to about ``together``."""
        self.counts[place] += number
        self.sum += together

    def read(self) -> Histogram:
        """As it is now."""
        return Histogram(tuple(self.counts), self.sum)


class _Tally:
    """What is counted of one queue."""

    __slots__ = ("failed", "ok", "outcomes", "waits")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(COUNTED, 0)
        self.waits, self.ok, self.failed = _Durations(), _Durations(), _Durations()


class Meter:
    """Counts what ends and what is enqueued here; each number only grows.

    ``enqueued`` is added to by whoever stores a job, as ``enqueued[queue] += 1``: no other thread comes in
    between, since the interpreter hands over at calls and jumps only. All else has a lock, once in a batch.
    """

    def __init__(self) -> None:
        self.enqueued: defaultdict[str, int] = defaultdict(int)
        self._tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
        self._lock = threading.RLock()  # a signal handler may read while its thread counts
        self._undone: set[tuple[int, int]] = set()
        self.leases_lost = 0  # jobs that this process had, and that others may have by now
        self.reclaimed = 0  # jobs that it took from workers that had died

    def note_enqueued(self, jobs: Iterable[Job]) -> None:
        """Jobs were stored together."""
        for queue, number in Counter(map(queue_of, jobs)).items():
            self.enqueued[queue] += number

    def note(
        self, outcomes: Sequence[Outcome], stale: Collection[int], skew: float = 0.0
    ) -> Sequence[Outcome]:
        """Attempts have ended, and but for the stale ones are recorded; the store is ``skew`` s ahead.

        Returns those that were not counted together as successes: all others are among them.
        """
        with self._lock:
            if isinstance(outcomes, Successes) and not stale:
                self._count_successes(outcomes.jobs)
                return ()
            rest = outcomes if stale or not outcomes else self._count_plain(outcomes, skew)
            for outcome in rest:
                if outcome.lease.job_id in stale:
                    self._tallies[outcome.lease.queue].outcomes["stale"] += 1
                elif outcome.started_at is not None or outcome.status is not _PENDING:
                    self._count(outcome, skew)
            return rest

    def note_undone(self, outcome: Outcome) -> None:
        """An attempt that its handler completed has failed: its transaction was rolled back."""
        self._undone.add((outcome.lease.job_id, outcome.lease.token))

    def note_lost(self, returned: Iterable[Job], dead: Iterable[Job]) -> None:
        """Attempts have ended with their workers: of jobs that are ready again, and of dead ones."""
        with self._lock:
            for name, jobs in (("lost", returned), ("dead", dead)):
                for job in jobs:
                    self._tallies[job.queue].outcomes[name] += 1
                    self.reclaimed += 1

    def totals(self) -> dict[str, QueueTotals]:
        """What was counted in this process, by queue."""
        with self._lock:
            return {
                queue: self._read(self._tallies.get(queue) or _Tally(), self.enqueued.get(queue, 0))
                for queue in sorted({*self._tallies, *list(self.enqueued)})
            }

    @staticmethod
    def _read(tally: _Tally, enqueued: int) -> QueueTotals:
        return QueueTotals(
            dict(tally.outcomes), tally.waits.read(), tally.ok.read(), tally.failed.read(), enqueued
        )

    def _count_successes(self, jobs: Sequence[Any]) -> None:
        """The hot path, of jobs that one runner took together and has settled itself, in their order."""
        tally, number = self._tallies[jobs[0].queue], len(jobs)
        tally.outcomes["succeeded"] += number
        first, last = jobs[0], jobs[-1]
        took = last.finished_on - first.started
        if number > 2 and 0.0 <= took <= SHORTEST and first.priority == last.priority:
            # Each ran within the first bucket, and each was due between the first and the last.
            least, most = first.started - last.due, last.started - first.due
            place = bisect_left(BUCKETS, most)
            if least >= 0.0 and place == bisect_left(BUCKETS, least):
                tally.waits.add_alike(number, place, number * (least + most) / 2)
                tally.ok.add_alike(number, 0, took)
                return
        tally.waits.add_all([job.started - job.due for job in jobs])
        tally.ok.add_all([job.finished_on - job.started for job in jobs])

    def _count_plain(self, outcomes: Sequence[Any], skew: float) -> Sequence[Outcome]:
        """Count the successes, which most outcomes are, and return the others."""
        if self._count_alike(outcomes, skew):
            return ()
        rest: list[Outcome] = []
        of_queues: dict[str, list[Any]] = {}
        for outcome in outcomes:  # by their places: their names cost several times as much
            if outcome[1] is _SUCCEEDED:
                of_queues.setdefault(outcome[0][1], []).append(outcome)
            else:
                rest.append(outcome)
        for plain in of_queues.values():
            if not self._count_alike(plain, skew):
                rest += plain
        return rest

    def _count_alike(self, outcomes: Sequence[Any], skew: float) -> bool:
        """Count successes of one queue, by loops that are written in C; False where they are others."""
        number = len(outcomes)
        leases, statuses, _, _, began, ended, *_ = zip(*outcomes, strict=True)
        _, queues, _, _, due, _ = zip(*leases, strict=True)
        if statuses.count(_SUCCEEDED) < number or queues.count(queues[0]) < number:
            return False
        try:
            waits, runs = list(map(sub, began, due)), list(map(sub, ended, began))
        except TypeError:  # some time is unknown
            return False
        tally = self._tallies[queues[0]]
        tally.outcomes["succeeded"] += number
        tally.waits.add_all([seconds + skew for seconds in waits] if skew else waits)
        tally.ok.add_all(runs)
        return True

    def _count(self, outcome: Outcome, skew: float) -> None:
        lease, status = outcome.lease, outcome.status
        if outcome.failure is ROLLED_BACK:
            undone = (lease.job_id, lease.token) in self._undone
            self._undone.discard((lease.job_id, lease.token))
            status = status if undone else _SUCCEEDED
        if status is _PENDING and outcome.run_after == lease.due:
            return  # it is given back
        tally = self._tallies[lease.queue]
        tally.outcomes[_NAMES[id(status)]] += 1
        if outcome.started_at is None:
            return
        if lease.due is not None:
            tally.waits.add(outcome.started_at + skew - lease.due)
        if outcome.finished_at is not None:
            runs = tally.ok if status is _SUCCEEDED or status is _PENDING else tally.failed
            runs.add(outcome.finished_at - outcome.started_at)
