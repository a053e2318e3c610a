"""SqliteStore: what is done to jobs in a SQLite file, in terms of the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import neoq.sqlite.add as sqlite_add
import neoq.sqlite.claim as sqlite_claim
import neoq.sqlite.find as sqlite_look
import neoq.sqlite.operate as sqlite_operate
import neoq.sqlite.settle as sqlite_settle
from neoq.audit import KEPT, AuditEntry
from neoq.capacity import Room, bounds_of, new_of, no_room, refuse_too_many, wanted_of
from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.filter import ALL, Filter
from neoq.job import Job
from neoq.outcome import Lease, Outcome
from neoq.record import Status
from neoq.schedules import Listed
from neoq.series import Increment, SeriesPoint
from neoq.sqlite.alive import Seen, Sign
from neoq.sqlite.config import SqliteConfig
from neoq.sqlite.ear import SqliteEar
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.holding import HoldingInSqlite
from neoq.sqlite.locks import locks_for
from neoq.sqlite.operate import PRUNED_AT_ONCE
from neoq.sqlite.session import Session
from neoq.sqlite.settle import HeldLease
from neoq.sqlite.transactions import write_within
from neoq.store import (
    SCHEDULES_KEPT,
    Action,
    Changed,
    Claimed,
    Demand,
    Ear,
    Extended,
    Notify,
    Page,
    QueueCounts,
    Reclaimed,
    Tick,
    WorkerInfo,
)
from neoq.stored import Reported, number_in
from neoq.threads.loop import Loop
from neoq.times import to_datetime

if TYPE_CHECKING:
    import sqlite3

T = TypeVar("T")

LOOK_EVERY = 0.02  # seconds between looks whether another process has written
LOOK_AT_REST = 0.04  # where none has for a second
SIGNS_OF_LIFE_EVERY = 1.0  # seconds between looks whether a worker has died
WATCH_AGAIN = (1.0, 5.0)  # seconds between attempts where the file cannot be read


class SqliteStore(HoldingInSqlite):
    """What is done to jobs in a SQLite file."""

    config: SqliteConfig
    features: ClassVar[frozenset[str]] = frozenset(
        {"durable", "shared", "transactions", "batches", "steps", "limits", "rates"}
    )

    def new_token(self) -> bytes:
        """None: no reply of a local file can be lost."""
        return b""

    # -- open and close ---------------------------------------------------------------------------------

    def open_store(self, notify: Notify) -> None:
        """Open the file, and make or migrate its tables."""
        config, file = self.config, self._new_file()
        file.open()
        self._notify = notify
        self._file = file
        self._locks = locks_for(file.path, self.context.worker_id)
        file.fork_hook = self._locks.let_go
        self._reported = Reported(config.log)
        self._room = Room()
        self._leases_seen, self._beats_seen = Seen[HeldLease](), Seen[tuple[str, float]]()
        self._seen_version, self._looked, self._look_every, self._wrote = -1, 0.0, LOOK_EVERY, False
        self._told: set[int] = set()
        self._limited: Collection[str] = ()  # queues that have limits, as of the last claim
        self._watcher = Loop(
            "neoq-watcher", self._look_around, config.log, away=self._say_unwatched, pauses=WATCH_AGAIN
        )

    def _new_file(self) -> SqliteFile:
        config = self.config
        return SqliteFile(
            config.path,
            synchronous=config.synchronous,
            busy_timeout=config.busy_timeout,
            file_mode=config.file_mode,
            session_on=self._session_on,
            on_replaced=self._say_replaced,
        )

    def migration(self) -> list[str]:
        """The statements by which `open_store` would make or update the tables now."""
        return self._new_file().missing()

    def stop_waiting(self) -> None:
        """End every add that waits for room."""
        self._room.refuse()

    def close_store(self) -> None:
        """Leave the workers, and close the connections."""
        self.stop_waiting()
        self._watcher.close(1.0)
        try:
            if self._locks.held and self._file.is_there():  # a producer is not registered as a worker
                self._write(
                    lambda session: sqlite_operate.leave(session, [self._locks.worker]), durable=False
                )
        finally:
            self._locks.release()
            self._file.close()

    # -- faults, for `neoq.testing.Faults` --------------------------------------------------------------

    def break_connections(self) -> None:
        """Close the connections to the file."""
        self._file.break_connections()

    def drop_worker_lock(self) -> None:
        """Free the lock of this worker as its death does."""
        self._locks.let_go()

    def pause_commits(self) -> AbstractContextManager[Callable[[], int]]:
        """Let writes gather inside the block; yields a count of those that wait."""
        return self._file.pause_commits()

    def _session_on(self, cursor: sqlite3.Cursor) -> Session:
        return Session(cursor, self.config, self.clock)

    def _say_replaced(self, path: str) -> None:
        self.config.log.warning("%s was replaced while it was open: the new file is used from here on", path)

    # -- enqueue ----------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs; see `Store.add`. ``transaction`` is a sqlite3.Connection to the same file."""
        if transaction is not None:
            return write_within(
                self._file, transaction, lambda session: self._add_joined(session, jobs, token)
            )
        capacities = bounds_of(jobs, self.context)
        if len(jobs) == 1 and not ((jobs[0].special and not jobs[0].is_call) or capacities or token):
            # The hot path of enqueue: between two waits for the disk every call and lookup is paid twice.
            added = [self._file.write(partial(sqlite_add.add_or_meet, jobs[0]))]
            self._notify(jobs[0].queue, "ready")
            return added
        if capacities:
            added = self._add_bounded(jobs, token, capacities)
        else:
            added = self._write(lambda session: sqlite_add.add(session, jobs, token))
        for queue in {job.queue for job in jobs}:
            self._notify(queue, "ready")
        return added

    def _add_joined(self, session: Session, jobs: Sequence[Job], token: bytes) -> list[Job]:
        """Do not wait for room here: the caller's open transaction may be what blocks it."""
        capacities = bounds_of(jobs, self.context)
        full = self._full_queue(session, jobs, capacities)
        if full is not None:
            raise no_room(full, capacities[full])
        return sqlite_add.add(session, jobs, token)

    def _full_queue(self, session: Session, jobs: Sequence[Job], capacities: dict[str, int]) -> str | None:
        """The name of a queue without room for what a batch brings it; QueueFullError if it never has."""
        free = {queue: limit - self.context.handed_over(queue) for queue, limit in capacities.items()}
        if sqlite_add.full_queue(session, wanted_of(jobs, free), free) is None:
            return None
        new = new_of(jobs, free, sqlite_add.duplicates(session, jobs))
        refuse_too_many(new, capacities)
        return None if self.context.in_runner() else sqlite_add.full_queue(session, new, free)

    def _add_bounded(self, jobs: Sequence[Job], token: bytes, capacities: dict[str, int]) -> list[Job]:
        """Add where there is room, or wait for it."""

        def try_to_add(session: Session) -> tuple[list[Job], str | None]:
            full = self._full_queue(session, jobs, capacities)
            return ([], full) if full is not None else (sqlite_add.add(session, jobs, token), None)

        return self._room.add(lambda: self._write(try_to_add), capacities, self.config.enqueue_timeout)

    # -- cron -------------------------------------------------------------------------------------------

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job in one transaction; capacity does not hold it back."""
        what = self._write(lambda session: sqlite_add.add_tick(session, cron, tick, job))
        if what is Tick.NEW:
            self._notify(job.queue, "ready")
        return what

    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in any process."""
        rows = self._file.read("select tick from neoq_ticks where cron = ?", (cron,))
        return to_datetime(number_in(rows[0][0])) if rows else None

    def list_schedules(self, schedules: Mapping[str, bytes]) -> None:
        """Keep what this process says of its schedules."""
        self._write(lambda session: sqlite_operate.list_schedules(session, schedules), durable=False)

    def schedules(self) -> list[Listed]:
        """The schedules that were listed within a day."""
        return sqlite_look.schedules(self._file, self.clock.time() - SCHEDULES_KEPT)

    # -- claim and settle -------------------------------------------------------------------------------

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take ready jobs, best first, under this worker's lock."""
        worker = self._locks.hold()
        ended: list[Job] = []

        def take(session: Session) -> tuple[list[Job], float | None, Collection[str], set[str]]:
            ended.clear()  # it may be called again
            return *sqlite_claim.claim(session, demand, worker, ended), session.released

        jobs, due, self._limited, released = self._write(take, durable=False)
        self._tell_released(released)
        for job in ended:
            self._reported.tell(job)
        if jobs:
            self._room.make_known()
        now = self.clock.time()
        return Claimed(jobs, to_datetime(due), to_datetime(now))  # type: ignore[arg-type]

    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record how attempts ended, in one transaction: our own, or the caller's."""
        undone = self.context.undone
        if transaction is not None:
            return write_within(
                self._file,
                transaction,
                lambda session: sqlite_settle.settle(session, outcomes, undone, completed=True),
            )
        stale, released, stops = self._write(
            lambda session: (
                sqlite_settle.settle(session, outcomes, undone),
                session.released,
                session.stops,
            )
        )
        if stops:
            self._tend()
        if self._limited:  # one that has ended may let another one start
            released = released.union(outcome.lease.queue for outcome in outcomes)
        for queue in {
            *released,
            *(outcome.lease.queue for outcome in outcomes if outcome.status not in _LEAVES_NOTHING),
            *(job.queue for outcome in outcomes for job in outcome.follow),
        }:
            self._notify(queue, "ready")
        return stale

    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases; tell which are lost, and whose job was cancelled."""
        if not leases:
            return Extended(set(), set())
        return self._write(lambda session: sqlite_settle.extend(session, leases), durable=False)

    def reclaim(self) -> Reclaimed:
        """Take the jobs of workers whose lock is free, or that did not renew their leases."""
        rows = self._file.read("select worker, id, token, lease_until from neoq_jobs where state = 2")
        self._end_never_due()
        beats = self._file.read("select id, beat_at from neoq_processes")
        now, lease = self.clock.monotonic(), self.config.lease
        left = self._leases_seen.unchanged({row[1:] for row in rows}, now, lease)
        silent = {worker for worker, _ in self._beats_seen.unchanged({*beats}, now, lease)}
        known = {row[0] for row in (*rows, *beats)}
        signs = {worker: self._locks.sign_of(worker) for worker in known}
        dead = {worker for worker, sign in signs.items() if sign is Sign.DIED}
        gone = {worker for worker in silent if signs[worker] is Sign.UNKNOWN}
        reclaimed = Reclaimed([], [])
        if dead or left:
            reclaimed = self._write_and_tell(lambda session: sqlite_settle.reclaim(session, dead, left))
        if gone:
            self._write(lambda session: sqlite_operate.leave(session, gone), durable=False)
        self._locks.sweep(known - dead - gone)
        for queue in {job.queue for job in reclaimed.returned}:
            self._notify(queue, "ready")
        return reclaimed

    def _end_never_due(self) -> None:
        """Let jobs be dead whose time is no number: no claim would ever reach them."""
        queues = [queue for (queue,) in self._file.read(_NEVER_DUE)]
        if queues:
            for job in self._write(lambda session: sqlite_claim.end_never_due(session, queues)):
                self._reported.tell(job)

    def prune(self) -> int:
        """Forget finished jobs older than ``retention``, and the oldest beyond max_finished and max_dead."""
        self._write(sqlite_operate.forget_old, durable=False)
        pruned = self._write(lambda session: session.drop_surplus(), durable=False)
        # In parts, so that no commit blocks others for long.
        while (number := self._write(sqlite_operate.prune, durable=False)) == PRUNED_AT_ONCE:
            pruned += number
        return pruned + number

    def beat(self, worker: WorkerInfo) -> None:
        """Record the heartbeat of this process, and begin to watch what others do."""
        self._hold_still()
        if self.context.is_running():
            self._watcher.start()
        self._write(lambda session: sqlite_operate.beat(session, worker), durable=False)

    def _hold_still(self) -> None:
        """Take our lock again if it was lost; others can judge this worker by its heartbeats, too."""
        try:
            self._locks.hold_still()
        except BackendUnavailable as error:
            if not self._locks.held:
                raise
            self.config.log.warning(
                "the lock file that shows others that this worker is alive is gone: %s", error
            )

    def workers(self) -> list[WorkerInfo]:
        """The processes that listen on this file and are alive."""
        heard_since = self.clock.time() - self.config.lease
        return sqlite_look.workers(self._file, heard_since, self._locks.is_dead)

    # -- looking and operating --------------------------------------------------------------------------

    def find(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """Snapshots of jobs, newest first."""
        return sqlite_look.find(self._file, wanted, min(limit, sqlite_look.MOST), after, before)

    def find_brief(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """As `find`, without what may be large."""
        return sqlite_look.find(self._file, wanted, min(limit, sqlite_look.MOST), after, before, brief=True)

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        return sqlite_look.counts(self._file, self.clock.time())

    def waiting_kinds(self, queues: Sequence[str]) -> dict[tuple[str, str | None], int]:
        """How many jobs of each queue and kind wait."""
        return sqlite_look.waiting_kinds(self._file, queues)

    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        ids = list(job_ids)
        if not ids:
            return Changed()
        changed = self._write_and_tell(lambda session: sqlite_operate.change(session, ids, action))
        self._room.make_known()
        for queue in changed.queues:
            self._notify(queue, "ready")
        return changed

    def set_paused(self, queue: str, paused: bool) -> None:
        """Pause or resume a queue."""
        self._write(lambda session: sqlite_operate.set_paused(session, queue, paused))
        self._notify(queue, "pause" if paused else "ready")

    def add_audit(self, entry: AuditEntry) -> None:
        """Keep what somebody did."""
        self._write(lambda session: sqlite_operate.add_audit(session, entry))

    def audit(self, *, limit: int, before: int | None = None) -> list[AuditEntry]:
        """What was done, newest first."""
        return sqlite_look.audit(self._file, min(limit, sqlite_look.MOST), before, self.clock.time() - KEPT)

    def add_series(self, increments: Sequence[Increment], *, serial: int) -> None:  # noqa: ARG002
        """Add what this process has counted, in one transaction: no reply can be lost."""
        self._write(lambda session: sqlite_operate.add_series(session, increments), durable=False)

    def series(self, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
        """What jobs came to over time."""
        return sqlite_look.series(self._file, queue, since, seconds)

    def open_ear(self) -> Ear:
        """Watch the file for commits, whoever makes them."""
        return SqliteEar(self._file)

    # -- watching other processes -----------------------------------------------------------------------

    def _look_around(self) -> float:
        """Notice within moments what other processes do: new jobs, cancellations, their death."""
        [(now,)] = self._file.read("pragma data_version")
        if now != self._seen_version:
            self._wrote, self._look_every = True, LOOK_EVERY
            self._notify("", "ready")
            self._told = self._tell_of_cancelled(self._told)
            self._seen_version = now
        if machine.monotonic() - self._looked > SIGNS_OF_LIFE_EVERY:
            self._looked = machine.monotonic()
            self._look_every, self._wrote = LOOK_EVERY if self._wrote else LOOK_AT_REST, False
            self._look_for_dead()
        return self._look_every

    def _say_unwatched(self, error: BackendError, pause: float) -> None:  # noqa: ARG002
        self.config.log.warning("cannot watch the file for changes: %s", error)

    def _tell_of_cancelled(self, told: set[int]) -> set[int]:
        rows = self._file.read(
            "select token, queue from neoq_jobs where cancel = 1 and worker = ?", (self._locks.worker,)
        )
        for token, queue in rows:
            if token not in told:
                self._notify(queue, "cancel")
        return {token for token, _ in rows}

    def _look_for_dead(self) -> None:
        workers = self._file.read("select distinct worker from neoq_jobs where state = 2")
        if any(self._locks.is_dead(worker) for (worker,) in workers):
            self._notify("", "cancel")  # a call of the heartbeat, which reclaims


_NEVER_DUE = (
    "select queue from (select distinct queue from neoq_counts where kind in (1, 2)) as waiting"
    " where exists (select 1 from neoq_jobs where state = 1 and queue = waiting.queue and run_after >= '')"
)
_LEAVES_NOTHING = frozenset({Status.SUCCEEDED, Status.DEAD, Status.CANCELLED})
