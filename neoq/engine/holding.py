"""Holding: what one backend does for held jobs, steps and batches beside its store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from neoq.batch import given, listed, refreshed
from neoq.clock import machine
from neoq.engine.dead_heads import log_held_line
from neoq.engine.search import pages
from neoq.errors import InvalidJobError, StaleLeaseError, UnsupportedError
from neoq.filter import Filter
from neoq.held.group import Batch, Group
from neoq.held.limit_options import NO_LIMITS, features_for, words_for
from neoq.job import Job
from neoq.outcome import Outcome, lease_of
from neoq.payload import sized_result
from neoq.record import JobOptions, Status

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config
    from neoq.engine.interrupt import AttemptSlot
    from neoq.engine.listener import Listener
    from neoq.engine.meter import Meter
    from neoq.engine.recorder import Recorder
    from neoq.held.limits import Limits
    from neoq.store import Store

_NOT_HANDED: Any = object()
TEND_AT_MOST = 1.0  # seconds of one heartbeat
CANCEL_AT_MOST = 10.0  # seconds until the members of a batch that is cancelled are left to the heartbeats


class Holding:
    """The part of a runtime that is asked by the steps of its attempts, and by its heartbeat."""

    def __init__(
        self,
        store: Store,
        config: Config,
        clock: Clock,
        *,
        slots: Callable[[], Iterable[AttemptSlot]],
        meter: Callable[[], Meter],
    ) -> None:
        self.store = store
        self.config = config
        self.clock = clock
        self.prepare: Callable[[list[Job]], list[Job]] = list  # as an enqueue does: set by the backend
        self.limited: set[str] = set()  # queues with limits
        self.nothing_ahead: set[str] = set()  # those of them whose jobs are claimed as they start
        self.dead_hold: set[str] = set()  # those in which a dead job holds the line of its key
        self.ready: dict[str, int] = {}  # jobs of them, as a drain has seen them last
        self._handed: dict[str, Limits | None] = {}
        self._slots = slots
        self._meter = meter

    def reset(self) -> None:
        """Begin again in the child of a fork."""
        self.__dict__.pop("recorder", None)
        self._handed.clear()

    @cached_property
    def recorder(self) -> Recorder:
        """What records steps."""
        from neoq.engine.recorder import Recorder  # here, since most programs have no steps

        return Recorder(self.store, patience=self.config.lease)

    def complete(self, job: Job, connection: Any, result: Any) -> None:
        """Settle a running job as succeeded inside its handler's own transaction."""
        outcome = Outcome(
            lease_of(job),
            Status.SUCCEEDED,
            started_at=job.started,
            finished_at=self.clock.time(),
            result=sized_result(result, self.config.max_payload),
        )
        stepped: Any = getattr(job.slot, "stepped", None)
        if stepped is not None:
            outcome = stepped.followed(outcome)
        if self.store.settle([outcome], transaction=connection):
            raise StaleLeaseError(
                f"job {job.id} is no longer ours: its lease was lost, and others may run it; roll back",
                queue=job.queue,
                job_id=job.id,
            )
        job.completed = True

    # -- for the steps of an attempt ---------------------------------------------------------------------

    def given(self, queue: str | Job, payload: Any, options: JobOptions) -> list[Job]:
        """The job that an enqueue was given."""
        return [given(queue, payload, options)]

    def made_ready(self, jobs: Iterable[Job], group: Group | None, producer: int = 0) -> list[Job]:
        """Jobs as an enqueue would store them, in a group; there they are unique only if they say so."""
        fresh = refreshed(listed(jobs))
        if group is not None:
            for job in fresh:
                if not job.says_unique and job.own_fingerprint is None:
                    job.unique, job.says_unique = False, True
                job.special = True
        ready = self.prepare(fresh)
        if group is not None:
            name = str(group)
            for job in ready:
                job.group, job.producer = name, producer
        return ready

    def note_enqueued(self, jobs: Sequence[Job]) -> None:
        """Jobs are stored with the outcome of an attempt."""
        self._meter().note_enqueued(jobs)

    def refuse_own_line(self, job: Job, children: Sequence[Job]) -> None:
        """Refuse a child that would wait in an ordered line for the turn that its parent keeps."""
        if job.key is None or not any(one.queue == job.queue and one.key == job.key for one in children):
            return
        limits = self.store.limits().get(job.queue) if "limits" in self.store.features else None
        if limits is not None and limits.ordered:
            raise InvalidJobError(
                f"a child of job {job.id} has its key {job.key!r} in the ordered queue {job.queue!r}, and "
                "would wait for ever for the turn that its parent keeps: give it another key or queue",
                queue=job.queue,
                job_id=job.id,
            )

    def members(self, job_id: int) -> Batch | None:
        """The members of a batch by the id of its callback, counted; None for a job that is none."""
        batch = self.store.group(job_id)
        return None if batch is None else replace(batch, _pages=lambda: self._pages(job_id))

    def _pages(self, job_id: int) -> Iterator[Job]:
        return chain.from_iterable(pages(self.store, Filter(group=Group(job_id).name), oldest=True))

    # -- limits ------------------------------------------------------------------------------------------

    def refuse_limits(self, limits: Limits, queue: str) -> None:
        """Raise where the store cannot keep limits."""
        missing = features_for(limits) - self.store.features
        if missing:
            raise UnsupportedError(
                f"{type(self.store).__name__} cannot limit a queue like that: {words_for(limits)}",
                queue=queue,
            )

    def hand_limits(self, listeners: Iterable[Listener]) -> None:
        """Let the store have the limits of queues that are served here from now on."""
        if not self.store.features & {"limits", "rates"}:
            return
        new = [one for one in listeners if self._handed.get(one.queue, _NOT_HANDED) != one.limits]
        if not new:
            return
        known = self.store.limits()
        for listener in new:
            queue, limits = listener.queue, listener.limits
            if limits is not None or queue in known:
                before = self.store.limit(queue, limits, by_listener=True)
                if before is not None and before != limits:
                    self.config.log.warning(
                        "queue %s has other limits now, which are those of its listener here: %s; another "
                        "process gave %s; give the same in all, since the last one that starts wins",
                        queue,
                        words_for(limits),
                        words_for(before),
                    )
            self._handed[queue] = limits
        self.refresh_limits()

    def refresh_limits(self) -> None:
        """Learn which queues have limits, and of which kinds."""
        if not self.store.features & {"limits", "rates"}:
            return
        limits_of = self.store.limits()
        limited = {queue for queue, limits in limits_of.items() if limits._replace(aging=None) != NO_LIMITS}
        counting = {queue for queue, limits in limits_of.items() if limits.counts_claims}
        holding = {queue for queue, limits in limits_of.items() if limits.holds_lines}
        sets = (self.limited, limited), (self.nothing_ahead, counting), (self.dead_hold, holding)
        for known, found in sets:
            known.update(found)  # in place, and never without those that stay: others look into it meanwhile
            known.intersection_update(found)

    def tell_dead_heads(self, jobs: Iterable[Job]) -> None:
        """Log which of these jobs, whose workers died once too often, hold the lines of their keys."""
        keyed = [job for job in jobs if job.key is not None]
        if keyed:
            self.refresh_limits()
        for job in keyed:
            if job.queue in self.dead_hold:
                log_held_line(self.config.log, job)

    # -- for the heartbeat -------------------------------------------------------------------------------

    def write_saved(self) -> None:
        """Record the values that running jobs have saved."""
        found = []
        for slot in self._slots():
            stepped = slot.stepped
            if stepped is not None and stepped.unsaved and not stepped.job.lease_lost:
                found.append((stepped, dict(stepped.unsaved)))
        if found:
            entries = [(lease_of(stepped.job), list(saved.values())) for stepped, saved in found]
            self.store.record(entries)  # a stale one has ended, or is stopped as its lease is not renewed
            for stepped, saved in found:
                stepped.note_saved(saved)

    def tend(self, seconds: float = TEND_AT_MOST) -> None:
        """Do what follows from what the store has recorded, as far as there is time for it."""
        give_up = machine.monotonic() + seconds
        while self.store.tend() and machine.monotonic() < give_up:
            pass
