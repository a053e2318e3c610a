"""Where jobs in memory are ready to run: in a queue.Queue each.

Everything here is guarded by the one lock of its backend, and its methods are called with it held
unless they say otherwise.

A signal handler may raise in the main thread after any call and where any function begins, and nowhere else.
So what belongs together, an entry, its record and how many there are, changes without a call in between, or
with the call that adds the entry as the last step.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heapify, heappop, heappush
from operator import attrgetter
from queue import Queue

from neoq.job import Job
from neoq.record import PENDING, Status

WAITING = frozenset({Status.PENDING, Status.RETRYING})
SPARE = 1000  # void entries that may lie about before they are swept out

Key = bytes | str
Place = tuple[
    int, float, int
]  # in the order of a queue: by priority, the highest first, then due time, then id
# A job that waits to run and is nothing but a payload: its id, queue, payload, and since when it is due; its
# kind follows where it is the call of a task, which is not unique. Most are, and the garbage collector does
# not look at a tuple of such things, however long the backlog grows.
Plain = tuple[int, str, bytes, float] | tuple[int, str, bytes, float, str]
_id_of, _priority_of = attrgetter("id"), attrgetter("priority")  # for loops that are written in C
Records = dict[int, Job | Plain]  # every job that can be looked up, in the order of their ids


def job_of(plain: Plain) -> Job:
    """A plain job as an object; as `blank` makes them, but for the hot path in one go."""
    job = Job.__new__(Job)
    if len(plain) == 5:
        job.id, job.queue, job.body, due, job.kind = plain
        job.special, job.unique = True, False
    else:
        job.id, job.queue, job.body, due = plain
        job.special = False
    job.due = job.created = due
    job.parsed = job.expires = job.started = job.finished_on = job.result_body = job.slot = None
    job.status = PENDING
    job.token = 0
    job.cancel_asked = job.completed = False
    return job


def snapshot(job: Job | Plain) -> Job:
    """A job as its user may see it."""
    return job.snapshot() if isinstance(job, Job) else job_of(job)


class ReadyQueue(Queue[Job | Plain]):
    """The jobs of one queue that are due: by priority, then due time, then enqueue order.

    Most arrive in that order and lie in a deque, others in a heap; the better head goes first. Jobs that
    were cancelled or moved have another record, and stay behind as void entries until they come up or are
    too many.
    """

    def __init__(self, lock: threading.RLock, records: Records) -> None:
        super().__init__()
        self._records = records
        self.mutex = lock  # type: ignore[assignment]  # one that knows its owner
        self.not_full = threading.Condition(lock)
        self.not_empty = threading.Condition(lock)

    def _init(self, maxsize: int) -> None:  # noqa: ARG002
        self._in_order: deque[Job | Plain] = deque()
        self._others: list[tuple[int, float, int, int, Job | Plain]] = []
        self._serial = itertools.count()
        self._void = 0
        self._last_rank, self._last_due, self._last_id = 0, 0.0, 0  # the place of what was put in order last
        self._place: Callable[[Job | Plain], Place] = place_of
        self.aging: float | None = None
        self.in_line = 0  # jobs that are due, and wait for others of their key
        self.length = 0  # jobs, void entries and those that are set aside not counted
        self.aside: dict[int, Job | Plain] = {}  # of kinds that were not wanted when they came up
        self._kinds: frozenset[str] | None = None  # that were wanted

    def _qsize(self) -> int:
        return self.length + len(self.aside) + self.in_line

    __len__ = _qsize

    def push(self, job: Job | Plain) -> None:
        """Record and add a job that is due; there is always room for what was accepted."""
        place = self._place(job)
        if place > (self._last_rank, self._last_due, self._last_id) or not self._in_order:
            self._last_rank, self._last_due, self._last_id = place
            self._records[place[2]] = job
            self.length += 1
            self._in_order.append(job)
        else:
            entry = (*place, next(self._serial), job)
            self._records[place[2]] = job
            self.length += 1
            heappush(self._others, entry)

    def push_new(self, job: Plain, due: float) -> None:
        """Record and add a job whose id is the highest so far; most are such."""
        if due >= self._last_due and not self._last_rank:
            self._records[job[0]] = job
            self._last_due = due
            self._last_id = job[0]
            self.length += 1
            self._in_order.append(job)
        else:
            self.push(job)

    def push_many(self, jobs: list[Plain], due: float) -> None:
        """Add jobs of one due time, whose ids rise and are the highest so far."""
        if due >= self._last_due and not self._last_rank:
            self._last_due, self._last_id = due, jobs[-1][0]
            self.length += len(jobs)
            self._in_order.extend(jobs)
        else:
            for job in jobs:
                self.push(job)

    def push_next(self, jobs: list[Job], due: float, *, ranked: bool) -> None:
        """Add jobs that are recorded already, and due from now on; mostly they go last.

        Unless they are ``ranked`` all have the priority 0.
        """
        jobs.sort(key=_id_of)
        last = (self._last_rank, self._last_due, self._last_id)
        if (0, due, jobs[0].id) > last and not (ranked and any(map(_priority_of, jobs))):
            self._last_rank, self._last_due, self._last_id = 0, due, jobs[-1].id
            self.length += len(jobs)
            self._in_order.extend(jobs)
        else:
            for job in jobs:
                self.push(job)

    def take(self, limit: int, kinds: frozenset[str] | None) -> list[Job | Plain]:
        """Remove and return the best jobs, at most ``limit``."""
        if kinds is not None or self.aside:
            return self._take_kinds(limit, kinds)
        in_order = self._in_order
        if self._others or self._void:
            taken = self._take_best(limit)
        elif len(in_order) > limit:
            taken = [in_order.popleft() for _ in range(limit)]
        else:
            taken = list(in_order)
            in_order.clear()
        self.length -= len(taken)
        return taken

    def _take_best(self, limit: int) -> list[Job | Plain]:
        taken: list[Job | Plain] = []
        in_order = self._in_order
        while len(taken) < limit:
            if self._others and (not in_order or self._others[0][:3] < self._place(in_order[0])):
                job = heappop(self._others)[-1]
            elif in_order:
                job = in_order.popleft()
            else:
                break
            if self._void and is_void(job, self._records):
                self._void -= 1
            else:
                taken.append(job)
        return taken

    def _take_kinds(self, limit: int, kinds: frozenset[str] | None) -> list[Job | Plain]:
        """The best jobs of some kinds. The others are set aside until other kinds are asked for."""
        if kinds != self._kinds:
            self._kinds = kinds
            for job_id, job in list(self.aside.items()):
                del self.aside[job_id]
                self.push(job)
        taken: list[Job | Plain] = []
        while len(taken) < limit and (best := self._take_best(limit - len(taken))):
            self.length -= len(best)
            for job in best:
                kind, job_id = (job[4:], job[0]) if isinstance(job, tuple) else ((job.kind,), job.id)
                if kinds is None or (kind and kind[0] in kinds):
                    taken.append(job)
                else:
                    self.aside[job_id] = job
        return taken

    def may_be_oldest(self) -> list[Job | Plain]:
        """Ready jobs of which one became due first: mostly one; all, where they have several priorities."""
        entries, records = self._in_order, self._records
        ranks = {place_of(entry)[0] for entry in (entries[0], entries[-1])} if entries else {0, 1}
        if len(ranks) == 1 and not self.aging:  # then in order of their due times
            first = next((job for job in entries if not is_void(job, records)), None)
            found = [] if first is None else [first]
        else:
            found = list(entries)
        return [*found, *[entry[-1] for entry in self._others], *self.aside.values()]

    def swap(self, record: Job) -> None:
        """Let a job have another record, and with it another entry of the same place."""
        entry = (*self._place(record), next(self._serial), record)
        self._records[record.id] = record
        if record.id in self.aside:
            self.aside[record.id] = record
            return
        self._void += 1
        heappush(self._others, entry)

    def void(self, job_id: int, record: Job | None) -> None:
        """Count one entry out, whose job has another record now, or none."""
        if record is None:
            del self._records[job_id]
        else:
            self._records[job_id] = record
        if self.aside.pop(job_id, None) is not None:
            return
        self._void += 1
        self.length -= 1
        if self._void > SPARE and self._void * 2 > len(self._in_order) + len(self._others):
            records = self._records
            self._in_order = deque(job for job in self._in_order if not is_void(job, records))
            self._others = [entry for entry in self._others if not is_void(entry[-1], records)]
            heapify(self._others)
            self._void = 0

    def empty_out(self) -> list[Job | Plain]:
        """Remove and return all jobs, in their order."""
        entries = [*self._in_order, *[entry[-1] for entry in self._others], *self.aside.values()]
        jobs = sorted((job for job in entries if not is_void(job, self._records)), key=self._place)
        self._in_order.clear()
        self._others.clear()
        self.aside.clear()
        self._void = self.length = 0
        return jobs

    def age(self, aging: float | None) -> None:
        """Let jobs gain a level of priority for each such span that they have waited longer than others.

        So each level is worth a span of its due time, and the order of two jobs stays as it is.
        """
        jobs = self.empty_out()
        self.aging = aging
        self._place = place_of if aging is None else partial(_aged_place, aging)
        for job in jobs:
            self.push(job)

    def _put(self, item: Job | Plain) -> None:
        self.push(item)

    def _get(self) -> Job | Plain:
        return self.take(1, None)[0]


def oldest_due(waiting: list[Job | Plain], records: Records) -> float | None:
    """When the first of some ready jobs became due; those that have another record now do not count."""
    return min((place_of(job)[1] for job in waiting if not is_void(job, records)), default=None)


def oldest_started(records: list[Job | Plain], running: int) -> dict[str, float]:
    """For each queue when the first of its running jobs was started; there are so many in all."""
    oldest: dict[str, float] = {}
    for job in records:
        if running and isinstance(job, Job) and job.status is Status.RUNNING:
            running -= 1
            if job.started is not None:  # else it is handed out, and has not begun
                oldest[job.queue] = min(job.started, oldest.get(job.queue, job.started))
        elif not running:
            break
    return oldest


def place_of(job: Job | Plain) -> Place:
    """Where a job stands among those of its queue."""
    if job.__class__ is tuple:
        return 0, job[3], job[0]
    return -job.priority, job.due, job.id  # type: ignore[union-attr, return-value]


def _aged_place(aging: float, job: Job | Plain) -> Place:
    rank, due, job_id = place_of(job)
    return 0, due + rank * aging, job_id


def is_void(job: Job | Plain, records: Records) -> bool:
    """Whether a waiting place's job was cancelled, deleted, replaced or moved since."""
    job_id = job[0] if job.__class__ is tuple else job.id  # type: ignore[union-attr]
    return records.get(job_id) is not job
