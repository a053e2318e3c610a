"""Where jobs in memory wait: ready ones in a queue.Queue each, future ones in two heaps and one timer.

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
from heapq import heapify, heappop, heappush
from queue import Queue
from typing import TYPE_CHECKING, Any

from neoq.job import Job
from neoq.record import PENDING, Status
from neoq.store import QueueCounts
from neoq.threads.loop import Logger, Loop

if TYPE_CHECKING:
    from neoq.clock import Clock

_SPARE = 1000  # void entries that may lie about before they are swept out

Key = bytes | str
Entry = tuple[float, int, Job]
Place = tuple[
    int, float, int
]  # in the order of a queue: by priority, the highest first, then due time, then id
# A job that waits to run and is nothing but a payload: its id, queue, payload, and since when it is due; its
# kind follows where it is the call of a task, which is not unique. Most are, and the garbage collector does
# not look at a tuple of such things, however long the backlog grows.
Plain = tuple[int, str, bytes, float] | tuple[int, str, bytes, float, str]
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
        self.length = 0  # jobs, void entries and those that are set aside not counted
        self.aside: dict[int, Job | Plain] = {}  # of kinds that were not wanted when they came up
        self._kinds: frozenset[str] | None = None  # that were wanted

    def _qsize(self) -> int:
        return self.length + len(self.aside)

    __len__ = _qsize

    def push(self, job: Job | Plain) -> None:
        """Record and add a job that is due; there is always room for what was accepted."""
        place = _place(job)
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
            if self._others and (not in_order or self._others[0][:3] < _place(in_order[0])):
                job = heappop(self._others)[-1]
            elif in_order:
                job = in_order.popleft()
            else:
                break
            if self._void and _is_void(job, self._records):
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
        if entries and _place(entries[0])[0] == _place(entries[-1])[0]:  # then in order of their due times
            first = next((job for job in entries if not _is_void(job, records)), None)
            found = [] if first is None else [first]
        else:
            found = list(entries)
        return [*found, *[entry[-1] for entry in self._others], *self.aside.values()]

    def swap(self, record: Job) -> None:
        """Let a job have another record, and with it another entry of the same place."""
        entry = (*_place(record), next(self._serial), record)
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
        if self._void > _SPARE and self._void * 2 > len(self._in_order) + len(self._others):
            records = self._records
            self._in_order = deque(job for job in self._in_order if not _is_void(job, records))
            self._others = [entry for entry in self._others if not _is_void(entry[-1], records)]
            heapify(self._others)
            self._void = 0

    def _put(self, item: Job | Plain) -> None:
        self.push(item)

    def _get(self) -> Job | Plain:
        return self.take(1, None)[0]


def oldest_due(waiting: list[Job | Plain], records: Records) -> float | None:
    """When the first of some ready jobs became due; those that have another record now do not count."""
    return min((_place(job)[1] for job in waiting if not _is_void(job, records)), default=None)


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


def _place(job: Job | Plain) -> Place:
    if job.__class__ is tuple:
        return 0, job[3], job[0]
    return -job.priority, job.due, job.id  # type: ignore[union-attr, return-value]


def _is_void(job: Job | Plain, records: Records) -> bool:
    """Whether a waiting place's job was cancelled, deleted, replaced or moved since."""
    job_id = job[0] if job.__class__ is tuple else job.id  # type: ignore[union-attr]
    return records.get(job_id) is not job


class QueueState:
    """All that the memory backend knows of one queue."""

    def __init__(self, queue: str, lock: threading.RLock, records: Records) -> None:
        self.queue = queue
        self.records = records
        self.ready = ReadyQueue(lock, records)
        self.holders: dict[Key, int] = {}  # the id of the unfinished job of each fingerprint
        self.paused = False
        self.blocked: list[int] = []  # how many jobs each waiting producer needs room for
        self.scheduled = 0  # waiting for their time
        self.held = 0  # waiting for others to end, or for a signal
        self.retrying = 0  # waiting for their next attempt
        self.running = 0
        self.succeeded = 0
        self.dead = 0
        self.cancelled = 0
        self.hashed = False  # the keys of `holders` are fingerprints
        self.frees_early = False  # there are jobs that are unique until started
        self.plenty: float = 0  # up to so many ready jobs there is room, whatever the runners hold

    def key(self, job: Job) -> Key:
        """What stands for a job's fingerprint here: mostly the payload itself, which spares the hashing.

        A custom fingerprint could equal another job's hash only if it looks like one; from the first such
        on, this queue compares the real fingerprints.
        """
        own = job.own_fingerprint
        if self.hashed:
            return job.fingerprint
        if own is None:
            return job.body  # type: ignore[return-value]
        if len(own) == 32:
            self._hash()
        return own

    def _hash(self) -> None:
        """Compare fingerprints from now on."""
        holders: list[Any] = [self.records[job_id] for job_id in self.holders.values()]
        holders = [job_of(holder) if holder.__class__ is tuple else holder for holder in holders]
        self.holders.clear()  # in place: a caller may have the dict in its hand
        self.holders.update((holder.fingerprint, holder.id) for holder in holders)
        self.hashed = True

    def holder(self, fingerprint: str) -> int | None:
        """The unfinished job that has a fingerprint."""
        if len(fingerprint) == 32 and not self.hashed and fingerprint not in self.holders:
            self._hash()  # it may be the hash of a payload
        return self.holders.get(fingerprint)

    def free(self, job: Job) -> None:
        """Give up a job's fingerprint, if it is still the one that has it."""
        key = self.key(job)
        if self.holders.get(key) == job.id:
            del self.holders[key]

    def record(self, job_id: int) -> Job | None:
        """A job's record, to be changed: one that is plain is so no longer."""
        job = self.records.get(job_id)
        if job.__class__ is not tuple:
            return job  # type: ignore[return-value]
        record = job_of(job)
        self.ready.swap(record)
        return record

    def waits(self, job: Job, one: int) -> None:
        """Count a job in (1) or out (-1) that waits for its time."""
        if job.held is not None:
            self.held += one
        elif job.status is Status.RETRYING:
            self.retrying += one
        else:
            self.scheduled += one

    def counts(self) -> QueueCounts:
        """The queue in numbers."""
        return QueueCounts(
            self.queue,
            ready=len(self.ready),
            scheduled=self.scheduled,
            retrying=self.retrying,
            running=self.running,
            succeeded=self.succeeded,
            dead=self.dead,
            cancelled=self.cancelled,
            paused=self.paused,
            held=self.held,
        )


class FutureJobs:
    """Jobs whose time has not come.

    Far ones lie in a heap that the scheduler thread looks at every ``interval``; those due within the
    window move to the near heap, whose head has one armed timer. So a wake costs what is due, and a
    million waiting jobs cost no thread.
    """

    def __init__(
        self,
        lock: threading.RLock,
        records: Records,
        clock: Clock,
        *,
        interval: float,
        window: float,
        release: Callable[[], None],
        log: Logger,
    ) -> None:
        self._lock = lock
        self._records = records
        self._clock = clock
        self._interval = interval
        self._horizon = max(window, 2 * interval)  # whatever the window, nobody is promoted too late
        self._release = release
        self._far: list[Entry] = []
        self._near: list[Entry] = []
        self._serial = itertools.count()
        self._void = 0
        self._timer = HeadTimer(clock, release, log)
        self._scheduler = Loop("neoq-scheduler", self._watch, log)
        self._drift = clock.time() - clock.monotonic()
        self._held = False

    def push(self, job: Job, at: float | None = None) -> None:
        """Record a job, and let it wait for its time, or for another one."""
        job.waits = True
        due: float = job.due if at is None else at  # type: ignore[assignment]
        entry = (due, next(self._serial), job)
        heap = self._far if due - self._clock.time() > self._horizon else self._near
        self._records[job.id] = job
        heappush(heap, entry)
        if heap is self._near and self._near[0] is entry:
            self._arm()
        if not self._scheduler.wanted:
            self._start()

    def pop_due(self) -> list[Job]:
        """Remove and return the jobs whose time has come, in its order."""
        now = self._clock.time()
        self._promote(now)
        due = []
        near = self._near
        while near and near[0][0] <= now:
            job = heappop(near)[-1]
            if self._void and _is_void(job, self._records):
                self._void -= 1
            else:
                job.waits = False
                due.append(job)
        self._arm()
        return due

    def _promote(self, now: float) -> None:
        far, near, until = self._far, self._near, now + self._horizon
        while far and far[0][0] <= until:
            heappush(near, heappop(far))

    def next_due(self) -> float | None:
        """When the next one is due, or None (a void entry may be taken for one)."""
        near, far = self._near, self._far
        if near and far:
            return min(near[0][0], far[0][0])
        return near[0][0] if near else far[0][0] if far else None

    def void(self, job_id: int, record: Job | None) -> None:
        """Count one entry out, whose job has another record now, or none."""
        if record is None:
            del self._records[job_id]
        else:
            self._records[job_id] = record
        self._void += 1
        if self._void > _SPARE and self._void * 2 > len(self._far) + len(self._near):
            for heap in (self._far, self._near):
                heap[:] = [entry for entry in heap if not _is_void(entry[-1], self._records)]
                heapify(heap)
            self._void = 0

    def hold(self, held: bool) -> None:
        """Let nobody but the caller of `pop_due` look at the time, or go on."""
        self._held = held
        self._timer.arm(None)
        if not held and (self._near or self._far):
            self._start()
            self._arm()

    def close(self) -> None:
        """Stop both threads and wait for them; called without the lock."""
        self._timer.cancel()
        self._scheduler.close()
        self._timer.join(1.0)
        self._scheduler.join(1.0)

    def _arm(self) -> None:
        if not self._held:
            self._timer.arm(self._near[0][0] if self._near else None)

    def _start(self) -> None:
        if self._held:
            return
        self._arm()
        self._timer.start()
        self._scheduler.start()

    def _watch(self) -> float:
        """Promote far jobs, and notice a wall clock that was set, every ``interval``."""
        with self._lock:
            self._promote(self._clock.time())
            drift = self._clock.time() - self._clock.monotonic()
            jumped, self._drift = abs(drift - self._drift) > 0.001, drift
            if jumped or self._near:
                self._arm()
        return self._interval


class HeadTimer(Loop):
    """One timer for the head of a heap: it can be set to another time while it waits.

    A Timer for each job would be a thread for each job.
    """

    def __init__(self, clock: Clock, release: Callable[[], None], log: Logger) -> None:
        super().__init__("neoq-timer", self._look, log)
        self._clock = clock
        self._release = release
        self._due: float | None = None

    def arm(self, due: float | None) -> None:
        """Fire at ``due`` (seconds since the epoch), or never."""
        self._due = due
        self.wake()

    def cancel(self) -> None:
        """Let the thread end."""
        self.close()

    def _look(self) -> float | None:
        """Release the head if its time has come; the wall clock is read at each turn."""
        due = self._due
        left = None if due is None else due - self._clock.time()
        if left is not None and left <= 0:
            self._release()
            return 0.0
        return left
