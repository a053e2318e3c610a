"""Holding: what one backend does for held jobs, steps and batches beside its store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from neoq.batch import given, refreshed
from neoq.clock import machine
from neoq.engine.search import pages
from neoq.filter import Filter
from neoq.held.group import Batch, Group
from neoq.job import Job
from neoq.outcome import lease_of
from neoq.record import JobOptions

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config
    from neoq.engine.interrupt import AttemptSlot
    from neoq.engine.meter import Meter
    from neoq.engine.recorder import Recorder
    from neoq.store import Store

TEND_AT_MOST = 1.0  # seconds of one heartbeat


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
        self._slots = slots
        self._meter = meter

    def reset(self) -> None:
        """Begin again in the child of a fork."""
        self.__dict__.pop("recorder", None)

    @cached_property
    def recorder(self) -> Recorder:
        """What records steps."""
        from neoq.engine.recorder import Recorder  # here, since most programs have no steps

        return Recorder(self.store, patience=self.config.lease)

    # -- for the steps of an attempt ---------------------------------------------------------------------

    def given(self, queue: str | Job, payload: Any, options: JobOptions) -> list[Job]:
        """The job that an enqueue was given."""
        return [given(queue, payload, options)]

    def made_ready(self, jobs: Iterable[Job], group: Group | None, producer: int = 0) -> list[Job]:
        """Jobs as an enqueue would store them, in a group; there they are unique only if they say so."""
        fresh = refreshed(list(jobs))
        if group is not None:
            for job in fresh:
                if not job.says_unique and job.own_fingerprint is None:
                    job.unique, job.says_unique = False, True
                job.special = True
        ready = self.prepare(fresh)
        if group is not None:
            for job in ready:
                job.group, job.producer = str(group), producer
        return ready

    def note_enqueued(self, jobs: Sequence[Job]) -> None:
        """Jobs are stored with the outcome of an attempt."""
        self._meter().note_enqueued(jobs)

    def refuse_own_line(self, job: Job, children: Sequence[Job]) -> None:
        """Refuse a child that would wait in an ordered line for the turn that its parent keeps."""

    def members(self, job_id: int) -> Batch | None:
        """The members of a batch by the id of its callback, counted; None for a job that is none."""
        batch = self.store.group(job_id)
        return None if batch is None else replace(batch, _pages=lambda: self._pages(job_id))

    def _pages(self, job_id: int) -> Iterator[Job]:
        return chain.from_iterable(pages(self.store, Filter(group=Group(job_id).name), oldest=True))

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

    def tend(self) -> None:
        """Do what follows from what the store has recorded, as far as there is time for it."""
        give_up = machine.monotonic() + TEND_AT_MOST
        while self.store.tend() and machine.monotonic() < give_up:
            pass
