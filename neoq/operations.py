"""Operations: how the jobs of a store are looked at and steered, the same above every store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from neoq.attempts import Attempt, attempts_of
from neoq.audit import AuditEntry, Deed, filter_text, ids_text, recorded
from neoq.checks import check_queue, checked_id, checked_uid
from neoq.engine.engine import Engine
from neoq.engine.search import UNFINISHED, count, page_of, pages
from neoq.errors import InvalidJobError
from neoq.filter import ALL, Filter, Filters, Order, OtherFilters, filter_of, is_oldest
from neoq.job import (
    DuplicateJobError,
    Job,
)
from neoq.line import JobLine, line_of
from neoq.record import Status
from neoq.schedules import ScheduleInfo, info_of
from neoq.series import KEPT, MINUTE, TEN_MINUTES, SeriesPoint
from neoq.store import Action, QueueCounts, Store, WorkerInfo
from neoq.threads.boundary import entrances
from neoq.times import to_datetime, to_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping


_CHANGED: dict[Action, frozenset[Status] | None] = {  # where the caller does not say
    "cancel": UNFINISHED.statuses,
    "retry": frozenset({Status.DEAD, Status.RETRYING}),
    "delete": None,
    "run": frozenset({Status.PENDING, Status.RETRYING}),
}
CHANGED_AT_ONCE = 500  # jobs of one call to the store, so that it holds nobody up for long


@dataclass(frozen=True)
class Stats:
    """A backend in numbers.

    Jobs in the store by where they are in their life, summed over its queues (``held`` wait for
    others to end, or for a signal), ``held_lines`` that stand still behind a dead job, of each queue
    at most 1,000, and what this process did:
    ``processed`` attempts that have ended here, ``failed`` of them, ``runners`` alive, ``abandoned``
    stuck threads that are stuck still, ``skipped_ticks`` of cron whose predecessor was unfinished,
    ``duplicates`` that were enqueued here and not stored, since an equal job was unfinished.
    """

    ready: int
    scheduled: int
    retrying: int
    running: int
    succeeded: int
    dead: int
    cancelled: int
    held: int
    held_lines: int
    processed: int
    failed: int
    runners: int
    abandoned: int
    skipped_ticks: int
    duplicates: int


@entrances()
class Operations:
    """What a backend offers to those who look at jobs and steer them; see `neoq.backend.Backend`."""

    engine: Engine
    store: Store

    # -- looking -----------------------------------------------------------------------------------------

    @overload
    def get(self, job_id: int) -> Job | None: ...
    @overload
    def get(self, *, uid: str) -> Job | None: ...
    def get(self, job_id: int | None = None, *, uid: str | None = None) -> Job | None:
        """A snapshot of a job, by its id or its uid, or None where nothing is known of it."""
        if uid is None:
            if job_id is None:
                raise InvalidJobError("get() takes the id of a job, which job.id is, or uid=...")
            wanted = Filter(ids=[checked_id(job_id)])
        elif job_id is not None:
            raise InvalidJobError("get() takes the id of a job or its uid, not both")
        else:
            wanted = Filter(uids=[checked_uid(uid)])
        self.engine.ensure_readable()
        found = next(iter(self.store.find(wanted, limit=1).jobs), None)
        if found is not None and found.holds is not None:
            found.__dict__["members"] = self.engine.holding.members(found.id)
        return found

    @overload
    def jobs(
        self,
        queue: str | None = None,
        status: Status | str | None = None,
        limit: int = 100,
        after: int | None = None,
        *,
        before: int | None = None,
        order: Order = "newest",
        brief: Literal[False] = False,
        **filters: Unpack[OtherFilters],
    ) -> list[Job]: ...
    @overload
    def jobs(
        self,
        queue: str | None = None,
        status: Status | str | None = None,
        limit: int = 100,
        after: int | None = None,
        *,
        before: int | None = None,
        order: Order = "newest",
        brief: Literal[True],
        **filters: Unpack[OtherFilters],
    ) -> list[JobLine]: ...
    def jobs(
        self,
        queue: str | None = None,
        status: Status | str | None = None,
        limit: int = 100,
        after: int | None = None,
        *,
        before: int | None = None,
        order: Order = "newest",
        brief: bool = False,
        **filters: Unpack[OtherFilters],
    ) -> list[Job] | list[JobLine]:
        """Snapshots of jobs in the order of their enqueues: the newest first, or the oldest.

        ``after`` is the id of the last one on the page before, ``before`` that of the first one on the page
        after, in either order. Of filters all must hold: ``kind`` and ``key`` are equal, ``error`` is a part
        of the job's error, ``payload={"user.id": 7}`` is at that path in its payload. ``since`` and ``until``
        take an aware datetime, or a timedelta or seconds ago; ``time`` says of what: "created", "due", or
        "finished", which only jobs have that have ended. Without it that is the end of a job, and its
        creation where it has not ended.

        With ``brief`` each is a `JobLine`, which has the first kilobyte of the payload, and no result and no
        traceback. Raises InvalidJobError for a bad argument.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidJobError(f"limit is {limit!r}; it takes an int >= 1")
        if after is not None and before is not None:
            raise InvalidJobError("after and before were both given; a page begins at one of them")
        oldest = is_oldest(order)
        wanted = self._wanted({"queue": queue, "status": status, **filters})
        after, before = (None if one is None else checked_id(one) for one in (after, before))
        self.engine.ensure_readable()
        found = page_of(
            self.store, wanted, limit=limit, after=after, before=before, oldest=oldest, brief=brief
        )
        return [line_of(job) for job in found] if brief else found

    def iter_jobs(
        self,
        queue: str | None = None,
        status: Status | str | None = None,
        *,
        order: Order = "newest",
        **filters: Unpack[OtherFilters],
    ) -> Iterator[Job]:
        """Yield snapshots of all jobs that the filters of `jobs` take; they are read in pages of 500.

        Newest first it leaves out jobs that are enqueued meanwhile. Oldest first they come last.
        """
        oldest = is_oldest(order)
        wanted = self._wanted({"queue": queue, "status": status, **filters})
        self.engine.ensure_readable()
        return chain.from_iterable(pages(self.store, wanted, oldest=oldest))

    def count(self, *, at_most: int | None = None, **filters: Unpack[Filters]) -> int:
        """How many jobs the filters of `jobs` take; ``at_most`` where there are as many or more."""
        if at_most is not None and (isinstance(at_most, bool) or not isinstance(at_most, int) or at_most < 1):
            raise InvalidJobError(f"at_most is {at_most!r}; it takes an int >= 1, or None")
        wanted = self._wanted(filters)
        self.engine.ensure_readable()
        return count(self.store, wanted, at_most)

    def _wanted(self, filters: Mapping[str, Any]) -> Filter:
        return filter_of(filters, self.engine.clock.time())

    def wait(self, job_id: int, timeout: timedelta | float | None = None) -> Job:
        """Wait until a job has finished, and return it.

        Raises TimeoutError when ``timeout`` comes first, and NeoqError where nothing is known of the job:
        finished ones are kept as ``retention`` and ``max_finished`` say. In a handler it raises NeoqError for
        an unfinished job of the same queue, whose runners could all wait for one another.
        """
        return self.engine.wait(checked_id(job_id), seconds_of(timeout))

    def watch(self, job_id: int, timeout: timedelta | float | None = None) -> Iterator[Job]:
        """Yield a job as it is now, and again whenever its status or its progress has changed.

        The last one that it yields has finished. Changes in quick succession may be yielded as one, and
        progress is recorded at most twice a second. Raises what `wait` raises, in the loop.
        """
        return self.engine.watch(checked_id(job_id), seconds_of(timeout))

    def attempts(self, job_id: int) -> list[Attempt]:
        """The attempts of a job that are over, oldest first, at most the newest 20; [] for an unknown one.

        An attempt that failed, timed out, was abandoned, or whose process died leaves one, and so does the
        one that succeeds. One that was snoozed, cancelled or given back does not.
        """
        job = self.get(checked_id(job_id))
        return [] if job is None else attempts_of(job)

    def stats(self) -> Stats:
        """This backend in numbers."""
        self.engine.ensure_readable()
        counts = self.store.counts()
        pools = list(self.engine.pools.values())
        return Stats(
            ready=sum(queue.ready for queue in counts),
            scheduled=sum(queue.scheduled for queue in counts),
            retrying=sum(queue.retrying for queue in counts),
            running=sum(queue.running for queue in counts),
            succeeded=sum(queue.succeeded for queue in counts),
            dead=sum(queue.dead for queue in counts),
            cancelled=sum(queue.cancelled for queue in counts),
            held=sum(queue.held for queue in counts),
            held_lines=self._held_lines(),
            processed=sum(pool.attempts() for pool in pools),
            failed=self.engine.failures,
            runners=sum(len(pool.runners) for pool in pools),
            abandoned=sum(len(pool.abandoned) for pool in pools),
            skipped_ticks=self.engine.cron_scheduler.skipped,
            duplicates=self.engine.duplicates,
        )

    def _held_lines(self) -> int:
        if "limits" not in self.store.features:
            return 0
        holding = [queue for queue, limits in self.store.limits().items() if limits.holds_lines]
        return sum(line.state == "dead" for queue in holding for line in self.store.lines(queue))

    def queues(self) -> list[QueueCounts]:
        """Every queue's jobs, counted by where they are in their life."""
        self.engine.ensure_readable()
        unknown = self.engine.unknown.by_queue()
        return [
            replace(counts, unknown=unknown[counts.queue]) if counts.queue in unknown else counts
            for counts in self.store.counts()
        ]

    def workers(self) -> list[WorkerInfo]:
        """The processes that listen on this store and are alive; in memory this one, once it listens."""
        self.engine.ensure_readable()
        return self.store.workers()

    def schedules(self) -> list[ScheduleInfo]:
        """The schedules that some process on this store listens to, or did within the last day, by name."""
        self.engine.ensure_readable()
        if self.engine.running:
            self.engine.cron_scheduler.list_schedules()
        now: Any = to_datetime(self.engine.clock.time())
        found = [info_of(listed, now) for listed in self.store.schedules()]
        return [info for info in found if info is not None]

    def series(
        self, queue: str | None = None, since: datetime | timedelta | float | None = None
    ) -> list[SeriesPoint]:
        """What jobs came to over time, and how long they waited and ran: of one queue or all, oldest first.

        ``since`` is an aware datetime, or how long ago as a timedelta or in seconds; None is an hour. Within
        the last 8 hours there is a point for each minute, for an earlier ``since`` one for each ten minutes
        of the last 3 days. A queue has no point where none of its attempts ended. Each process adds what it
        has counted every 5 seconds. In memory these are the numbers of this process.
        """
        if queue is not None:
            check_queue(queue)
        self.engine.ensure_readable()
        now = self.engine.clock.time()
        begin = _since(since, now)
        if not self.engine.durable:
            self.engine.series_writer.write()
        recent = now - begin <= KEPT[MINUTE]
        return self.store.series(queue, begin, MINUTE if recent else TEN_MINUTES)

    def audit(self, limit: int = 100, before: int | None = None) -> list[AuditEntry]:
        """What was done by those who act under a name, newest first; see `neoq.audit.acting_as`.

        ``before`` is the id of the last entry on the page before. Entries are kept for 30 days.
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidJobError(f"limit is {limit!r}; it takes an int >= 1")
        before = None if before is None else checked_id(before)
        self.engine.ensure_readable()
        return self.store.audit(limit=limit, before=before)

    # -- operating ---------------------------------------------------------------------------------------

    @overload
    def cancel(self, job_id: int) -> bool: ...
    @overload
    def cancel(self, job_id: Iterable[int]) -> set[int]: ...
    def cancel(self, job_id: int | Iterable[int]) -> bool | set[int]:
        """Cancel a job: a waiting one at once, a running one by an interrupt; False if there is none.

        Of many ids it returns those whose jobs are, or will be, cancelled.
        """
        return self._operate(job_id, "cancel")

    @overload
    def retry(self, job_id: int) -> bool: ...
    @overload
    def retry(self, job_id: Iterable[int]) -> set[int]: ...
    def retry(self, job_id: int | Iterable[int]) -> bool | set[int]:
        """Run a dead or waiting job now; a dead one begins again with no retries behind it.

        Raises DuplicateJobError where its fingerprint is taken meanwhile. Of many ids it returns those whose
        jobs will run, and leaves such a job as it is.
        """
        return self._operate(job_id, "retry")

    @overload
    def delete(self, job_id: int) -> bool: ...
    @overload
    def delete(self, job_id: Iterable[int]) -> set[int]: ...
    def delete(self, job_id: int | Iterable[int]) -> bool | set[int]:
        """Forget a job that is not running; of many ids it returns those that are forgotten."""
        return self._operate(job_id, "delete")

    def cancel_all(self, **filters: Unpack[Filters]) -> int:
        """Cancel the unfinished jobs that the filters of `jobs` take; return how many.

        At least one filter is needed. Jobs that are enqueued meanwhile are left as they are.
        """
        return self._operate_all("cancel", filters)

    def retry_all(self, **filters: Unpack[Filters]) -> int:
        """Run now the jobs that the filters of `jobs` take: without ``status`` the dead and retrying ones.

        As `cancel_all`. A dead job whose fingerprint is taken is left as it is.
        """
        return self._operate_all("retry", filters)

    def delete_all(self, **filters: Unpack[Filters]) -> int:
        """Forget the jobs that the filters of `jobs` take and that do not run; as `cancel_all`."""
        return self._operate_all("delete", filters)

    def run_all(self, **filters: Unpack[Filters]) -> int:
        """Run now the jobs that the filters of `jobs` take and that wait for a later time; as `cancel_all`.

        These are future jobs and those that wait for a retry. Dead jobs stay dead; see `retry_all`.
        """
        return self._operate_all("run", filters)

    def _operate_all(self, action: Action, filters: Filters) -> int:
        wanted = self._wanted(filters)
        if wanted == ALL:
            known = ", ".join(Filters.__annotations__)
            raise InvalidJobError(
                f"{action}_all() needs a filter, or it would change every job; filters are {known}"
            )
        if filters.get("status") is None:
            changed, ended = _CHANGED[action], wanted.statuses
            wanted = replace(wanted, statuses=changed & ended if changed and ended else changed or ended)
        if wanted.statuses == frozenset():
            return 0
        self.engine.ensure_readable()
        with recorded(self.store, action, queue=wanted.queue, what=filter_text(wanted)) as deed:
            for page in pages(self.store, wanted, brief=True):
                self._change([job.id for job in page], action, deed)
            return deed.count

    def _operate(self, job_id: int | Iterable[int], action: Action) -> bool | set[int]:
        if isinstance(job_id, (str, bytes)) or not isinstance(job_id, Iterable):
            job_id = checked_id(job_id)
            self.engine.ensure_readable()
            with recorded(self.store, action, what=ids_text([job_id])) as deed:
                return bool(self._change_some([job_id], action, deed))
        ids = list(dict.fromkeys(map(checked_id, job_id)))
        self.engine.ensure_readable()
        with recorded(self.store, action, what=ids_text(ids)) as deed:
            return self._change(ids, action, deed)

    def _change(self, ids: list[int], action: Action, deed: Deed) -> set[int]:
        changed: set[int] = set()
        for start in range(0, len(ids), CHANGED_AT_ONCE):
            try:
                changed |= self._change_some(ids[start : start + CHANGED_AT_ONCE], action, deed)
            except DuplicateJobError:  # of a single one
                continue
        return changed

    def _change_some(self, ids: list[int], action: Action, deed: Deed) -> frozenset[int]:
        changed = self.store.change(ids, action)
        touched = changed.done | changed.running
        deed.count += len(touched)
        if action == "cancel":
            self.engine.note_cancelled(changed)
        if touched:
            self.engine.note_operated(touched)
        return touched

    def prune(self) -> int:
        """Forget finished and dead jobs beyond what the settings keep; return how many. Workers do so too."""
        self.engine.ensure_readable()
        with recorded(self.store, "prune") as deed:
            deed.count = self.store.prune()
            return deed.count

    def pause(self, queue: str) -> None:
        """Start no more jobs of a queue until `resume`; they can still be enqueued."""
        self._set_paused(queue, True)
        self.engine.note_change()

    def resume(self, queue: str) -> None:
        """Let a paused queue go on."""
        self._set_paused(queue, False)

    def _set_paused(self, queue: str, paused: bool) -> None:
        check_queue(queue)
        self.engine.ensure_readable()
        with recorded(self.store, "pause" if paused else "resume", queue=queue) as deed:
            self.store.set_paused(queue, paused)
            deed.count = 1


def _since(since: datetime | timedelta | float | None, now: float) -> float:
    """The time, in seconds since the epoch, that a caller of `series` names."""
    if since is None:
        return now - 3600.0
    if not isinstance(since, datetime):
        return now - to_seconds("since", since)
    if since.utcoffset() is None:
        raise InvalidJobError(f"since is the naive datetime {since!r}; give it a timezone")
    return since.timestamp()


def seconds_of(timeout: timedelta | float | None) -> float | None:
    """A timeout in seconds; None for none."""
    if timeout is None:
        return None
    seconds = to_seconds("timeout", timeout)
    if seconds < 0:
        raise InvalidJobError(f"timeout is {timeout!r}; it takes seconds >= 0, or None")
    return seconds
