"""What a store of SQLite does for held jobs and steps, in terms of the files beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import neoq.sqlite.add as sqlite_add
import neoq.sqlite.ends as sqlite_ends
import neoq.sqlite.groups as sqlite_groups
import neoq.sqlite.lines as sqlite_lines
import neoq.sqlite.rules as sqlite_rules
import neoq.sqlite.steps as sqlite_steps
from neoq.clock import machine
from neoq.held.group import BATCH, Batch, BatchRules
from neoq.held.limits import Limits, Line
from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import Lease
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.session import Session
from neoq.sqlite.transactions import write_within
from neoq.store import Notify, Store

T = TypeVar("T")

TENDS_FOR = 1.0  # seconds, at most, after an operation that has stopped a group; heartbeats do the rest
_TO_TEND = "select 1 from neoq_groups where todo > 0 limit 1"


class HoldingInSqlite(Store):
    """What is done to held jobs, groups and steps in a SQLite file."""

    _file: SqliteFile
    _notify: Notify

    def _write(self, work: Callable[[Session], T], *, durable: bool = True) -> T:
        """Do something to the jobs in a transaction; it is committed when this returns.

        What is not ``durable`` may be undone by a power cut. That is enough for claims and heartbeats: the
        power cut ends their worker, too.
        """
        return self._file.write(work, durable=durable)

    def _write_and_tell(self, work: Callable[[Session], T], transaction: Any = None) -> T:
        """Do something that may release jobs or stop groups, here or in the caller's transaction."""
        if transaction is not None:
            return write_within(self._file, transaction, work)
        value, released, stops = self._write(lambda session: (work(session), session.released, session.stops))
        self._tell_released(released)
        if stops:
            self._tend_for(TENDS_FOR)
        return value

    def _tell_released(self, queues: Iterable[str]) -> None:
        for queue in queues:
            self._notify(queue, "ready")

    def open_batch(self, then: Job, rules: BatchRules, *, token: bytes, transaction: Any = None) -> Job:
        """Store the callback of a batch, held; or take over the batch of its name."""
        return self._write_and_tell(
            lambda session: sqlite_add.open_batch(session, then, rules, token), transaction
        )

    def seal(self, job_id: int, producer: int, *, transaction: Any = None) -> None:
        """Add no more members from outside: release the callback when all have ended."""
        self._write_and_tell(lambda session: sqlite_groups.seal(session, job_id, producer), transaction)

    def group(self, job_id: int, round: int = BATCH) -> Batch | None:  # noqa: A002
        """The counts of a holder's group."""
        return sqlite_groups.counted(self._file, job_id, round)

    def tend(self) -> bool:
        """Do a page of what is to be done for all jobs of groups."""
        return self._tend()

    def _tend(self) -> bool:
        if not self._file.read(_TO_TEND):
            return False

        def do_page(session: Session) -> tuple[bool, set[str]]:
            return sqlite_ends.tend(session), session.released

        more, released = self._write(do_page)
        self._tell_released(released)
        return more

    def _tend_for(self, seconds: float) -> None:
        until = machine.monotonic() + seconds
        while self._tend() and machine.monotonic() < until:
            pass

    def limit(self, queue: str, limits: Limits | None, *, by_listener: bool) -> Limits | None:
        """Set the limits of a queue, and release what may start by them."""

        def set_limits(session: Session) -> Limits | None:
            before = sqlite_rules.limits_of(session, queue)
            told = sqlite_rules.set_limits(session, queue, limits, by_listener=by_listener)
            if sqlite_rules.limits_of(session, queue) != before:
                sqlite_lines.adapt(session, queue, before)
            return told

        return self._write_and_tell(set_limits)

    def limits(self) -> Mapping[str, Limits]:
        """The limits that hold now."""
        return sqlite_rules.all_limits(self._file)

    def lines(self, queue: str, *, limit: int = 1000) -> list[Line]:
        """The lines of a queue that stand still, and those in which a job waits."""
        return sqlite_lines.of_queue(self._file, queue, limit)

    def record(self, records: Sequence[tuple[Lease, Sequence[Step]]], *, transaction: Any = None) -> set[int]:
        """Record steps under their leases, in one commit with what else is being written."""
        return self._write_and_tell(lambda session: sqlite_steps.record(session, records), transaction)

    def steps(self, job_id: int) -> list[Step]:
        """What a job has recorded, and the signals to it."""
        return sqlite_steps.of_job(self._file, job_id)

    def signal(self, to: int | tuple[str, str], step: Step, *, transaction: Any = None) -> bool:
        """Record a signal for an unfinished job."""
        return self._write_and_tell(lambda session: sqlite_steps.signal(session, to, step), transaction)
