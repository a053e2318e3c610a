"""How ready jobs are claimed in PostgreSQL, and what happens to a claim whose reply was lost."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable, Sequence
from typing import Any

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable
from neoq.job import Job
from neoq.postgres.arrays import int4s, texts
from neoq.postgres.connections import Connections
from neoq.postgres.limits import LimitBook
from neoq.postgres.rows import CLAIMED_DEADLINE, claimed
from neoq.postgres.scan import LookFloors, ScanHints, ScanReport
from neoq.postgres.settle import Settlement
from neoq.postgres.statements import Statements
from neoq.postgres.wake import WorkerPresence
from neoq.store import Claimed, Demand, StoreContext
from neoq.stored import Reported, unreadable_end
from neoq.times import to_datetime
from neoq.wording.safe_logger import SafeLogger

DOUBT_ENDS = 60.0  # seconds after which the server does not execute a claim any more whose reply was lost
SAME_CLOCK = 1.0  # seconds that this machine's clock may differ from the server's and count as equal


class Claimer:
    """Claims the jobs of one process, under its worker's lock."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        *,
        presence: WorkerPresence,
        settlement: Settlement,
        limits: LimitBook,
        context: StoreContext,
        log: SafeLogger,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._presence = presence
        self._settlement = settlement
        self._limits = limits
        self._clock = context.clock
        self._worker = context.worker_id
        self._log = log
        self._hints = ScanHints()
        self._looks = LookFloors()
        self._reported = Reported(log)
        self._lost: list[tuple[int, float]] = []  # token, and when the reply was lost (monotonic)
        self._unread: list[Job] = []  # claimed, and not dead yet
        self.leased: set[tuple[int, int]] = set()  # job id and token; 0 for whatever a claim may have taken

    def claim(self, demand: Sequence[Demand]) -> Claimed:
        """Take ready jobs, best first."""
        wanted: dict[frozenset[str] | None, list[tuple[str, int]]] = {}
        limited = list[Demand]()
        for one in demand:
            if one.limit <= 0:
                continue
            if self._limits.limited and one.queue in self._limits.limited:
                limited.append(one)
            else:
                wanted.setdefault(one.kinds, []).append((one.queue, one.limit))
        jobs: list[Job] = []
        dues: list[float] = []
        now = 0.0
        random.shuffle(limited)
        parts: list[Demand | tuple[frozenset[str] | None, list[tuple[str, int]]]]
        parts = [*wanted.items(), *limited]
        for part in parts or [(None, [])]:
            try:
                if isinstance(part, Demand):
                    more, next_due, now = self._claim_limited(part, taken=bool(jobs))
                else:
                    kinds, queues = part
                    more, next_due, now = self._claim(queues, None if kinds is None else sorted(kinds))
            except BackendError:
                if not jobs:
                    raise
                dues.append(now)  # what was claimed is to run; the next claim says what is wrong
                break
            jobs += more
            if next_due is not None:
                dues.append(next_due)
        due = min(dues, default=None)
        return Claimed(jobs, to_datetime(due), to_datetime(now))  # type: ignore[arg-type]

    def scan_anew(self, queues: Iterable[str]) -> None:
        """Let the next claims find jobs that came back to these queues with their old due times."""
        self._hints.forget(queues)

    def _claim(
        self, wanted: list[tuple[str, int]], kinds: list[str] | None
    ) -> tuple[list[Job], float | None, float]:
        random.shuffle(wanted)  # a job that must come alone gets its turn, whichever queues are busy
        number = self._presence.hold()
        self._undo_lost()
        token = int.from_bytes(os.urandom(7), "big") + 1  # an older claim's cannot equal it
        queues = [queue for queue, _ in wanted]
        hints = self._hints.of(queues, kinds)
        known_queues, known_levels, known_from = self._hints.values(hints)
        values = {
            "worker": number,
            "token": token,
            "queues": texts(queues),
            "limits": int4s([min(limit, 2**31 - 1) for _, limit in wanted]),
            "kinds": None if kinds is None else texts(kinds),
            "known_queues": known_queues,
            "known_levels": known_levels,
            "known_from": known_from,
            "counted": True,
        }
        rows, last = self._execute(self._statements.claim, values, token)
        due, now = last[3], last[4]
        self._hints.learn(
            hints, kinds, [ScanReport(row[1], row[2], row[3], row[-1]) for row in rows if row[0] is None]
        )
        rows = [row for row in rows if row[0] is not None]
        self.leased.update((row[0], token) for row in rows)
        self.leased.discard((0, token))
        full_scan = self._hints.next_full_scan(hints)
        if full_scan is not None and len(rows) < sum(limit for _, limit in wanted):
            due = now + full_scan if due is None else min(due, now + full_scan)
        if len(rows) > 1:
            rows.sort(key=_best_first)
        jobs, unread = claimed(rows, token, self._worker)
        if unread or self._unread:
            due = now
            self._end_unreadable(unread)
        return jobs, due, now

    def _claim_limited(self, one: Demand, *, taken: bool) -> tuple[list[Job], float | None, float]:
        """As `_claim`, for one queue that has limits, after others."""
        number = self._presence.hold()
        self._undo_lost()
        token = int.from_bytes(os.urandom(7), "big") + 1
        kinds = None if one.kinds is None else sorted(one.kinds)
        hints = self._hints.of([one.queue], kinds)
        _, known_levels, known_from = self._hints.values(hints)
        looks_from = self._looks.start(one.queue)
        values = {
            "worker": number,
            "token": token,
            "queue": one.queue,
            "limit": min(one.limit, 2**31 - 1),
            "kinds": None if kinds is None else texts(kinds),
            "taken": taken,
            "looks_from": looks_from,
            "known_levels": known_levels,
            "known_from": known_from,
        }
        rows, last = self._execute(self._statements.limited_claim, values, token)
        due, now = last[3], last[4]
        self._looks.learn(one.queue, looks_from, last[CLAIMED_DEADLINE], last[-1])
        told = [ScanReport(row[1], row[2], row[3], row[-1]) for row in rows if row[0] is None]
        if not told and not hints:
            told = [ScanReport(one.queue, 0, 0.0, 0.0)]  # what is not told took no time
        self._hints.learn(hints, kinds, told, limited=True)
        rows = [row for row in rows if row[0] is not None]
        if len(rows) < one.limit:
            unseen = self._hints.next_full_scan(hints), self._looks.next_full_look(one.queue, looks_from)
            dues = [now + seconds for seconds in unseen if seconds is not None]
            due = min(dues if due is None else [due, *dues], default=None)
        self.leased.update((row[0], token) for row in rows)
        self.leased.discard((0, token))
        limits = self._limits.limited.get(one.queue)
        if limits is None or limits.aging is None:
            rows.sort(key=_best_first)
        jobs, unread = claimed(rows, token, self._worker)
        if unread:
            due = now
            self._end_unreadable(unread)
        return jobs, due, now

    def _execute(
        self, statement: str, values: dict[str, Any], token: int
    ) -> tuple[list[tuple[Any, ...]], tuple[Any, ...]]:
        """The rows of a claim, and the last one: when the next job is due, and the time on the server."""
        began = self._clock.time()
        self.leased.add((0, token))
        try:
            rows = self._connections.execute(statement, values)
        except BackendUnavailable as error:
            if error.outcome_unknown:
                self._lost.append((token, machine.monotonic()))
            else:
                self.leased.discard((0, token))
            raise
        last = rows.pop()
        now = last[4]
        same = began <= now + SAME_CLOCK and now <= self._clock.time() + SAME_CLOCK
        self._settlement.skew = 0.0 if same else now - began
        return rows, last

    def _end_unreadable(self, jobs: list[Job]) -> None:
        """Let claimed jobs be dead that cannot be read; where that fails, the next claim tries again."""
        self._unread += jobs
        unread = list(self._unread)
        now = self._clock.time()
        try:
            self._settlement.settle([unreadable_end(job, now) for job in unread])
        except BackendError as error:
            self._log.warning(
                "%d jobs that cannot be read are not dead yet, again soon: %s", len(unread), error
            )
        else:
            self._unread = self._unread[len(unread) :]
            self.leased.difference_update((job.id, job.token) for job in unread)
            for job in unread:
                self._reported.tell(job)

    def _undo_lost(self) -> None:
        """Make the jobs ready again that were taken by claims whose replies were lost."""
        if not self._lost:
            return
        ended = self._connections.await_end("claim(")
        now = machine.monotonic()
        for token, since in list(self._lost):
            values = {"worker": self._presence.number, "token": token}
            self._connections.execute(self._statements.undo_claim, values)
            if ended or now - since > DOUBT_ENDS:  # else the server may still execute it
                self._lost.remove((token, since))
                self.leased.discard((0, token))


def _best_first(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return -row[2], row[3], row[0]
