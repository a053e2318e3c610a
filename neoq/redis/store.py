"""RedisStore: what is done to jobs in Redis, in terms of the files beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from neoq.audit import AuditEntry
from neoq.capacity import Room, bounds_of, closed, new_of, refuse_too_many, wanted_of
from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.filter import ALL, Filter
from neoq.job import Job
from neoq.messages import ask_in, text_of_ask, text_of_ids
from neoq.outcome import Lease, Outcome
from neoq.redis.add import Adder, NoRoom
from neoq.redis.alive import Workers
from neoq.redis.batches import BatchingStore
from neoq.redis.claim import Claims
from neoq.redis.config import RedisConfig
from neoq.redis.connection import RedisConnection
from neoq.redis.ear import RedisEar
from neoq.redis.find import Finder
from neoq.redis.groups import Groups
from neoq.redis.idle import IdleQueues
from neoq.redis.leases import Leased
from neoq.redis.ledger import Ledger
from neoq.redis.lines import LimitingStore, Lines
from neoq.redis.mending import Mender, is_wrong_type, mending
from neoq.redis.operate import Operator
from neoq.redis.outbox import Outbox
from neoq.redis.pruning import Pruner
from neoq.redis.queues import RedisQueues, check_layout
from neoq.redis.reclaim import Reclaimer
from neoq.redis.settle import Outcomes
from neoq.redis.steps import SteppingStore, Steps, no_transactions
from neoq.redis.sweep import Sweeper
from neoq.redis.tending import Tender
from neoq.redis.wake import Subscriber
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
    Store,
    Tick,
    WorkerInfo,
    warn_of_dropped,
)

ASKS, CHANGES = "asks", "changes"  # channels, beside those named after workers


class RedisStore(SteppingStore, BatchingStore, LimitingStore, Store):
    """What is done to jobs in Redis."""

    config: RedisConfig
    features: ClassVar[frozenset[str]] = frozenset(
        {"durable", "shared", "batches", "steps", "limits", "rates"}
    )
    announces = True

    # -- open and close ---------------------------------------------------------------------------------

    def open_store(self, notify: Notify) -> None:
        """Connect, and look whether the server may keep jobs."""
        config = self.config
        self._redis = connection = self._connect()
        self._notify = notify
        self._scripts = connection.scripts
        self._queues = RedisQueues(connection, config.prefix)
        before = machine.time()
        self._queues.learn_time(self._queues.ask_time(), before)
        self._finder = Finder(self._queues)
        sweeper = Sweeper(self._queues, self._finder)
        self._groups = Groups(self._queues, sweeper, config.log, self._tell_ready)
        self._operator = Operator(self._queues, self._finder, self._groups, sweeper)
        self._adder = Adder(self._queues, self._finder, self._groups)
        self._worker = self.context.worker_id
        self._workers = Workers(self._queues, config, self._worker, self.context.worker)
        self._subscriber = Subscriber(
            connection,
            self._queues.channel + self._worker,
            self._queues.channel + ASKS,
            on_wake=self._on_wake,
            on_ask=self._on_ask,
            on_reconnect=self._wake_all,
            log=config.log,
        )
        self._ledger = Ledger(self._queues)
        self._room = Room()
        self._mender = Mender(self._queues, config.log)
        self._idle = IdleQueues(self._queues, config.job_check_interval, self._hears)
        self._reclaimer = Reclaimer(
            self._queues, config, self._workers, self._finder, self._groups, ready=self._tell_ready
        )
        leased = Leased(self._queues)
        self._outbox = Outbox(self._queues, self._adder, self._groups, config.log, self._tell_ready)
        self._tender = Tender(self._queues, self._groups, self._outbox)
        self._outcomes = Outcomes(
            self._queues,
            config,
            self._worker,
            leased=leased,
            outbox=self._outbox,
            groups=self._groups,
            tell_ready=self._tell_ready,
        )
        self._steps = Steps(self._queues, self._worker, self._finder, self._tell_ready)
        self._lines = Lines(self._queues, self._finder, self._tell_ready)
        self._claims = Claims(
            self._queues,
            config,
            self._workers,
            self._worker,
            finder=self._finder,
            leased=leased,
            idle=self._idle,
            hears=self._hears,
            settle=self._settle,
            mend=self._mend,
        )

    def _connect(self) -> RedisConnection:
        config = self.config
        connection = RedisConnection(
            config.address(),
            socket_timeout=config.socket_timeout,
            wait_replicas=config.wait_replicas,
            tls=config.tls(),
            sentinel={"username": config.sentinel_username, "password": config.sentinel_password},
            log=config.log,
        )
        connection.open()
        try:
            check_layout(connection, config.prefix)
        except BaseException:
            connection.close()
            raise
        return connection

    def _hears(self) -> bool:
        return self._subscriber.subscribed

    def stop_waiting(self) -> None:
        """End every add that waits for room."""
        self._room.refuse()

    def close_store(self) -> None:
        """Leave the workers, and disconnect."""
        self.stop_waiting()
        self._subscriber.close()
        try:
            self._workers.leave()
        except BackendError as error:
            self.config.log.warning("this worker could not be removed from the server: %s", error)
        finally:
            self._redis.close()

    def break_connections(self) -> None:
        """Break the connections that no call is using, for `neoq.testing.Faults`."""
        self._redis.break_connections()

    # -- enqueue ----------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs; see `Store.add`. Up to 500 of one queue are stored all or none."""
        if transaction is not None:
            raise no_transactions("enqueue")
        try:
            job = jobs[0]
            if (
                token
                and len(jobs) == 1
                and job.group is None
                and not ((job.special and not job.is_call) or self.context.capacity_of(job.queue))
            ):
                return [self._add_plain(job, token)]
            return self._add(jobs, token)
        except BackendError as error:
            if not is_wrong_type(error):
                raise
            self._mend()
        return self._add(jobs, os.urandom(len(token)))  # the script that failed may have remembered the token

    def _add_plain(self, job: Job, token: bytes) -> Job:
        """The hot path of enqueue."""
        job = self._adder.add_plain(job, token)
        self._idle.mark_changed(job.queue)
        self._notify(job.queue, "ready")
        return job

    def _add(self, jobs: Sequence[Job], token: bytes) -> list[Job]:
        queues = {job.queue for job in jobs} if len(jobs) > 1 else (jobs[0].queue,)
        capacities = bounds_of(jobs, self.context)
        added = self._add_bounded(jobs, token, capacities) if capacities else self._adder.add(jobs, token, {})
        self._tell_ready(queues)
        return added

    def _tell_ready(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self._idle.mark_changed(queue)
            self._notify(queue, "ready")

    def _add_bounded(self, jobs: Sequence[Job], token: bytes, capacities: dict[str, int]) -> list[Job]:
        """Add where there is room, or wait for it."""

        def try_to_add() -> tuple[list[Job], str | None]:
            try:
                return self._add_where_room(jobs, token, capacities), None
            except NoRoom as full:
                return [], full.queue

        try:
            return self._room.add(try_to_add, capacities, self.config.enqueue_timeout)
        except BackendUnavailable as error:
            if self._room.refusing and not error.outcome_unknown:  # closed during the attempt
                raise closed(jobs[0].queue) from error
            raise

    def _add_where_room(self, jobs: Sequence[Job], token: bytes, capacities: dict[str, int]) -> list[Job]:
        """Add, or raise NoRoom; QueueFullError where there can never be room."""
        free = {queue: max(0, limit - self.context.handed_over(queue)) for queue, limit in capacities.items()}
        wanted = wanted_of(jobs, capacities)
        if all(wanted[queue] <= limit for queue, limit in capacities.items()):
            try:
                return self._adder.add(jobs, token, free)
            except NoRoom:  # but duplicates take none
                pass
        new = new_of(jobs, capacities, self._adder.duplicates(jobs))
        refuse_too_many(new, capacities)
        room = {queue: left + wanted[queue] - new[queue] for queue, left in free.items()}
        return self._adder.add(jobs, token, {} if self.context.in_runner() else room)

    # -- cron -------------------------------------------------------------------------------------------

    @mending
    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job in one script; capacity does not hold it back."""
        self._ledger.know(cron, job.queue)
        added = self._adder.add_tick(cron, tick.timestamp(), job)
        if added is None:
            return Tick.EXISTS
        self._ledger.ticked(cron, None if added.duplicate else added.id)
        if added.duplicate:
            return Tick.SKIPPED
        self._idle.mark_changed(job.queue)
        self._notify(job.queue, "ready")
        return Tick.NEW

    @mending
    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in any process."""
        return self._ledger.last_tick(cron)

    @mending
    def list_schedules(self, schedules: Mapping[str, bytes]) -> None:
        """Keep what this process says of its schedules."""
        self._ledger.list_schedules(schedules)

    @mending
    def schedules(self) -> list[Listed]:
        """The schedules that were listed within a day."""
        return self._ledger.schedules()

    # -- wakes ------------------------------------------------------------------------------------------

    def _on_wake(self, queue: str) -> None:
        """A wake: a queue has work, or (without a queue) a job of ours was cancelled."""
        if not queue:
            self._notify("", "cancel")
            return
        self._idle.mark_changed(queue)
        if self.context.takes(queue):
            self._notify(queue, "called")
        else:
            self._notify(queue, "ready")
            self._pass_on(queue)

    def _pass_on(self, queue: str) -> None:
        """Wake another worker: our runners may be busy for long, or this process ends."""
        try:
            script = self._scripts.call
            self._queues.call(script, queue, script.arguments(**self._queues.waking(queue)))
        except BackendError as error:
            self.config.log.debug("a wake for %s was not passed on: %s", queue, error)

    def _wake_all(self) -> None:
        """Wakes may have been missed, also by a claim in progress that did not ask for one."""
        for queue in list(self._workers.claims_from):
            self._idle.mark_changed(queue)
        self._notify("", "ready")
        try:
            self.announce(None)  # asks may have been missed as well
        except BackendError as error:
            self.config.log.debug("processes that wait for jobs were not told of this worker: %s", error)

    # -- jobs that other processes wait for -----------------------------------------------------------

    def _on_ask(self, message: str) -> None:
        """Another process waits for jobs."""
        if (ask := ask_in(message)) is not None:
            self.context.asked(*ask)

    def open_ear(self) -> Ear | None:
        """Subscribe to the changes of jobs; None if our user may not."""
        try:
            return RedisEar(self._redis, self._queues.channel + CHANGES)
        except BackendUnavailable:
            raise
        except BackendError as error:
            self.config.log.debug("changes of jobs cannot be heard, and are polled for: %s", error)
            return None

    def ask(self, job_ids: Sequence[int], *, every_change: bool) -> None:
        """Publish to all workers."""
        text = text_of_ask(job_ids, every_change=every_change)
        self._redis.command("PUBLISH", self._queues.channel + ASKS, text)

    def announce(self, job_ids: Sequence[int] | None) -> None:
        """Publish to the processes that wait for jobs."""
        self._redis.command("PUBLISH", self._queues.channel + CHANGES, text_of_ids(job_ids))

    # -- claim ------------------------------------------------------------------------------------------

    @mending
    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take ready jobs, best first; queues that are known to be empty are left alone for a while."""
        claimed = self._claims.claim(demand)
        if claimed.jobs:
            self._room.make_known()
        return claimed

    def _mend(self) -> bool:
        """Set aside keys of a wrong type; return whether there were any."""
        try:
            queues = self._mender.mend()
            for queue in queues or ():
                self._reclaimer.cursors[queue] = 0
                while self._reclaimer.reconcile(queue):
                    pass
                self._idle.mark_changed(queue)
        except BackendError as error:
            self.config.log.warning("keys of a wrong type cannot be set aside: %s", error)
            return False
        return queues is not None

    # -- settle -----------------------------------------------------------------------------------------

    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record how attempts ended, in scripts of one queue and one kind each, in one round trip."""
        if transaction is not None:
            raise no_transactions("job.complete")
        return self._settle(outcomes)

    @mending
    def _settle(self, outcomes: Sequence[Outcome]) -> set[int]:
        """Also for a claim: `settle` refuses a call from within another one."""
        return self._outcomes.record(outcomes)

    @mending
    def tend(self) -> bool:
        """Deliver jobs that follow an outcome, tell what was counted for groups, and stop groups."""
        return self._tender.tend()

    @mending
    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases; return which are lost, and which jobs were cancelled."""
        self._workers.touch()
        return self._outcomes.renew(leases)

    # -- workers ----------------------------------------------------------------------------------------

    @mending
    def beat(self, worker: WorkerInfo) -> None:
        """Say that this process is alive, and begin to hear the server's calls."""
        if worker.id == self._worker and self.context.is_running():
            self._subscriber.start()
        self._queues.register_anew()
        self._workers.beat(worker)

    @mending
    def workers(self) -> list[WorkerInfo]:
        """The processes that listen and are alive."""
        return self._workers.alive()

    @mending
    def reclaim(self) -> Reclaimed:
        """Take the jobs of workers that have died, as `Workers.dead` judges."""
        reclaimed = self._reclaimer.reclaim()
        self._tell_ready({job.queue for job in reclaimed.returned})
        return reclaimed

    # -- prune ------------------------------------------------------------------------------------------

    @mending
    def prune(self) -> int:
        """Forget finished jobs older than ``retention``, and the oldest beyond max_finished and max_dead."""
        config = self.config
        dead_members, members = self._groups.let_go()
        pruner = Pruner(self._queues)
        pruned = 0 if config.retention is None else pruner.drop_old(config.retention)
        if config.max_finished is not None:
            pruned += len(pruner.drop_excess(("done", "cancelled"), config.max_finished, kept=members))
        if config.max_dead is not None:
            for name, queue in pruner.drop_excess(("dead",), config.max_dead, kept=dead_members):
                pruned += 1
                warn_of_dropped(config, name, queue)
        self._ledger.forget_old()
        pruner.tidy(self._reclaimer.cursors)
        pruner.release(self._reclaimer.cursors)
        return pruned

    # -- looking and operating --------------------------------------------------------------------------

    @mending
    def find(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """Snapshots of jobs, newest first."""
        return self._finder.find(wanted, limit, after, before)

    @mending
    def find_brief(
        self, wanted: Filter = ALL, *, limit: int = 100, after: int | None = None, before: int | None = None
    ) -> Page:
        """As `find`, without results."""
        return self._finder.find(wanted, limit, after, before, brief=True)

    @mending
    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        return self._finder.counts()

    @mending
    def waiting_kinds(self, queues: Sequence[str]) -> dict[tuple[str, str | None], int]:
        """How many jobs of each queue and kind wait, of the first that will be claimed."""
        return self._finder.waiting_kinds(queues)

    @mending
    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        changed = self._operator.change(list(job_ids), action)
        self._room.make_known()
        self._tell_ready(changed.queues)
        return changed

    @mending
    def set_paused(self, queue: str, paused: bool) -> None:
        """Hold a queue's jobs back, or let them go."""
        self._operator.set_paused(queue, paused)
        self._idle.mark_changed(queue)
        self._notify(queue, "pause" if paused else "ready")

    @mending
    def add_audit(self, entry: AuditEntry) -> None:
        """Keep what somebody did."""
        self._ledger.add_audit(entry)

    @mending
    def audit(self, *, limit: int, before: int | None = None) -> list[AuditEntry]:
        """What was done, newest first."""
        return self._ledger.audit(limit, before)

    @mending
    def add_series(self, increments: Sequence[Increment], *, serial: int) -> None:
        """Add what this process has counted, once for each serial."""
        self._ledger.add_series(increments, self.context.worker_id, serial)

    @mending
    def series(self, queue: str | None, since: float, seconds: int) -> list[SeriesPoint]:
        """What jobs came to over time."""
        return self._ledger.series(queue, since, seconds)
