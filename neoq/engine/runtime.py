"""Runtime: the parts of one backend, and what can be asked of all of them together."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from neoq.clock import LiveClock
from neoq.codec import with_codec
from neoq.engine.awaited import AwaitedJobs
from neoq.engine.holding import CANCEL_AT_MOST, Holding
from neoq.engine.interrupt import AttemptSlot, SecondLook, Supervised, Watchdog, current_slot
from neoq.engine.listener import Listener, Middleware, Routes
from neoq.engine.many import ManyListener, ManyRunner
from neoq.engine.meter import Meter
from neoq.engine.pool import Runner, RunnerPool
from neoq.engine.report import Ending
from neoq.engine.scheduler import Cron, CronScheduler
from neoq.engine.search import UNFINISHED, pages
from neoq.engine.series_writer import SeriesWriter
from neoq.engine.source import DirectSource, JobSource
from neoq.engine.step_maker import StepMaker
from neoq.engine.unknown import UnknownKinds
from neoq.engine.worker_info import info_of
from neoq.errors import (
    JobCancelled,
)
from neoq.job import Job
from neoq.outcome import Lease, Outcome, lease_of
from neoq.record import Status
from neoq.store import Changed, Extended, Reclaimed, Store, StoreContext, WorkerInfo
from neoq.threads.lifecycle import BoundedCall, await_change
from neoq.threads.loop import has_late, revive

if TYPE_CHECKING:
    from neoq.config import Config
    from neoq.engine.announcer import Announcer
    from neoq.engine.fetcher import Fetcher
    from neoq.engine.heartbeat import Heartbeat
    from neoq.engine.lookout import Lookout
    from neoq.engine.progress import ProgressWriter
    from neoq.engine.settler import Settler
    from neoq.engine.unheard import Unheard


class Runtime:
    """The parts of one backend: its store, the pools of its queues, and the threads that serve them."""

    opens_stores = True  # a frame of it is no reentry: see `neoq.threads.reentry`

    def __init__(self, config: Config, store_class: type[Store]) -> None:
        self.config = config
        self.clock = LiveClock()
        self.store = store = with_codec(store_class(config, self._context()))
        self.middleware: list[Middleware] = []
        self.crons: list[Cron] = []
        self.listeners: dict[str, Listener] = {}
        self.routes = Routes()
        self.holding = Holding(
            store,
            config,
            self.clock,
            slots=lambda: [runner.slot for runner in self.runners()],
            meter=lambda: self.meter,
        )
        self.durable = "durable" in store.features
        self.local = "local" in store.features and config.max_running is None  # a fetcher shares it out
        self.started = not self.durable if config.autostart is None else config.autostart
        self.chosen: frozenset[str] | None = None  # the queues to run; None: all that have handlers
        self._idle_unsaid = self.durable and config.autostart is None  # and it may listen
        self._reset()
        self.forget: Callable[[], object] = bool  # called when all is closed

    def _context(self) -> StoreContext:
        return StoreContext(
            clock=self.clock,
            worker=self.worker_info,
            is_running=lambda: self.running,
            in_runner=self.in_runner,
            asked=self.asked,
            ends_asked_for=self.ends_asked_for,
            announced=self.note_announced,
            capacity_of=self.capacity_of,
            handed_over=self.handed_over,
            may_enqueue_while_closing=self.may_enqueue_while_closing,
            takes=self.takes,
            undone=self.note_undone,
        )

    def _reset(self) -> None:
        """A fresh life: at first, and in the child of a fork."""
        self.needs_check = True
        self._check_lock = threading.RLock()  # innermost: an interrupter comes with its slot's lock
        self.manual_run: Callable[[], int] | None = None
        self.opened = False
        self._opening = False
        self.ends_at: float | None = None  # monotonic: since the main thread has ended
        self.running = False
        self.said_started = False
        self.is_worker = self.durable  # and says what it runs; in memory most programs do something else
        self.lock = threading.RLock()
        self.pools: dict[str, RunnerPool] = {}
        self.changing = threading.RLock()
        self.changed = threading.Condition(self.changing)
        self.waiters = 0
        self.changes = 0  # counted, so that a waiter sees that it missed one
        self.awaited = AwaitedJobs(self.changing)
        self.stopping: Ending | None = None
        self.worker_id = os.urandom(16).hex()
        self.began = self.clock.time()
        self.failures = 0
        self.duplicates = 0
        self.meter = Meter()
        self.series_writer = SeriesWriter(self.store, self.meter)
        self.holding.reset()
        self._told_of_own: set[str] = set()  # queues
        self._second_look = SecondLook(self._look_again, self.config.job_check_interval)
        self.unknown = UnknownKinds(self.store, self.config.log, self.listeners)
        self.watchdog = Watchdog("neoq-watchdog", self.clock, self._supervised, self.config.log)
        self.cron_scheduler = CronScheduler(self.store, self.config, self.clock, self.runs, self.meter)
        self.settler: Settler | None = None
        self.fetcher: Fetcher | None = None
        self.heartbeat: Heartbeat | None = None
        self.announcer: Announcer | None = None
        self.lookout: Lookout | None = None
        self.progress: ProgressWriter | None = None
        self.unheard: Unheard | None = None
        self.bounded_call = BoundedCall("neoq-shutdown")
        self.source: JobSource = self._new_source()
        for cron in self.crons:
            cron.seen = cron.first = cron.away = None
            self.cron_scheduler.add(cron)
        for listener in self.listeners.values():
            self._new_pool(listener)

    def runs(self, queue: str) -> bool:
        """Whether jobs of a queue are run here, once anything is: it was not left out."""
        return self.chosen is None or queue in self.chosen

    def leave_out_others(self) -> None:
        """Keep only the pools of chosen queues at work."""
        for queue in [queue for queue in self.pools if not self.runs(queue)]:
            self.pools[queue].suspended = True
            if self.durable:  # in memory it would refuse jobs of this queue
                del self.pools[queue]

    def _settle_later(self, outcomes: list[Outcome], error: Exception) -> None:
        """Leave to a settler what a store in this process has just raised at, as out of memory."""
        from neoq.engine.settler import Settler

        with self.changing:
            if self.settler is None:
                self.settler = Settler(self.store, self.settled, self.config.log)
            settler = self.settler
        settler.put(outcomes)
        self.config.log.error(
            "the store did not take %d outcomes: they are settled again", len(outcomes), exc_info=error
        )

    def _new_source(self) -> JobSource:
        if self.local:
            return DirectSource(
                self.store,
                self.settled,
                self.parked,
                self._settle_later,
                kinds_of=lambda queue: self.listeners[queue].kinds,
            )
        # Imported only here: most programs that keep jobs in memory never need them.
        from neoq.engine.announcer import Announcer
        from neoq.engine.fetcher import Fetcher
        from neoq.engine.lookout import Lookout
        from neoq.engine.progress import ProgressWriter
        from neoq.engine.settler import Settler
        from neoq.engine.unheard import Unheard

        config = self.config
        self.settler = Settler(self.store, self.settled, config.log)
        self.fetcher = Fetcher(
            self.store,
            self.settler,
            config,
            self.clock,
            pools=lambda: list(self.pools.values()),
            parked=self.parked,
            claimed=self.note_claimed,
            nothing_ahead=self.holding.nothing_ahead,
        )
        self.announcer = Announcer(self.store, config)
        self.lookout = Lookout(self.store, config, self.awaited)
        self.unheard = Unheard(self.store, config.log)
        self.progress = ProgressWriter(
            self.store,
            config,
            running=self._running,
            extended=self.note_extended,
            written=self.note_changed,
        )
        self.heartbeat = self._new_heartbeat(self.settler, self.fetcher)
        return self.fetcher

    def _new_heartbeat(self, settler: Settler, fetcher: Fetcher) -> Heartbeat:
        from neoq.engine.heartbeat import Heartbeat

        return Heartbeat(
            self.store,
            self.config,
            held=self.held,
            unsettled=settler.unsettled,
            info=self.worker_info,
            extended=self.note_extended,
            abandon_leases=self.abandon_leases,
            reclaimed=self.note_reclaimed,
            fence=fetcher.fence,
            duties={
                "list of schedules": self.cron_scheduler.list_schedules,
                "numbers for the series": self.series_writer.write_in_time,
                "look for unknown kinds": self.unknown.log_new,
                "saved values": self.holding.write_saved,
                "care of groups": self.holding.tend,
                "look for limits": self.holding.refresh_limits,
            },
        )

    def _new_pool(self, listener: Listener) -> None:
        pool = self.pools[listener.queue] = RunnerPool(
            listener,
            source=self.source,
            watchdog=self.watchdog,
            clock=self.clock,
            max_abandoned=self.config.max_abandoned,
            new_slot=self.new_slot,
        )
        pool.suspended = self.manual_run is not None
        pool.nothing_ahead = self.holding.nothing_ahead
        if isinstance(listener, ManyListener):
            pool.runner_class = ManyRunner
        self.leave_out_others()

    def new_slot(self) -> AttemptSlot:
        """A slot for one thread that runs jobs."""
        complete = self.holding.complete if "transactions" in self.store.features else None
        slot = AttemptSlot(self.clock, complete, self._require_check)
        slot.max_progress = self.config.max_payload
        slot.dead_hold = self.holding.dead_hold
        slot.step_maker = StepMaker(self.holding)
        if self.progress is not None and self.manual_run is None:
            slot.on_report = self.progress.note_report
        return slot

    def _require_check(self) -> None:
        """An interrupt is pending until its handler leaves our code: let the next call of ours deliver it."""
        with self._check_lock:
            self.needs_check = True

    def notify(self, queue: str, notice: str) -> None:
        """Something may have changed in the store."""
        if notice in {"ready", "called"}:
            pool = self.pools.get(queue)
            if self.fetcher is not None:
                self.fetcher.fetch() if notice == "called" else self.fetcher.call()
            elif pool is not None:
                pool.wake()
        elif notice == "cancel" and self.heartbeat is not None:
            self.heartbeat.call()
        elif notice == "cancel":
            self._second_look.hurry()
            self.watchdog.expect(-math.inf)
        if self.waiters:
            self.note_change()

    def takes(self, queue: str) -> bool:
        """Whether a job that is ready now in a queue of a store that is a round trip away is taken here."""
        pool = self.pools.get(queue)
        return pool is not None and self.fetcher is not None and self.fetcher.takes(pool)

    def settled(self, outcomes: Sequence[Outcome], stale: set[int]) -> None:
        """Outcomes are recorded; the stale ones were dropped."""
        others = self.meter.note(outcomes, stale, 0.0 if self.fetcher is None else self.fetcher.skew)
        if stale:
            self._warn_of(stale)
        if self.heartbeat is not None and any(
            one.status is Status.DEAD and one.lease.counted for one in others
        ):
            self.heartbeat.call()  # its batch may stop at it
        if self.stopping is not None:
            self.stopping.note(outcomes, stale)
        if self.awaited.by_id:
            self.awaited.note_outcomes(outcomes, stale)
        if self.announcer is not None:
            self.announcer.note_outcomes(outcomes, stale)
        if self.waiters:
            self.note_change()

    def asked(self, job_ids: Sequence[int], every_change: bool) -> None:
        """Another process waits for these jobs, or watches them."""
        if self.announcer is not None:
            self.announcer.note_asked(job_ids, every_change)

    def ends_asked_for(self, outcomes: Sequence[Outcome]) -> list[int]:
        """The jobs of these outcomes whose end another process waits for."""
        return [] if self.announcer is None else self.announcer.ends_asked_for(outcomes)

    def note_announced(self, job_ids: Sequence[int]) -> None:
        """The store has announced the end of these jobs as it recorded it."""
        if self.announcer is not None:
            self.announcer.note_announced(job_ids)

    def note_undone(self, outcome: Outcome) -> None:
        """An attempt that its handler had completed is recorded as failed."""
        self.meter.note_undone(outcome)
        assert outcome.failure is not None
        self.config.log.warning("job %s of %s failed: %s", *outcome.lease[:2], outcome.failure.message)

    def note_claimed(self, jobs: Sequence[Job]) -> None:
        """Jobs were claimed here."""
        if self.awaited.by_id or (self.announcer is not None and self.announcer.was_asked):
            self.note_changed([job.id for job in jobs])

    def note_changed(self, job_ids: Sequence[int], *, may_have_ended: bool = False) -> None:
        """Jobs were claimed here, have reported progress, or were taken from a worker that died."""
        if self.awaited.by_id:
            self.awaited.note_changed(job_ids)
        if self.announcer is not None:
            self.announcer.note_changed(job_ids, may_have_ended=may_have_ended)

    def note_operated(self, job_ids: Collection[int]) -> None:
        """Jobs were cancelled, retried or deleted here by hand."""
        self.note_change()
        self.awaited.note_changed(job_ids)
        if self.announcer is not None:
            self.announcer.announce(job_ids)

    def note_cancelled(self, changed: Changed) -> None:
        """Jobs were cancelled here by hand: stop those that run, and what waits with or for them."""
        self.cancel_running(set(changed.running))
        if "batches" in self.store.features:
            self.holding.tend(CANCEL_AT_MOST)

    def note_extended(self, leases: Sequence[Lease], extended: Extended) -> None:
        """Leases were renewed: stop what is lost, and what was cancelled."""
        lost, cancelled = extended
        # By lease and not by job: it may have been settled meanwhile, and claimed again by this process.
        self.abandon_leases({(lease.job_id, lease.token) for lease in leases if lease.job_id in lost})
        self.cancel_running(cancelled)

    def note_reclaimed(self, reclaimed: Reclaimed) -> None:
        """Jobs were taken from workers that died."""
        self.meter.note_lost(*reclaimed)
        self.note_changed([job.id for jobs in reclaimed for job in jobs], may_have_ended=True)
        self.holding.tell_dead_heads(reclaimed.dead)

    def _warn_of(self, stale: set[int]) -> None:
        for job_id in stale:
            self.config.log.warning("job %s was settled elsewhere meanwhile: its outcome is dropped", job_id)

    def parked(self) -> None:
        """A runner found nothing to do."""
        if self.waiters:
            self.note_change()

    def note_change(self) -> None:
        """Wake every thread that waits for a change."""
        with self.changing:
            self.changes += 1
            self.changed.notify_all()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a wait: inside, changes are notified."""
        with self.changing:
            self.waiters += 1
        try:
            yield
        finally:
            with self.changing:
                self.waiters -= 1

    def wait_for_change(self, seconds: float, seen: int) -> None:
        """Wait until something was settled or parked, or the time is up; not where ``seen`` is out of date.

        That is what `changes` was when the caller began to look at what it waits for.
        """
        if has_late():
            revive()
        seconds = min(seconds, self.config.job_check_interval)
        await_change(self.changing, self.changed, lambda: seen == self.changes, seconds)

    def may_enqueue_while_closing(self) -> bool:
        """Whether this thread runs a job that still counts: it may enqueue while the backend shuts down."""
        slot = current_slot()
        return slot is not None and not slot.abandoned and self.in_runner()

    def capacity_of(self, queue: str) -> int | None:
        """How many ready jobs a queue holds before its producers wait."""
        listener = self.listeners.get(queue)
        return self.config.queue_capacity if listener is None else listener.capacity

    def handed_over(self, queue: str) -> int:
        """Jobs of a queue that runners of this process hold and have not started."""
        pool = self.pools.get(queue)
        return 0 if pool is None else pool.handed_over()

    def in_runner(self) -> bool:
        """Whether this thread is one of our runners."""
        slot = current_slot()
        return slot is not None and any(slot is runner.slot for runner in self.all_runners())

    @property
    def listens(self) -> bool:
        """Whether this process runs jobs."""
        return self.running and bool(self.pools)

    def runners(self) -> list[Runner]:
        """Every runner that was not abandoned."""
        return [runner for pool in list(self.pools.values()) for runner in list(pool.runners)]

    def _supervised(self) -> Iterator[Supervised]:
        """What the watchdog looks at."""
        yield from self.runners()
        yield self._second_look if self.heartbeat is None else self.heartbeat

    def wake_ready(self) -> None:
        """Wake a runner in each pool of a store in this process that has ready jobs."""
        for counts in self.store.counts():
            if counts.ready and not counts.paused and counts.queue in self.pools:
                self.pools[counts.queue].wake_again()

    def _look_again(self) -> None:
        self.wake_ready()
        if held := self.held():  # a group that was stopped may have cancelled some
            self.cancel_running(self.store.extend(list(map(lease_of, held))).cancelled)
        self.unknown.log_new()
        self.holding.tend()
        self.series_writer.write_in_time()

    def all_runners(self) -> list[Runner]:
        """Every runner whose thread lives, the abandoned ones included."""
        return self.runners() + [
            runner for pool in list(self.pools.values()) for runner in list(pool.abandoned)
        ]

    def _running(self) -> list[Job]:
        return [job for runner in self.runners() if (job := runner.slot.job) is not None]

    def held(self) -> list[Job]:
        """Every job that this process has taken and that has not ended: fetched, handed over, or running."""
        held = self.fetcher.held() if self.fetcher is not None else []
        for runner in self.runners():
            held += [*runner.ahead, *runner.together]
            if (job := runner.slot.job) is not None and not runner.together:
                held.append(job)
        return held

    def cancel_running(self, job_ids: set[int]) -> None:
        """Interrupt jobs that run here, and keep those that were handed over from starting."""
        if job_ids:
            self._stop(lambda job: job.id in job_ids)

    def abandon_leases(self, leases: set[tuple[int, int]]) -> None:
        """Stop what runs here under these leases (job and token): other workers may run it by now."""
        if leases:
            self._stop(lambda job: (job.id, job.token) in leases, lost=True)

    def _stop(self, is_meant: Callable[[Job], bool], *, lost: bool = False) -> None:
        for job in filter(is_meant, self.held()):
            self.meter.leases_lost += lost and not job.lease_lost
            job.lease_lost = job.lease_lost or lost
            job.cancel_asked = True
        for runner in self.runners():
            running = runner.slot.job
            if running is None or runner.together or not is_meant(running):
                continue
            running.lease_lost = running.lease_lost or lost
            if runner.slot.interrupt(running, JobCancelled):
                self.watchdog.expect(-math.inf)

    def worker_info(self) -> WorkerInfo:
        """This process, as other workers see it."""
        return info_of(self.worker_id, self.began, self.clock.time(), self.listeners, self.pools)

    def count_failure(self) -> None:
        """Count one failed attempt."""
        with self.changing:
            self.failures += 1

    def unfinished(self) -> list[Job]:
        """Every job that has not ended, oldest first."""
        return [job for page in pages(self.store, UNFINISHED) for job in page][::-1]

    @property
    def closed(self) -> bool:
        """Whether it is shut down, or about to be."""
        return self.stopping is not None
