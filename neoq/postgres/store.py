"""PostgresStore: what is done to jobs in PostgreSQL, in terms of the files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import psycopg

import neoq.postgres.schema as postgres_schema
from neoq.audit import AuditEntry
from neoq.capacity import Room, bounds_of
from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.filter import ALL, Filter
from neoq.job import Job
from neoq.messages import text_of_ask, text_of_ids
from neoq.outcome import WORKER_DIED, Lease, Outcome
from neoq.postgres.add import Adder
from neoq.postgres.arrays import float8s, int8s, texts
from neoq.postgres.bounded import BoundedAdder
from neoq.postgres.claim import Claimer
from neoq.postgres.config import PostgresConfig
from neoq.postgres.connections import Connections, Values
from neoq.postgres.ear import PostgresEar
from neoq.postgres.find import Finder
from neoq.postgres.groups import Groups
from neoq.postgres.holding import PostgresHolding
from neoq.postgres.ledger import Ledger
from neoq.postgres.limits import LimitBook
from neoq.postgres.lines import Lines
from neoq.postgres.operate import Operator
from neoq.postgres.pruning import Pruner
from neoq.postgres.rows import job_of, text
from neoq.postgres.settle import Settlement
from neoq.postgres.signals import Signals
from neoq.postgres.spans import SpanAdder, have_spans
from neoq.postgres.statements import Statements, changes_channel_of
from neoq.postgres.steps import Steps
from neoq.postgres.transactions import Home, Transaction
from neoq.postgres.wake import Notifier, WorkerPresence, notification
from neoq.record import Status
from neoq.schedules import Listed
from neoq.series import Increment, SeriesPoint
from neoq.store import (
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

OWN_THREADS = 6  # that use the server: fetcher, settler, heartbeat, listener, notifier, progress writer
SERVER_EVERY = 0.2  # seconds between looks whether a server that is away is back
_LEAVES_NOTHING = frozenset({Status.SUCCEEDED, Status.DEAD, Status.CANCELLED})


class PostgresStore(PostgresHolding):
    """What is done to jobs in PostgreSQL."""

    config: PostgresConfig
    features: ClassVar[frozenset[str]] = frozenset(
        {"batches", "durable", "limits", "rates", "shared", "steps", "transactions"}
    )
    announces = True

    # -- open and close ---------------------------------------------------------------------------------

    def open_store(self, notify: Notify) -> None:
        """Connect, and make or migrate the tables."""
        config = self.config
        self._statements = Statements(config.schema)
        self._connections = Connections(config.url, size=config.pool_size, schema=config.schema)
        # Workers have their own connections, so blocked callers never delay leases, claims or settles.
        self._own = Connections(config.url, size=OWN_THREADS, schema=config.schema)
        self._notifier = Notifier(self._own, config.schema, config.log)
        self._adder = Adder(
            self._connections, self._statements, self._notifier, forgets=config.retention == 0
        )
        self._finder = Finder(self._connections, self._statements)
        self._spans = SpanAdder(self._statements, self._adder, self._finder)
        self._ledger = Ledger(self._connections, self._own, self._statements)
        self._steps = Steps(self._connections, self._own, self._statements)
        self._signals = Signals(self._connections, self._own, self._statements, config.log)
        self._limits = LimitBook(self._connections, self._own, self._statements)
        self._lines = Lines(self._connections, self._own, self._statements)
        self._pruner = Pruner(self._own, self._statements, self._steps, config)
        self._operator = Operator(
            self._connections, self._statements, self._finder, self._notifier, config.log
        )
        self._home = Home(self._connections)
        self._groups = Groups(
            self._connections,
            self._own,
            self._statements,
            adder=self._adder,
            notifier=self._notifier,
            ready=lambda queue: notify(queue, "ready"),
        )
        self._settlement = Settlement(
            self._own,
            self._statements,
            self._steps,
            keep=config.retention != 0,
            channel=changes_channel_of(config.schema),
            context=self.context,
        )
        try:
            self._look_at_server()
        except BaseException:
            self._close_connections()
            raise
        self._notify = notify
        self._tables_version = 0  # that was warned of
        self._room = Room()
        self._bounded = BoundedAdder(
            self._connections,
            self._statements,
            self._adder,
            self._spans,
            room=self._room,
            context=self.context,
            patience=config.enqueue_timeout,
        )
        self._open_worker(notify)

    def _open_worker(self, notify: Notify) -> None:
        """Make what only a process that runs jobs uses."""
        config = self.config
        self._worker = self.context.worker_id
        self._presence = WorkerPresence(
            self._own,
            self._statements,
            schema=config.schema,
            heartbeat=config.heartbeat,
            lease=config.lease,
            notify=notify,
            asked=self.context.asked,
            info=self.context.worker,
            log=config.log,
        )
        self._claimer = Claimer(
            self._own,
            self._statements,
            presence=self._presence,
            settlement=self._settlement,
            limits=self._limits,
            context=self.context,
            log=config.log,
        )

    def _look_at_server(self) -> None:
        """Refuse a server that is too old, and bring the tables up to date."""
        with self._connections.use() as connection:
            postgres_schema.refuse_old(connection, self._connections.where)
            if self.config.migrate:
                postgres_schema.migrate(connection, self.config.schema)
            else:
                postgres_schema.check(connection, self.config.schema)
        [(self._adder.last_id,)] = self._connections.read(self._statements.last_id)
        self._adder.queues = {row[0] for row in self._connections.read(self._statements.queues)}

    def migration(self) -> list[str]:
        """The statements by which `open_store` would make or update the tables now."""
        connections = Connections(self.config.url, size=1, schema=self.config.schema)
        try:
            with connections.use() as connection:
                return postgres_schema.script(connection, self.config.schema)
        finally:
            connections.close()

    def stop_waiting(self) -> None:
        """End every add that waits for room."""
        self._room.refuse()

    def stop_claiming(self, timeout: float) -> None:
        """Let the server break off a claim that is under way."""
        for statement in (self._statements.claim, self._statements.limited_claim):
            self._own.break_off(statement, timeout)

    def close_store(self) -> None:
        """Leave the workers, and close the connections."""
        self.stop_waiting()
        try:
            self._notifier.close()
            self._settle_left()
            if self._settlement.left:
                self.config.log.warning(
                    "%d jobs were completed in transactions that are still open; they settle when those end",
                    self._settlement.left,
                )
        finally:
            try:
                self._adder.close()
                self._presence.close(owes_nothing=not self._claimer.leased and not self._settlement.left)
            finally:
                self._close_connections()

    # -- faults, for `neoq.testing.Faults` --------------------------------------------------------------

    def break_connections(self) -> None:
        """Break every connection of this process."""
        for connections in (self._connections, self._own):
            connections.break_all()

    def drop_worker_lock(self) -> None:
        """Free the lock of this worker as its death does."""
        self._presence.let_go()

    def _close_connections(self) -> None:
        self._connections.close()
        self._own.close()

    def _execute(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        return self._connections.execute(statement, values)

    # -- enqueue ----------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs; see `Store.add`. ``transaction`` is a connection of the caller's to that database."""
        if transaction is not None:
            return self._bounded.join(self._home.join(transaction), jobs)
        if token:
            known = self._adder.known(token)
            if known is not None:
                return known
        added = (
            self._add(jobs, token) if not self.config.wait_for_server else self._add_patiently(jobs, token)
        )
        for queue in (jobs[0].queue,) if len(jobs) == 1 else {job.queue for job in jobs}:
            self._notify(queue, "ready")
        return added

    def _add(self, jobs: Sequence[Job], token: bytes) -> list[Job]:
        capacities = bounds_of(jobs, self.context)
        if capacities:
            return self._bounded.add(jobs, token, capacities)
        if have_spans(jobs):
            return self._spans.add(jobs, token)
        if len(jobs) == 1 and jobs[0].on_duplicate != "raise":
            return [self._adder.add_one(jobs[0], token)]
        return self._adder.add_many(jobs, token)

    def _add_patiently(self, jobs: Sequence[Job], token: bytes) -> list[Job]:
        """Add, and wait for a server that is away, unless it may have stored the jobs."""
        give_up = machine.monotonic() + self.config.wait_for_server
        while True:
            try:
                return self._add(jobs, token)
            except BackendUnavailable as error:
                if error.outcome_unknown or self._room.refusing or machine.monotonic() >= give_up:
                    raise
            self._room.pause(SERVER_EVERY)

    # -- cron -------------------------------------------------------------------------------------------

    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job in one transaction; capacity does not hold it back."""
        self._adder.name_queues({job.queue})  # on a connection of its own: before ours
        with self._connections.use() as connection, connection.transaction():
            joined = Transaction(self._connections, connection)
            if not self._ledger.tick(joined, cron, tick):
                return Tick.EXISTS
            [added] = self._adder.add_joined(joined, [job])
            self._ledger.ticked(joined, cron, None if added.duplicate else added.id)
        self._notify(job.queue, "ready")
        return Tick.SKIPPED if added.duplicate else Tick.NEW

    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in any process."""
        return self._ledger.last_tick(cron)

    def list_schedules(self, schedules: Mapping[str, bytes]) -> None:
        """Keep what this process says of its schedules."""
        self._ledger.list_schedules(schedules)

    def schedules(self) -> list[Listed]:
        """The schedules that were listed within a day."""
        return self._ledger.schedules()

    # -- claim and settle -------------------------------------------------------------------------------

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take ready jobs, best first, under this worker's lock."""
        if self._presence.signalled:
            self._presence.signalled = False
            self._heed()
        if self._presence.limited:
            self._limits.refresh()
            self._presence.limited = False
        claimed = self._claimer.claim(demand)
        if claimed.jobs:
            self._room.make_known()
        return claimed

    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record how attempts ended, each under its lease; in a transaction of our own, or the caller's."""
        if transaction is not None:
            return self._settlement.complete(self._home.join(transaction), outcomes)
        stale = self._settlement.settle(outcomes)
        self._claimer.leased.difference_update((lease.job_id, lease.token) for lease, *_ in outcomes)
        self._settle_left()
        self._pruner.trim_after({outcome.status for outcome in outcomes})
        for queue in {
            *(
                outcome.lease.queue
                for outcome in outcomes
                if outcome.lease.counted or outcome.status not in _LEAVES_NOTHING
            ),
            *(job.queue for outcome in outcomes for job in outcome.follow),
        }:
            self._notify(queue, "ready")
        if self._settlement.told:
            told, self._settlement.told = self._settlement.told, set()
            self._tell_ready(told)
        return stale

    def _settle_left(self) -> None:
        stale = self._settlement.settle_left()
        for job_id in stale:
            self.config.log.warning("job %s was settled elsewhere meanwhile: its outcome is dropped", job_id)

    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases; tell which are lost, and whose job was cancelled."""
        self._settle_left()
        completed = self._settlement.is_completed
        leases = [lease for lease in leases if not completed(lease.job_id, lease.token)]
        if not leases:
            return Extended(set(), set())
        progress = [lease.progress or (None, None) for lease in leases]
        reports = any(lease.progress is not None for lease in leases)
        rows = self._own.execute(
            self._statements.extend,
            {
                "worker": self._presence.number,
                "ids": int8s([lease.job_id for lease in leases]),
                "tokens": int8s([lease.token for lease in leases]),
                "fractions": float8s([fraction for fraction, _ in progress]) if reports else None,
                "texts": texts([text(words) for _, words in progress]) if reports else None,
            },
        )
        lost = {job_id for job_id, is_lost in rows if is_lost}
        return Extended(lost, {job_id for job_id, is_lost in rows if not is_lost})

    def reclaim(self) -> Reclaimed:
        """Take the jobs of workers whose heartbeat is late and whose lock is free, or is very late."""
        if not self._presence.may_judge():
            return Reclaimed([], [])
        values = {
            **self._presence.judged_by(),
            "uptime": 3 * self.config.heartbeat,
            "max_crashes": self.config.max_crashes,
            "why": WORKER_DIED,
        }
        try:
            rows = self._own.execute(self._statements.reclaim, values)
        except BackendError as error:
            if not isinstance(error.__cause__, psycopg.errors.NumericValueOutOfRange):
                raise
            self._own.execute(
                self._statements.bound_crashes
            )  # a script has written a number that cannot be counted up
            rows = self._own.execute(self._statements.reclaim, values)
        jobs = [job_of(row) for row in rows]
        returned = [job for job in jobs if not job.finished]
        if returned:
            queues = {job.queue for job in returned}
            self._claimer.scan_anew(queues)
            for queue in queues:
                self._notify(queue, "ready")
            self._notifier.notify_later(queues)
        return Reclaimed(returned, [job for job in jobs if job.status is Status.DEAD])

    def prune(self) -> int:
        """Forget finished jobs older than ``retention``, and the oldest beyond max_finished and max_dead."""
        return self._pruner.prune()

    def beat(self, worker: WorkerInfo) -> None:
        """Record the heartbeat of this process, and begin to listen for notifications."""
        if worker.id == self._worker:
            self._presence.hold()
            if self.context.is_running():
                self._presence.listen()
        self._presence.beat(worker)
        self._notice_newer_tables()
        self._settle_left()

    def _notice_newer_tables(self) -> None:
        """Warn once if a newer neoq has migrated the tables."""
        try:
            [(version,)] = self._own.execute(self._statements.version)
        except BackendError:  # no job depends on it
            return
        if version is not None and version > max(self._tables_version, postgres_schema.VERSION):
            self._tables_version = version
            self.config.log.warning(
                "the tables are of a newer neoq (version %d; this one knows %d): restart this process",
                version,
                postgres_schema.VERSION,
            )

    def workers(self) -> list[WorkerInfo]:
        """The processes that listen on this database and are alive."""
        return self._ledger.workers(self.config.lease)

    # -- jobs that other processes wait for -----------------------------------------------------------

    def open_ear(self) -> Ear | None:
        """Listen for the changes of jobs; None through a PgBouncer, which shares its sessions."""
        if not self._connections.direct:
            return None
        return PostgresEar(self._connections, changes_channel_of(self.config.schema))

    def ask(self, job_ids: Sequence[int], *, every_change: bool) -> None:
        """Notify all workers."""
        self._execute(*self._notifier.notification(text_of_ask(job_ids, every_change=every_change)))

    def announce(self, job_ids: Sequence[int] | None) -> None:
        """Notify the processes that wait for jobs."""
        self._execute(*notification(changes_channel_of(self.config.schema), text_of_ids(job_ids)))

    # -- looking and operating --------------------------------------------------------------------------

    def find(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """Snapshots of jobs, newest first."""
        return self._finder.find(wanted, limit, after, before)

    def find_brief(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """As `find`, without what may be large."""
        return self._finder.find(wanted, limit, after, before, brief=True)

    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        return self._finder.counts()

    def waiting_kinds(self, queues: Sequence[str]) -> dict[tuple[str, str | None], int]:
        """How many jobs of each queue and kind wait, of the first that will be claimed."""
        return self._finder.waiting_kinds(queues)

    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        changed = self._operator.change(sorted(set(job_ids)), action)
        self._room.make_known()
        self._groups.tend()
        for queue in changed.queues:
            self._notify(queue, "ready")
        return changed

    def set_paused(self, queue: str, paused: bool) -> None:
        """Pause or resume a queue."""
        self._operator.set_paused(queue, paused)
        self._notify(queue, "pause" if paused else "ready")

    def add_audit(self, entry: AuditEntry) -> None:
        """Keep what somebody did."""
        self._ledger.add_audit(entry)

    def audit(self, *, limit: int, before: int | None = None) -> list[AuditEntry]:
        """What was done, newest first."""
        return self._ledger.audit(limit, before)

    def add_series(self, increments: Sequence[Increment], *, serial: int) -> None:
        """Add what this process has counted, once for each serial."""
        self._ledger.add_series(increments, self.context.worker_id, serial)

    def series(self, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
        """What jobs came to over time."""
        return self._ledger.series(queue, since, seconds)
