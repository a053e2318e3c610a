"""Claims: ready jobs become running ones, under leases of this worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.job import Job
from neoq.outcome import Lease, Outcome
from neoq.record import Status
from neoq.redis.alive import Workers
from neoq.redis.config import RedisConfig
from neoq.redis.find import Finder, check_payloads, stored_in
from neoq.redis.idle import IdleQueues
from neoq.redis.keys import id_in
from neoq.redis.leases import Known, Leased
from neoq.redis.mending import is_wrong_type
from neoq.redis.queues import RedisQueues
from neoq.redis.rows import job_of, ready_since, steps_in, turned_at
from neoq.redis.scripts import AT_ONCE
from neoq.store import Claimed, Demand
from neoq.stored import Reported, unreadable_end
from neoq.times import to_datetime


class Claims:
    """Claims jobs for one worker."""

    def __init__(
        self,
        queues: RedisQueues,
        config: RedisConfig,
        workers: Workers,
        worker: str,
        *,
        finder: Finder,
        leased: Leased,
        idle: IdleQueues,
        hears: Callable[[], bool],
        settle: Callable[[Sequence[Outcome]], set[int]],
        mend: Callable[[], bool],
    ) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._scripts = queues.scripts
        self._config = config
        self._workers = workers
        self._worker = worker
        self._finder = finder
        self._leased = leased
        self._idle = idle
        self._hears = hears
        self._settle = settle
        self._mend = mend
        self._kinds: dict[str, frozenset[str] | None] = {}  # that each queue was claimed from for, last
        self._last_token = 0
        self._token_lock = threading.Lock()
        self._lost: list[tuple[str, int]] = []  # queue and token of claims that may have taken jobs unheard
        self._unread: list[Job] = []  # claimed, and not dead yet
        self._reported = Reported(config.log)

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take ready jobs, best first; queues that are known to be empty are left alone for a while."""
        self.regain_lost()
        asked: list[Demand] = []
        dues: list[float] = []
        for one in demand:
            if one.limit > 0:
                if one.kinds != self._kinds.get(one.queue):
                    self._kinds[one.queue] = one.kinds
                    self._idle.forget(one.queue)
                if not self._idle.known_empty(one.queue):
                    asked.append(one)
                elif (due := self._idle.due(one.queue)) is not None:
                    dues.append(due)
        jobs = self._claim(asked, dues) if asked else []
        if self._unread:
            self._end_unread()
        next_due = to_datetime(min(dues)) if dues else None
        return Claimed(jobs, next_due, to_datetime(self._queues.time()))  # type: ignore[arg-type]

    def _claim(self, demands: list[Demand], dues: list[float]) -> list[Job]:
        self._workers.enlist(one.queue for one in demands)
        token = self._new_token()
        parts = [
            one._replace(limit=min(AT_ONCE, one.limit - start))
            for one in demands
            for start in range(0, one.limit, AT_ONCE)
        ]
        changes = [self._idle.changes(one.queue) for one in parts]
        before = machine.time()
        replies = self._send(parts, token)
        answered = [reply for reply in replies if not isinstance(reply, BackendError)]
        if not answered:
            raise replies[0]
        self._queues.learn_time(float(answered[-1][0]), before)
        try:
            jobs: list[Job] = []
            for one, reply, seen in zip(parts, replies, changes, strict=True):
                jobs += self._read(one, reply, seen, token, dues)
            self._finder.add_payloads([job for job in jobs if job.body is None])
            unread = check_payloads(jobs)
        except BaseException:
            self._lost += [(one.queue, token) for one in parts]
            raise
        if not unread:
            return jobs
        self._unread += unread
        return [job for job in jobs if job not in unread]

    def _send(self, parts: list[Demand], token: int) -> list[Any]:
        """The replies to claims; a claim whose reply is lost, or that fails, may have taken jobs."""
        hears = int(self._hears())
        tail, lease = f":{token}:{self._worker}", int(self._config.lease * 1e6)
        calls = []
        for one in parts:
            waking = self._queues.waking(one.queue)
            idler = self._workers.idler(one.queue, one.kinds)
            limited = one.queue in self._leased.limited
            script = self._scripts.claim_limited if limited else self._scripts.claim
            arguments = script.arguments(
                limit=one.limit, tail=tail, idler=idler, lease=lease, hears=hears, **waking
            )
            calls.append(self._queues.call_of(script, one.queue, [*arguments, *sorted(one.kinds or ())]))
        try:
            replies = self._redis.call_each(calls, again=False)
        except BaseException as error:
            if not isinstance(error, BackendUnavailable) or error.outcome_unknown:
                self._lost += [(one.queue, token) for one in parts]
            raise
        refused = [at for at, reply in enumerate(replies) if reply == [b"limited"]]
        if refused:
            self._leased.limited ^= {parts[at].queue for at in refused}
            again = self._send([parts[at] for at in refused], token)
            for at, reply in zip(refused, again, strict=True):
                replies[at] = reply
        for one, reply in zip(parts, replies, strict=True):
            if isinstance(reply, BackendError):
                self._lost.append((one.queue, token))
        return replies

    def _end_unread(self) -> None:
        """Mark unreadable jobs that were claimed as dead; if that fails, the next claim tries again."""
        unread, now = list(self._unread), self._queues.time()
        try:
            self._settle([unreadable_end(job, now) for job in unread])
        except BackendError as error:
            self._config.log.warning(
                "%d jobs that cannot be read are not dead yet, again soon: %s", len(unread), error
            )
            return
        self._unread = self._unread[len(unread) :]
        for job in unread:
            if job.unreadable is not None:
                self._reported.tell(job)

    def _back_off(self, queue: str, error: BackendError, dues: list[float]) -> None:
        """Leave a queue alone for a while that the server refuses to claim from; claim from the others."""
        if is_wrong_type(error) and self._mend():
            dues.append(self._queues.time())
            return
        dues.append(self._idle.back_off(queue))
        self._config.log.warning("no jobs of %s can be claimed: %s", queue, error)

    def _read(
        self, demand: Demand, reply: list[Any] | BackendError, changes: int, token: int, dues: list[float]
    ) -> list[Job]:
        queue, worker = demand.queue, self._worker
        if isinstance(reply, BackendError):
            self._back_off(queue, reply, dues)
            return []
        now, due = float(reply[0]), float(reply[1])
        ids, records, states = reply[2:5]
        if due >= 0:
            dues.append(due)
        full = len(ids) >= demand.limit or 0 <= due <= now
        if full:
            self._idle.forget(queue)
        else:
            self._idle.learn(queue, due if due >= 0 else None, changes)
        jobs: list[Job] = []
        if not ids:
            return jobs
        known = self._leased.of_queue(queue)
        scores = reply[6][1::2] if len(reply) > 6 else None
        for at, stored in enumerate(ids):
            record = records[at]
            if record is None:  # deleted by hand
                continue
            number = id_in(stored)
            if number is None:
                self._drop_stranger(queue, stored, token)
                continue
            job = job_of(number, queue, record, states[at])
            job.status = Status.RUNNING
            job.worker = worker
            job.token = token
            job.progress_report = None
            jobs.append(job)
            known[job.id] = (token, record, states[at])
            if scores is not None:
                if job.key is not None:
                    _take_turn(job, known, scores[at])
                elif reply[7]:
                    job.counted = True
        if len(reply) > 5 and reply[5]:
            _count_steps(jobs, dict(zip(ids, reply[5], strict=True)))
        return jobs

    def _drop_stranger(self, queue: str, name: bytes, token: int) -> None:
        """Remove the lease of a member that is no id, and so is no job."""
        lease = b"%b:%d:%b" % (name, token, self._worker.encode())
        self._redis.command("ZREM", self._queues.keys(queue).key("lease"), lease)
        self._config.log.error(
            "%r of %s is not a job id, so it is not run; is another program writing to these keys?",
            name[:60],
            queue,
        )

    def _new_token(self) -> int:
        """The microsecond of this claim, or a later one: each claim of this process has another."""
        with self._token_lock:
            self._last_token = max(self._last_token + 1, int(self._queues.time() * 1e6))
            return self._last_token

    def regain_lost(self) -> None:
        """Give back the jobs of claims whose replies were lost."""
        while self._lost:
            queue, token = self._lost[0]
            ours = f":{token}:{self._worker}"
            ids = [stored_in("lease", name) for name in sorted(self._finder.leases(queue, f"*{ours}"))]
            outcomes = [Outcome(Lease(one, queue, token), Status.PENDING) for one in ids if one is not None]
            if outcomes:
                self._settle(outcomes)
            self._lost.pop(0)


def _count_steps(jobs: list[Job], heads: dict[bytes, bytes | None]) -> None:
    """Say of claimed jobs how many steps they have recorded."""
    for job in jobs:
        job.steps = steps_in(heads[b"%d" % job.id])
        job.counted = job.counted or job.steps > 0


def _take_turn(job: Job, known: dict[int, Known], score: bytes) -> None:
    """Note of a job of a key what its place among the ready jobs says: when it had its turn."""
    job.counted = True
    ready = ready_since(score)
    if ready > job.due:  # type: ignore[operator]  # what a store returns has it
        job.due = ready
        token, record, life = known[job.id]
        known[job.id] = (token, record, turned_at(ready, life))
