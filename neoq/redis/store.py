"""RedisStore: what is done to jobs in Redis, in terms of the files beside it."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, ClassVar, NamedTuple, TypeVar

from neoq.capacity import Room, bounds_of, closed, new_of, refuse_too_many, wanted_of
from neoq.clock import machine
from neoq.errors import (
    BackendError,
    BackendUnavailable,
    UnsupportedError,
)
from neoq.job import Job, Status, to_datetime
from neoq.redis.add import Adder, NoRoom
from neoq.redis.alive import Workers
from neoq.redis.config import RedisConfig
from neoq.redis.connection import Call, RedisConnection
from neoq.redis.errors import has_broken, is_full
from neoq.redis.find import Finder, check_payloads, stored_in
from neoq.redis.keys import global_key, id_in
from neoq.redis.leases import NOT_OURS, Leased
from neoq.redis.mending import Mender, is_wrong_type
from neoq.redis.pruning import Pruner
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import change_of, held_by, job_of, lease_name, progress_of, success_of
from neoq.redis.wake import Wakes
from neoq.store import (
    Action,
    Changed,
    Claimed,
    Demand,
    Extended,
    Lease,
    Notify,
    Outcome,
    QueueCounts,
    Reclaimed,
    Store,
    Tick,
    WorkerInfo,
    taken_by,
    warn_of_dropped,
)
from neoq.stored import Reported, unreadable_end

M = TypeVar("M", bound=Callable[..., Any])

AT_ONCE = 50  # jobs of one script, so that none holds the server for long
BYTES_AT_ONCE = 256 * 1024  # of results in one script, or a single one
LOOK_EVERY = 10  # times job_check_interval: how often an idle queue is looked at, though nobody has called
LOOK_EVERY_AT_LEAST = 60  # where there are many such queues, as above
SWEEP_EVERY = 60.0  # seconds between looks for leases that ran out and that no dead worker accounts for
SWEPT_AT_ONCE = 1000  # leases of a queue
BEYOND_LEASES = 2 * 86400.0  # seconds from now until when no lease lasts: the longest is a day
RECONCILED_AT_ONCE = 50
Part = tuple[str, bool, list[Outcome]]  # of one queue, whether they succeeded


def _mending(method: M) -> M:
    """A call that sets aside what has the wrong type among our keys, and is made once more then."""

    @functools.wraps(method)
    def call(self: RedisStore, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except BackendError as error:
            if not is_wrong_type(error):
                raise
            self._mend()  # or another thread or process has done so
        return method(self, *args, **options)

    return call  # type: ignore[return-value]


class Quiet(NamedTuple):
    """A queue that held nothing for us when we looked."""

    due: float | None  # on the server's clock, when the next job is due
    looked_at: float  # monotonic


class RedisStore(Store):
    """What is done to jobs in Redis."""

    config: RedisConfig
    features: ClassVar[frozenset[str]] = frozenset({"durable", "shared"})

    # -- open and close ---------------------------------------------------------------------------------

    def open_store(self, notify: Notify) -> None:
        """Connect, and look whether the server may keep jobs."""
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
        self._notify = notify
        self._redis = connection
        self._scripts = connection.scripts
        self._queues = RedisQueues(connection, config.prefix)
        before = machine.time()
        self._queues.learn_time(self._queues.ask_time(), before)
        self._finder = Finder(self._queues)
        self._leased = Leased(self._queues)
        self._adder = Adder(self._queues, self._finder)
        self._worker = self.context.worker_id
        self._workers = Workers(self._queues, config, self._worker, self.context.worker)
        self._quiet: dict[str, Quiet] = {}
        self._stirs: dict[str, int] = {}
        self._last_token = 0
        self._token_lock = threading.Lock()
        self._lost_claims: list[tuple[str, int]] = []
        self._unsure: set[tuple[int, int]] = set()  # leases whose end may be recorded, unheard
        self._swept = machine.monotonic()
        self._cursors: dict[str, Any] = {}
        self._crons: dict[str, str] = {}
        self._room = Room()
        self._mender = Mender(self._queues, config.log)
        self._reported = Reported(config.log)
        self._unread: list[Job] = []  # claimed, and not dead yet
        self._wakes = Wakes(
            connection,
            self._queues.channel + self._worker,
            called=self._called,
            back=self._stir_all,
            log=config.log,
        )

    def stop_waiting(self) -> None:
        """End every add that waits for room."""
        self._room.refuse()

    def close_store(self) -> None:
        """Leave the workers, and disconnect."""
        self.stop_waiting()
        self._wakes.close()
        try:
            self._workers.leave()
        except BackendError as error:
            self.config.log.warning("the server was not told that this worker ends: %s", error)
        finally:
            self._redis.close()

    def break_connections(self) -> None:
        """Break the connections that no call is using, for `neoq.testing.Faults`."""
        self._redis.break_connections()

    # -- enqueue ----------------------------------------------------------------------------------------

    def add(self, jobs: Sequence[Job], *, token: bytes, transaction: Any = None) -> list[Job]:
        """Store jobs; see `Store.add`. Up to 500 of one queue are stored all or none."""
        if transaction is not None:
            raise _no_transactions("enqueue")
        try:
            job = jobs[0]
            if token and len(jobs) == 1 and not (job.special or self.context.capacity_of(job.queue)):
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
        self._stir(job.queue)
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
            self._stir(queue)
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
            if self._room.refusing and not error.outcome_unknown:  # it looked as the connection was closed
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

    @_mending
    def add_tick(self, cron: str, tick: datetime, job: Job) -> Tick:
        """Record a tick and add its job in one script; capacity does not hold it back."""
        if self._crons.get(cron) != job.queue:
            self._redis.command("HSET", global_key(self.config.prefix, "crons"), cron, job.queue)
            self._crons[cron] = job.queue
        added = self._adder.add_tick(cron, tick.timestamp(), job)
        if added is None:
            return Tick.EXISTS
        if added.duplicate:
            return Tick.SKIPPED
        self._stir(job.queue)
        self._notify(job.queue, "ready")
        return Tick.NEW

    @_mending
    def last_tick(self, cron: str) -> datetime | None:
        """The newest tick of a cron in any process."""
        queue = self._redis.command("HGET", global_key(self.config.prefix, "crons"), cron)
        if queue is None:
            return None
        key = self._queues.keys(queue.decode(errors="replace")).key("ticks")
        tick = self._redis.command("HGET", key, cron)
        try:
            return None if tick is None else to_datetime(float(tick))
        except ValueError:  # another hand wrote it: nothing is known then
            return None

    # -- wakes ------------------------------------------------------------------------------------------

    def _stir(self, queue: str) -> None:
        """Something has changed in a queue: look at it again."""
        self._stirs[queue] = self._stirs.get(queue, 0) + 1
        self._quiet.pop(queue, None)

    def _called(self, queue: str) -> None:
        """The server calls: there is work in a queue, or (without one) a job of ours was cancelled."""
        if not queue:
            self._notify("", "cancel")
            return
        self._stir(queue)
        if self.context.takes(queue):
            self._notify(queue, "called")
        else:
            self._notify(queue, "ready")
            self._pass_on(queue)

    def _pass_on(self, queue: str) -> None:
        """Let another worker be called: our runners are busy for long perhaps, or this process ends."""
        try:
            self._queues.call(self._scripts.call, queue, self._queues.wake_arguments(queue))
        except BackendError as error:
            self.config.log.debug("a call for %s was not passed on: %s", queue, error)

    def _stir_all(self) -> None:
        """Calls may have been missed, also by a claim that is under way: it asked for none."""
        for queue in list(self._workers.claims_from):
            self._stir(queue)
        self._notify("", "ready")

    def _is_quiet(self, queue: str) -> bool:
        quiet = self._quiet.get(queue)
        if quiet is None or (quiet.due is not None and quiet.due <= self._queues.time()):
            return False
        patience = min(max(LOOK_EVERY, 5 * len(self._quiet)), LOOK_EVERY_AT_LEAST) if self._wakes.hears else 1
        return machine.monotonic() - quiet.looked_at < patience * self.config.job_check_interval

    # -- claim ------------------------------------------------------------------------------------------

    @_mending
    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take ready jobs, best first; queues that are known to hold none are not asked for a while."""
        self._regain_lost()
        asked: list[Demand] = []
        dues: list[float] = []
        for one in demand:
            if one.limit > 0:
                if one.kinds is not None or not self._is_quiet(one.queue):
                    asked.append(one)
                elif (quiet := self._quiet.get(one.queue)) is not None and quiet.due is not None:
                    dues.append(quiet.due)
        jobs = self._claim(asked, dues) if asked else []
        if jobs:
            self._room.make_known()
        if self._unread:
            self._end_unread()
        due = to_datetime(min(dues)) if dues else None
        return Claimed(jobs, due, to_datetime(self._queues.time()))  # type: ignore[arg-type]

    def _claim(self, demands: list[Demand], dues: list[float]) -> list[Job]:
        self._workers.enlist(one.queue for one in demands)
        token = self._new_token_of_lease()
        parts = [
            one._replace(limit=min(AT_ONCE, one.limit - start))
            for one in demands
            for start in range(0, one.limit, AT_ONCE)
        ]
        stirs = [self._stirs.get(one.queue, 0) for one in parts]
        header = (f":{token}:{self._worker}", self._worker, int(self.config.lease * 1e6))
        hears = int(self._wakes.hears)
        calls = [
            self._queues.call_of(
                self._scripts.claim,
                one.queue,
                [
                    one.limit,
                    *header,
                    *self._queues.wake_arguments(one.queue),
                    hears,
                    *sorted(one.kinds or ()),
                ],
            )
            for one in parts
        ]
        before = machine.time()
        lost = [(one.queue, token) for one in demands]
        try:
            replies = self._redis.call_each(calls, again=False)
        except BaseException as error:
            if not isinstance(error, BackendUnavailable) or error.outcome_unknown:
                self._lost_claims += lost
            raise
        told = [reply for reply in replies if not isinstance(reply, BackendError)]
        if len(told) < len(replies):  # a script that fails may have taken some before
            self._lost_claims += [
                (one.queue, token)
                for one, reply in zip(parts, replies, strict=True)
                if isinstance(reply, BackendError)
            ]
        if not told:
            raise replies[0]
        self._queues.learn_time(float(told[-1][0]), before)
        try:
            jobs: list[Job] = []
            for one, reply, stir in zip(parts, replies, stirs, strict=True):
                jobs += self._read_claimed(one, reply, stir, token, dues)
            self._finder.add_payloads([job for job in jobs if job.body is None])
            unread = check_payloads(jobs)
        except BaseException:
            self._lost_claims += lost
            raise
        if not unread:
            return jobs
        self._unread += unread
        return [job for job in jobs if job not in unread]

    def _end_unread(self) -> None:
        """Let claimed jobs be dead that cannot be read; where that fails, the next claim tries again."""
        unread, now = list(self._unread), self._queues.time()
        try:
            self.settle([unreadable_end(job, now) for job in unread])
        except BackendError as error:
            self.config.log.warning(
                "%d jobs that cannot be read are not dead yet, again soon: %s", len(unread), error
            )
            return
        self._unread = self._unread[len(unread) :]
        for job in unread:
            if job.unreadable is not None:
                self._reported.tell(job)

    def _leave_alone(self, queue: str, error: BackendError, dues: list[float]) -> None:
        """Ask a queue that the server refuses to claim from again in a while: others are not to suffer."""
        if is_wrong_type(error) and self._mend():
            dues.append(self._queues.time())
            return
        due = self._queues.time() + self.config.job_check_interval
        self._quiet[queue] = Quiet(due, machine.monotonic())
        dues.append(due)
        self.config.log.warning("no jobs of %s can be claimed: %s", queue, error)

    def _read_claimed(
        self, demand: Demand, reply: list[Any] | BackendError, stir: int, token: int, dues: list[float]
    ) -> list[Job]:
        queue, worker = demand.queue, self._worker
        if isinstance(reply, BackendError):
            self._leave_alone(queue, reply, dues)
            return []
        now, due = float(reply[0]), float(reply[1])
        ids, records, lives = reply[2:]
        if due >= 0:
            dues.append(due)
        full = len(ids) >= demand.limit or 0 <= due <= now
        if full:
            self._quiet.pop(queue, None)
        elif demand.kinds is None and self._stirs.get(queue, 0) == stir:
            self._quiet[queue] = Quiet(due if due >= 0 else None, machine.monotonic())
        jobs: list[Job] = []
        if not ids:
            return jobs
        known = self._leased.of_queue(queue)
        for at, stored in enumerate(ids):
            record = records[at]
            if record is None:  # somebody has deleted it by hand
                continue
            number = id_in(stored)
            if number is None:
                self._drop_stranger(queue, stored, token)
                continue
            job = job_of(number, queue, record, lives[at])
            job.status = Status.RUNNING
            job.worker = worker
            job.token = token
            job.progress_report = None
            jobs.append(job)
            known[job.id] = (token, record, lives[at])
        return jobs

    def _drop_stranger(self, queue: str, name: bytes, token: int) -> None:
        """Forget the lease of something that has no id, and so is no job."""
        lease = b"%b:%d:%b" % (name, token, self._worker.encode())
        self._redis.command("ZREM", self._queues.keys(queue).key("lease"), lease)
        self.config.log.error(
            "%r of %s is no job, for it is no id: something else writes to our keys; it is not run",
            name[:60],
            queue,
        )

    def _mend(self) -> bool:
        """Set aside what has the wrong type among our keys; tell whether there was any."""
        try:
            queues = self._mender.mend()
            for queue in queues or ():
                self._cursors[queue] = 0
                while self._reconcile(queue):
                    pass
                self._stir(queue)
        except BackendError as error:
            self.config.log.warning("what has the wrong type among our keys cannot be set aside: %s", error)
            return False
        return queues is not None

    def _new_token_of_lease(self) -> int:
        """The microsecond of a claim, or a later one: no other claim of this process has it."""
        with self._token_lock:
            self._last_token = max(self._last_token + 1, int(self._queues.time() * 1e6))
            return self._last_token

    def _regain_lost(self) -> None:
        """Give back what was claimed for us by a call whose reply was lost."""
        while self._lost_claims:
            queue, token = self._lost_claims[0]
            ours = f":{token}:{self._worker}"
            ids = [stored_in("lease", name) for name in sorted(self._finder.leases(queue, f"*{ours}"))]
            outcomes = [Outcome(Lease(one, queue, token), Status.PENDING) for one in ids if one is not None]
            if outcomes:
                self.settle(outcomes)
            self._lost_claims.pop(0)

    # -- settle -----------------------------------------------------------------------------------------

    @_mending
    def settle(self, outcomes: Sequence[Outcome], *, transaction: Any = None) -> set[int]:
        """Record how attempts ended, in scripts of one queue and one kind each, in one round trip."""
        if transaction is not None:
            raise _no_transactions("job.complete")
        stale: set[int] = set()
        batches: dict[tuple[str, bool], list[Outcome]] = {}
        for outcome in outcomes:
            lease = outcome.lease
            if lease.token <= 0:
                stale.add(lease.job_id)
                continue
            batches.setdefault((lease.queue, outcome.status is Status.SUCCEEDED), []).append(outcome)
        parts = [(*kind, part) for kind, batch in batches.items() for part in _in_parts(batch)]
        for (queue, _, batch), reply in zip(parts, self._settle_all(parts), strict=True):
            stale |= set(map(int, reply))
            self._leased.forget(queue, batch)
        try:
            self._follow(outcomes, stale)
        except BaseException:
            self._doubt(parts)
            raise
        if self._unsure:
            self._unsure.difference_update(_leases_in(parts))
        self._tell_ready({queue for queue, well, batch in parts if not well})
        return stale

    def _settle_all(self, parts: list[Part]) -> list[Any]:
        try:
            return self._settle_once_or_twice(parts, keep=True)
        except BackendUnavailable as error:
            if not is_full(error) or not any(well for _, well, _ in parts):
                raise
            self.config.log.warning("finished jobs are forgotten at once, for there is no room: %s", error)
        return self._settle_once_or_twice(parts, keep=False)

    def _settle_once_or_twice(self, parts: list[Part], *, keep: bool) -> list[Any]:
        """Where the connection broke they are settled again, and the server is told that it is again."""
        try:
            return self._settle_once(parts, keep=keep)
        except BackendError as error:
            if not has_broken(error):
                raise
        return self._settle_once(parts, keep=keep)

    def _settle_once(self, parts: list[Part], *, keep: bool) -> list[Any]:
        try:
            return self._redis.call_many([self._settling(*part, keep=keep) for part in parts], again=False)
        except BaseException:
            self._doubt(parts)
            raise

    def _doubt(self, parts: list[Part]) -> None:
        """What became of outcomes is not known: who settles them again is not told that they are stale."""
        self._unsure.update(_leases_in(parts))

    def _settling(self, queue: str, well: bool, batch: list[Outcome], *, keep: bool) -> Call:
        if well:
            return self._finishing(queue, batch, keep=keep and self.config.retention != 0)
        worker, now = self._worker, self._queues.time()
        arguments = [self._is_said_again(batch), *self._queues.wake_arguments(queue)]
        for one in batch:
            name = one.lease.job_id
            lease = lease_name(name, one.lease.token, worker)
            arguments += (name, lease, change_of(one, now), b"" if one.result is None else one.result)
        return self._queues.call_of(self._scripts.settle, queue, arguments)

    def _finishing(self, queue: str, batch: list[Outcome], *, keep: bool) -> Call:
        known, worker = self._leased.known(queue, batch), self._worker
        leases: list[str] = []
        prints: list[bytes] = []
        lives: list[Any] = []
        results: list[Any] = []
        for one in batch:
            job_id, _, token, _ = one.lease
            ours = known.get(job_id, NOT_OURS)
            if ours[0] != token:
                ours = NOT_OURS
            lease = lease_name(job_id, token, worker)
            leases.append(lease)
            prints.append(held_by(ours[1]))
            lives += (job_id, success_of(one, lease, ours[2]))
            if one.result is not None:
                results += (job_id, one.result)
        header = int(keep), self._is_said_again(batch), len(batch)
        arguments = [*header, *leases, *prints, *lives, *results]
        return self._queues.call_of(self._scripts.finish, queue, arguments)

    def _is_said_again(self, batch: list[Outcome]) -> int:
        unsure = self._unsure
        return int(bool(unsure) and any((one.lease.job_id, one.lease.token) in unsure for one in batch))

    def _follow(self, outcomes: Sequence[Outcome], stale: set[int]) -> None:
        """Add the jobs that follow outcomes which were recorded now.

        Capacity does not hold them back: who settles is who makes room, and must not wait for it.
        """
        for outcome in outcomes:
            if outcome.follow and outcome.lease.job_id not in stale:
                token = f"follows {outcome.lease.job_id} {outcome.lease.token}".encode()
                self._adder.add(outcome.follow, token, {})
                self._tell_ready({job.queue for job in outcome.follow})

    @_mending
    def extend(self, leases: Sequence[Lease]) -> Extended:
        """Renew leases; tell which are lost, and whose job was cancelled."""
        self._workers.touch()
        lost, cancelled = set[int](), set[int]()
        by_queue: dict[str, list[Lease]] = {}
        for lease in leases:
            by_queue.setdefault(lease.queue, []).append(lease)
        parts = [
            (queue, of_queue[start : start + AT_ONCE])
            for queue, of_queue in by_queue.items()
            for start in range(0, len(of_queue), AT_ONCE)
        ]
        replies = self._redis.call_many([self._extending(*part) for part in parts])
        for reply in replies:
            lost |= set(map(int, reply[0]))
            cancelled |= set(map(int, reply[1]))
        return Extended(lost, cancelled)

    def _extending(self, queue: str, leases: list[Lease]) -> Call:
        arguments: list[Any] = [int(self.config.lease * 1e6)]
        for lease in leases:
            job_id = lease.job_id
            progress = "" if lease.progress is None else progress_of(lease.progress)
            arguments += (job_id, lease_name(job_id, lease.token, self._worker), progress)
        return self._queues.call_of(self._scripts.extend, queue, arguments)

    # -- workers ----------------------------------------------------------------------------------------

    @_mending
    def beat(self, worker: WorkerInfo) -> None:
        """Say that this process is alive, and begin to hear the server's calls."""
        if worker.id == self._worker and self.context.is_running():
            self._wakes.start()
        self._queues.register_anew()
        self._workers.beat(worker)

    @_mending
    def workers(self) -> list[WorkerInfo]:
        """The processes that listen and are alive."""
        return self._workers.alive()

    @_mending
    def reclaim(self) -> Reclaimed:
        """Take the jobs of workers that have died, as `Workers.dead` judges."""
        reclaimed = Reclaimed([], [])
        for worker, queues in self._workers.dead():
            for queue in queues:
                leases = sorted(self._finder.leases(queue, f"*:{worker}"))
                self._take_back(queue, leases, reclaimed, expired=False)
            self._workers.forget(worker)
        if machine.monotonic() - self._swept > SWEEP_EVERY:
            self._swept = machine.monotonic()
            self._sweep(reclaimed)
        for queue in {job.queue for job in reclaimed.returned}:
            self._stir(queue)
            self._notify(queue, "ready")
        return reclaimed

    def _take_back(self, queue: str, leases: list[bytes], reclaimed: Reclaimed, *, expired: bool) -> None:
        header = [self.config.max_crashes, "WorkerDied: %d workers died while they ran it (max_crashes)"]
        header += [*self._queues.wake_arguments(queue), int(expired)]
        for start in range(0, len(leases), AT_ONCE):
            arguments = [*header, *leases[start : start + AT_ONCE]]
            returned, dead = self._queues.call(self._scripts.reclaim, queue, arguments)
            reclaimed.returned.extend(self._finder.look(queue, [int(stored) for stored in returned]))
            reclaimed.dead.extend(self._finder.look(queue, [int(stored) for stored in dead]))

    def _sweep(self, reclaimed: Reclaimed) -> None:
        """Look for leases that ran out whoever has them, and for jobs that are nowhere."""
        now = self._queues.ask_time()
        for queue in self._queues.all():
            key = self._queues.keys(queue).key("lease")
            self._bound_leases(key, now)
            expired = self._redis.command("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", 0, SWEPT_AT_ONCE)
            if expired:
                self._take_back(queue, expired, reclaimed, expired=True)
            self._reconcile(queue)

    def _bound_leases(self, key: bytes, now: float) -> None:
        """Let leases run out that would last too long, as another hand or a wrong clock has set them.

        A living worker renews its own before.
        """
        beyond, end = now + BEYOND_LEASES, now + self.config.lease
        far = self._redis.command("ZRANGEBYSCORE", key, f"({beyond}", "+inf", "LIMIT", 0, SWEPT_AT_ONCE)
        if far:
            self._redis.command("ZADD", key, "XX", "LT", *(item for lease in far for item in (end, lease)))

    def _reconcile(self, queue: str) -> bool:
        """Look through some jobs of a queue for such as are nowhere; tell whether there are more."""
        arguments = [self._cursors.get(queue, 0), RECONCILED_AT_ONCE]
        self._cursors[queue], found = self._queues.call(self._scripts.reconcile, queue, arguments)
        for _ in range(2):  # a job that was claimed anew as the leases were read may have been missed
            if found:
                leased = self._finder.leases_of(queue, [int(stored) for stored in found])
                found = [stored for stored in found if int(stored) not in leased]
        if found:
            found = self._queues.call(self._scripts.reconcile, queue, ["", *found])[1]
        if found:
            self._stir(queue)
            self._notify(queue, "ready")
        for stored in found:
            self.config.log.error(
                "job %s of %s was in no list and is ready again: something else writes to our keys",
                *(int(stored), queue),
            )
        return int(self._cursors[queue]) != 0

    # -- prune ------------------------------------------------------------------------------------------

    @_mending
    def prune(self) -> int:
        """Forget finished jobs older than ``retention``, and the oldest beyond max_finished and max_dead."""
        config = self.config
        pruner = Pruner(self._queues)
        pruned = 0 if config.retention is None else pruner.drop_old(config.retention)
        if config.max_finished is not None:
            pruned += len(pruner.drop_excess(("done", "cancelled"), config.max_finished))
        if config.max_dead is not None:
            for name, queue in pruner.drop_excess(("dead",), config.max_dead):
                pruned += 1
                warn_of_dropped(config, name, queue)
        pruner.tidy(self._cursors)
        pruner.release(self._cursors)
        return pruned

    # -- looking and operating --------------------------------------------------------------------------

    @_mending
    def find(
        self,
        *,
        ids: Iterable[int] | None = None,
        queue: str | None = None,
        status: Status | None = None,
        limit: int = 100,
        after: int | None = None,
    ) -> list[Job]:
        """Snapshots of jobs, newest first."""
        if ids is None:
            return self._finder.newest(queue, status, limit, after)
        jobs = [
            job
            for job in self._finder.of_ids(ids)
            if (queue is None or job.queue == queue)
            and (status is None or job.status is status)
            and (after is None or job.id < after)
        ]
        return sorted(jobs, key=lambda job: job.id or 0, reverse=True)[:limit]

    @_mending
    def counts(self) -> list[QueueCounts]:
        """Every queue that has or had jobs."""
        queues = self._queues.all()
        replies = self._redis.call_many(
            [self._queues.call_of(self._scripts.counts, queue, ()) for queue in queues]
        )
        return [
            QueueCounts(queue, **dict(zip(_COUNTED, numbers, strict=True)), paused=bool(paused))
            for queue, (*numbers, paused) in zip(queues, replies, strict=True)
        ]

    @_mending
    def change(self, job_ids: Iterable[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        done, running, queues = set[int](), set[int](), set[str]()
        by_queue: dict[str, list[int]] = {}
        asked = list(job_ids)
        for job in self._finder.of_ids(asked):
            by_queue.setdefault(job.queue, []).append(job.id)
        for queue, ids in by_queue.items():
            for start in range(0, len(ids), AT_ONCE):
                arguments = [action, *self._queues.wake_arguments(queue), *ids[start : start + AT_ONCE]]
                reply = self._queues.call(self._scripts.change, queue, arguments)
                if reply[2] and len(asked) == 1:
                    raise taken_by(self._finder.look(queue, [int(reply[2][1])])[0])
                done |= set(map(int, reply[0]))
                running |= set(map(int, reply[1]))
                if reply[0]:
                    queues.add(queue)
                if reply[1]:
                    self._tell_workers(queue, [int(stored) for stored in reply[1]])
        self._room.make_known()
        for queue in queues:
            self._stir(queue)
            self._notify(queue, "ready")
        return Changed(frozenset(done), frozenset(running), frozenset(queues))

    def _tell_workers(self, queue: str, stored: list[int]) -> None:
        """Tell those who run jobs that they were cancelled; who is not told learns it as it extends."""
        leases = self._finder.leases_of(queue, stored).values()
        workers = {lease.rpartition(b":")[2] for lease in leases}
        channel = self._queues.channel.encode()
        self._redis.commands([("PUBLISH", channel + name, "") for name in sorted(workers)])

    @_mending
    def set_paused(self, queue: str, paused: bool) -> None:
        """Hold a queue's jobs back, or let them go."""
        self._queues.register(queue)
        keys, channel = self._queues.keys(queue), self._queues.channel
        if paused:
            self._redis.command("SET", keys.key("paused"), 1)
        else:
            self._redis.command("DEL", keys.key("paused"))
            idle = self._redis.command("SMEMBERS", keys.key("idle"))
            self._redis.commands([("PUBLISH", channel.encode() + name, queue) for name in idle])
        self._stir(queue)
        self._notify(queue, "pause" if paused else "ready")


_COUNTED = ("ready", "scheduled", "retrying", "running", "succeeded", "dead", "cancelled")


def _leases_in(parts: list[Part]) -> Iterator[tuple[int, int]]:
    return ((one.lease.job_id, one.lease.token) for _, _, batch in parts for one in batch)


def _in_parts(outcomes: list[Outcome]) -> Iterator[list[Outcome]]:
    """What goes into a script each."""
    start = size = 0
    for at, outcome in enumerate(outcomes):
        result = len(outcome.result or b"")
        size += result
        if at > start and (at - start == AT_ONCE or size > BYTES_AT_ONCE):
            yield outcomes[start:at]
            start, size = at, result
    yield outcomes[start:]


def _no_transactions(what: str) -> UnsupportedError:
    return UnsupportedError(
        f"{what} cannot join a transaction: Redis shares none with your database. Enqueue after the commit "
        "(jobs are unique by fingerprint, so a repeated enqueue adds none), or keep jobs in that database "
        "(postgresql://, sqlite:///)"
    )
