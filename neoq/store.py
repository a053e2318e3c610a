"""The seam: what a backend does, and nothing about how. All policy is above it.

A store keeps jobs, claims them and settles them; it starts no handler and decides no retry.
Payloads, results and failures are opaque bytes to it. `neoq.testing.BackendConformance` holds an
implementation to every sentence of this file.
"""

from __future__ import annotations

import abc
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

from neoq.audit import AuditEntry, Entries
from neoq.batch import must_not_meet, refuse_taken_uids, taken_by
from neoq.filter import ALL, Filter
from neoq.held.seam import HoldingStore
from neoq.job import Job
from neoq.outcome import Failure, Lease, Outcome, Successes, lease_of, record_crash, record_outcome
from neoq.record import Status
from neoq.schedules import Listed
from neoq.series import Increment, RecentSeries, SeriesPoint
from neoq.threads.reentry import GUARDED, guarded

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config

__all__ = [  # for those who write stores: see docs/writing-a-backend.md
    "ANNOUNCED_AT_ONCE",
    "KINDS_LOOKED_AT",
    "SCHEDULES_KEPT",
    "Action",
    "Changed",
    "Claimed",
    "Demand",
    "DirectStore",
    "Ear",
    "Extended",
    "Failure",
    "Lease",
    "Notice",
    "Notify",
    "Outcome",
    "Page",
    "QueueCounts",
    "Reclaimed",
    "Store",
    "StoreContext",
    "Successes",
    "ThreadInfo",
    "Tick",
    "WorkerInfo",
    "lease_of",
    "must_not_meet",
    "record_crash",
    "record_outcome",
    "refuse_taken_uids",
    "taken_by",
    "warn_of_dropped",
]

_BEYOND = 2**63 - 1  # all ids
Notice = Literal["ready", "called", "cancel", "pause"]
Notify = Callable[[str, Notice], None]
Action = Literal["cancel", "retry", "delete", "run"]
SCHEDULES_KEPT = 86400.0  # seconds since a process has listed them
KINDS_LOOKED_AT = 10_000  # waiting jobs of a queue whose kinds are counted
ANNOUNCED_AT_ONCE = 300  # ids, at most, of one call of `Store.ask` or `Store.announce`


class Demand(NamedTuple):
    """How many jobs of a queue could be run now; ``kinds`` None takes any."""

    queue: str
    limit: int
    kinds: frozenset[str] | None = None


class Claimed(NamedTuple):
    """Jobs that are ours to run, each with its `Lease`; ``next_due`` is when the next unclaimed one is due.

    ``next_due`` at or before ``now`` means that more are ready; None that nothing waits. ``now`` is the
    store's own clock.
    """

    jobs: list[Job]
    next_due: datetime | None
    now: datetime


class Page(NamedTuple):
    """Jobs, newest first, and the id at which to go on looking: None where there is no other job."""

    jobs: list[Job]
    rest: int | None = None


class Extended(NamedTuple):
    """What a heartbeat learned: ids of leases lost, and of jobs cancelled while they run."""

    lost: set[int]
    cancelled: set[int]


class Reclaimed(NamedTuple):
    """Jobs taken from workers that died: ``returned`` are ready again, ``dead`` crashed once too often."""

    returned: list[Job]
    dead: list[Job]


class Tick(StrEnum):
    """What became of a cron tick."""

    NEW = "new"
    SKIPPED = "skipped"  # its predecessor is unfinished
    EXISTS = "exists"  # another process was first


@dataclass(frozen=True)
class ThreadInfo:
    """One thread of a worker that takes jobs of a queue, and the job that it runs, if any, since when.

    An abandoned one was interrupted and did not stop: the attempt is over, and the thread hangs still.
    """

    queue: str
    job_id: int | None = None
    kind: str | None = None
    since: datetime | None = None
    abandoned: bool = False


@dataclass(frozen=True)
class WorkerInfo:
    """One process that listens: where it runs, what it serves, when it was last heard of.

    ``kinds`` has for each queue the kinds of job that are run there, None where every kind is. ``version`` is
    that of neoq. ``threads`` are at most the first 100 of those that take jobs: abandoned ones first, then
    those whose job has run longest, and those that wait last. ``memory`` is what the process has in RAM, in
    bytes, where the system tells it; ``abandoned`` how many threads hang.
    """

    id: str
    host: str
    pid: int
    started_at: datetime
    beat_at: datetime
    queues: tuple[str, ...] = ()
    running: int = 0
    kinds: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict, hash=False)
    version: str = ""
    threads: tuple[ThreadInfo, ...] = ()
    memory: int | None = None
    abandoned: int = 0


@dataclass(frozen=True)
class QueueCounts:
    """The jobs of one queue, counted by where they are in their life.

    ``held`` are jobs that wait for others to end, or for a signal.
    ``unknown`` has the kinds of waiting jobs that no live worker runs, and how many of each; "(none)" stands
    for jobs without a kind. ``oldest_due`` is when the oldest ready job became due, ``oldest_started`` when
    the longest running one was started; None where there is none. ``counted_at`` is when the jobs were
    counted, None for just now. Counts with the same numbers are equal, whatever their times.
    """

    queue: str
    ready: int = 0
    scheduled: int = 0
    retrying: int = 0
    running: int = 0
    succeeded: int = 0
    dead: int = 0
    cancelled: int = 0
    paused: bool = False
    unknown: Mapping[str, int] = field(default_factory=dict, hash=False)
    held: int = 0
    oldest_due: datetime | None = field(default=None, compare=False)
    oldest_started: datetime | None = field(default=None, compare=False)
    counted_at: datetime | None = field(default=None, compare=False)

    @property
    def unfinished(self) -> int:
        """Jobs that have not ended."""
        return self.ready + self.scheduled + self.retrying + self.running + self.held


@dataclass(frozen=True)
class Changed:
    """What an operation did: the ids it changed at once, and those running here or elsewhere."""

    done: frozenset[int] = frozenset()
    running: frozenset[int] = frozenset()
    queues: frozenset[str] = field(default=frozenset())

    def __or__(self, other: Changed) -> Changed:
        """What two operations did together."""
        return Changed(self.done | other.done, self.running | other.running, self.queues | other.queues)


@dataclass(frozen=True)
class StoreContext:
    """What a store may ask of the process that uses it.

    ``worker`` describes this process; its id stays the same until a fork. ``is_running`` tells whether this
    process runs jobs, ``in_runner`` whether the calling thread does, which then must not wait for room.
    ``capacity_of`` a queue is how many ready jobs it may hold, None without a bound; ``handed_over`` how many
    jobs of it were claimed here and have not started. ``may_enqueue_while_closing`` tells whether the calling
    thread runs a job, and so may still enqueue. ``takes`` tells whether a job that is ready now in a queue
    would be claimed by this process. ``asked`` takes, from any thread, the ids of a `Store.ask` of
    another process, and whether that wants to hear of every change. A store that can announce an end in the
    commit that records it asks ``ends_asked_for`` which to announce, and tells ``announced`` which it has.
    A store with transactions tells ``undone`` of an outcome with the failure `ROLLED_BACK` that it records.
    """

    clock: Clock
    worker: Callable[[], WorkerInfo]
    is_running: Callable[[], bool]
    in_runner: Callable[[], bool]
    asked: Callable[[Sequence[int], bool], None]
    ends_asked_for: Callable[[Sequence[Outcome]], list[int]]
    announced: Callable[[Sequence[int]], None]
    capacity_of: Callable[[str], int | None]
    handed_over: Callable[[str], int]
    may_enqueue_while_closing: Callable[[], bool]
    takes: Callable[[str], bool]
    undone: Callable[[Outcome], None]

    @property
    def worker_id(self) -> str:
        """The id of this process among those that share the store."""
        return self.worker().id


class Ear(Protocol):
    """Hears in this process which jobs have changed; used by one thread. Its errors are BackendErrors."""

    def hear(self, seconds: float) -> set[int] | None:
        """Ids of jobs that have changed, as soon as there are any; empty after ``seconds``.

        None: any job may have changed, and workers may not know what was asked. So says the first call.
        """

    def close(self) -> None:
        """Hear no more, and disconnect."""


class Store(HoldingStore, abc.ABC):
    """The operations that keep jobs. A backend makes one, and its engine drives it.

    Only BackendError (and what a method names) escapes, the driver's own exception chained. Only ``add``
    may block. ``notify`` may be called from any thread, spuriously or not at all: correctness never
    depends on it, latency does.
    """

    features: ClassVar[frozenset[str]] = frozenset()
    """What it offers beyond the contract: ``local`` (claim and settle cost no round trip, so runners call
    them directly), ``durable``, ``shared``, ``transactions``; and of `neoq.held.seam` ``batches``, ``steps``,
    ``limits`` and ``rates``. What is not there raises UnsupportedError."""

    announces: ClassVar[bool] = False
    """Whether `ask` and `announce` reach other processes. Where they do not, `open_ear` may still tell that
    something has changed; without that, a process that waits for a job polls."""

    config: Config

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name in GUARDED:
            if name in vars(cls):
                setattr(cls, name, cls._guard(vars(cls)[name]))

    @staticmethod
    def _guard(method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that is never waited for in the middle of another in the same thread."""
        return guarded(method)

    def __init__(self, config: Config, context: StoreContext) -> None:
        self.config = config
        self.clock = context.clock
        self.inside: set[int] = set()  # the threads that are in a call: see `guarded`
        self.context = context
        self._entries = Entries()
        self._series = RecentSeries()

    @abc.abstractmethod
    def open_store(self, notify: Notify) -> None:
        """Connect, and call ``notify(queue, notice)`` whenever something there may have changed.

        "called" is "ready" from a thread of the store's own, which may be used to claim.
        """

    def migration(self) -> list[str]:
        """The statements by which `open_store` would make or update the tables now; called before it.

        Without any where there are no tables, or they are up to date. Nothing is changed.
        """
        return []

    @abc.abstractmethod
    def close_store(self) -> None:
        """Release everything; called once, after the last settle."""

    def stop_waiting(self) -> None:  # most stores never wait
        """End every ``add`` that waits for room, with BackendClosedError: the backend is being shut down."""

    def stop_claiming(self, timeout: float) -> None:  # most claims take no time
        """Break off a claim that is under way, in at most ``timeout`` seconds: its jobs are not taken."""

    @abc.abstractmethod
    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs atomically and in order, and return a snapshot of each accepted one.

        A job whose fingerprint an unfinished job of its queue has is not stored: the one already there is
        returned with ``duplicate=True`` (or as ``on_duplicate`` says). A repeated call with the same
        non-empty token adds nothing and returns the same jobs.
        """

    def new_token(self) -> bytes:
        """A token for `add`; empty where no reply can be lost, and so no call is repeated."""
        return b"" if "local" in self.features else os.urandom(16)

    @abc.abstractmethod
    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record that a cron fired and add its job, in one atomic step; one winner per (cron, tick)."""

    @abc.abstractmethod
    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick recorded for a cron, or None."""

    @abc.abstractmethod
    def list_schedules(self, schedules: Mapping[str, bytes]) -> None:
        """Keep what this process says of its schedules, by name; forget those not listed for a day."""

    @abc.abstractmethod
    def schedules(self) -> list[Listed]:
        """The schedules that were listed within a day, by name."""

    @abc.abstractmethod
    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take due jobs of unpaused queues, best first, never more than asked for, each with a new token."""

    @abc.abstractmethod
    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases and record progress; report those lost, and the jobs that were cancelled."""

    @abc.abstractmethod
    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record outcomes, each only under its current lease; return the ids of the stale ones."""

    @abc.abstractmethod
    def reclaim(self) -> Reclaimed:
        """Give back the jobs of workers that died, one crash charged; whoever knows their handler or not."""

    def open_ear(self) -> Ear | None:
        """Begin to hear which jobs change; called when somebody waits for one. None: nothing can be heard."""
        return None

    def ask(self, job_ids: Sequence[int], *, every_change: bool) -> None:  # see `announces`
        """Ask the workers to announce the end of these jobs, or every change of them.

        Each worker passes them on to ``context.asked``. A worker that begins to hear asks announces None.
        """

    def announce(self, job_ids: Sequence[int] | None) -> None:  # see `announces`
        """Tell every `Ear` that these jobs have changed; None: that any may have."""

    @abc.abstractmethod
    def prune(self) -> int:
        """Forget finished and dead jobs beyond what the settings keep; return how many."""

    @abc.abstractmethod
    def beat(self, worker: WorkerInfo) -> None:
        """Say that this process is alive."""

    @abc.abstractmethod
    def workers(self) -> list[WorkerInfo]:
        """The processes that are alive."""

    @abc.abstractmethod
    def find(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """Snapshots of the newest jobs with ids below ``after``, or of the oldest with ids above ``before``.

        At most ``limit`` of those that the filter takes. It looks at a bounded number of jobs, so there may
        be more although it found fewer: then `Page.rest` is what to give as ``after`` or ``before`` next.
        """

    def find_brief(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """As `find`, for lists: of a payload it may return the first `PREVIEW` + 1 bytes only.

        It may leave out results, tracebacks and attempts, too.
        """
        return self.find(wanted, limit=limit, after=after, before=before)

    def of_ids(self, ids: Collection[int]) -> list[Job]:
        """Snapshots of the jobs of these ids that exist, newest first."""
        return self.find(Filter(ids=ids), limit=len(ids)).jobs if ids else []

    @abc.abstractmethod
    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs, by name."""

    def waiting_kinds(self, queues: Sequence[str]) -> dict[tuple[str, str | None], int]:
        """How many jobs of each queue and kind wait; of a queue at most the first `KINDS_LOOKED_AT` count."""
        waiting: dict[tuple[str, str | None], int] = {}
        for queue in queues:
            wanted = Filter(queue=queue, statuses=frozenset({Status.PENDING, Status.RETRYING}))
            left, page = KINDS_LOOKED_AT, Page([], _BEYOND)
            while left > 0 and page.rest is not None:
                page = self.find(wanted, limit=left, after=page.rest)
                left -= len(page.jobs)
                for job in page.jobs:
                    waiting[queue, job.kind] = waiting.get((queue, job.kind), 0) + 1
        return waiting

    @abc.abstractmethod
    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel (a running one is only marked, and reported), retry now, or delete jobs.

        ``run`` makes due now what waits for a later time, and leaves all other jobs as they are.
        Raises DuplicateJobError for one job to retry whose fingerprint is taken; of several, such jobs are
        left as they are.
        """

    @abc.abstractmethod
    def set_paused(self, queue: str, paused: bool) -> None:
        """Let a queue's jobs be claimed, or not."""

    def add_audit(self, entry: AuditEntry) -> None:
        """Keep what somebody did, for `neoq.audit.KEPT` seconds: `prune` forgets what is older.

        The store gives the entry its id, above those of all before it, and the time of its own clock. By
        default the newest entries are kept in the memory of this process.
        """
        self._entries.add(entry, self.clock.time())

    def audit(self, *, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The newest entries, or the newest of those whose ids are below ``before``, newest first."""
        return self._entries.newest(limit, before, self.clock.time())

    def add_series(self, increments: Sequence[Increment], *, serial: int) -> None:  # noqa: ARG002
        """Add to the points of the minute that the store's clock shows, and of its ten minutes, atomically.

        ``serial`` counts these calls of a process: one whose outcome was unknown is repeated with the same,
        and must add nothing if the first did. `prune` forgets what is older than `neoq.series.KEPT`. By
        default the points are kept in the memory of this process.
        """
        self._series.add(increments, self.clock.time())

    def series(self, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
        """The points of one queue or all that last ``seconds`` (60 or 600) and end after ``since``.

        Oldest first, those of one time by queue. ``since`` is in seconds since the epoch.
        """
        return self._series.since(queue, since, seconds)


class DirectStore(Store):
    """A store in the memory of this process, where a call costs more than what it does.

    Measured for `MemStore`: an enqueue takes 2.9 us by `add_plain`, and 3.2 us (10% more) by `add`. To look
    for a job where there is none takes 0.6 us by `take`, and 2.7 us by `claim`; to find one 2.8 and 4.7 us.
    """

    @abc.abstractmethod
    def add_plain(self, queue: str, data: bytes, now: float) -> Job:
        """As `add`, for one job that is nothing but a queue and a payload (as JSON), due now: most are."""

    @abc.abstractmethod
    def add_call(self, queue: str, data: bytes, now: float, kind: str) -> Job:
        """As `add`, for one job that is nothing but the call of a task, and not unique."""

    @abc.abstractmethod
    def take(self, queue: str, limit: int, kinds: frozenset[str] | None) -> tuple[Sequence[Job], bool]:
        """As `claim`, for one queue: the jobs, and whether more are ready."""


def warn_of_dropped(config: Config, job_id: Any, queue: str) -> None:
    """Log that a dead job is forgotten since there are more than ``max_dead``."""
    config.log.warning(
        "dead job %s of %s is dropped: max_dead is %d; look at dead jobs, retry or delete them",
        job_id,
        queue,
        config.max_dead,
    )
