"""The engine: what one backend runs. It wires lanes, watchdog and cron together, starts and stops them."""

from __future__ import annotations

import _thread
import atexit
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from neoq.boundary import entrance
from neoq.clock import LiveClock, machine
from neoq.engine.at_exit import before_pools_close
from neoq.engine.attempt import Listener, Middleware
from neoq.engine.interrupt import Guarded, Slot, Watchdog
from neoq.engine.pool import Lane, Runner, current_slot
from neoq.engine.scheduler import Cron, Ticker
from neoq.engine.shutdown import ShutdownReport, Stopping, interrupts_us
from neoq.engine.source import LocalSource, Source
from neoq.errors import (
    BackendClosedError,
    BackendError,
    JobCancelled,
    ListenerExistsError,
    NeoqError,
    NoListenerError,
    StaleLeaseError,
)
from neoq.job import FINISHED, Job, Status, check_queue, sized_result, to_datetime
from neoq.loop import has_late, revive, tell_of_late
from neoq.reentry import reentered
from neoq.session import is_interactive, named_alike, place_of
from neoq.store import Outcome, Store, StoreContext, WorkerInfo, lease_of, succeeded
from neoq.system import at_fork, host_name
from neoq.threads import Standby, green_threads, refuse_isolated

if TYPE_CHECKING:
    from neoq.config import Config
    from neoq.engine.fetcher import Fetcher
    from neoq.engine.heartbeat import Keeper
    from neoq.engine.settler import Settler


WORD_COMES = 1.0  # seconds in which we are told of the end of a job that ran here


@dataclass
class Awaited:
    """A job that `wait` waits for: in how many threads, as last seen, and how it ended if that was here."""

    waiters: int = 0
    seen: Job | None = None
    outcome: Outcome | None = None


class Engine:
    """The threads of one backend, and who may do what when.

    ``attention`` is True while an enqueue has to ask first: before the store is open, after a fork, and
    once it is being shut down. ``by_hand`` runs what is ready while a test
    holds the threads.
    """

    def __init__(self, config: Config, store_class: type[Store]) -> None:
        self.config = config
        self.clock = LiveClock()
        self.store = store = store_class(config, self._context())
        self.middleware: list[Middleware] = []
        self.crons: list[Cron] = []
        self.listeners: dict[str, Listener] = {}
        self.durable = "durable" in store.features
        self.local = "local" in store.features
        self.started = config.autostart
        self._reset()
        _engines[id(self)] = self

    def _context(self) -> StoreContext:
        return StoreContext(
            clock=self.clock,
            worker=self.worker_info,
            is_running=lambda: self.running,
            in_runner=self.in_runner,
            capacity_of=self.capacity_of,
            handed_over=self.handed_over,
            may_still_add=self.may_still_add,
            takes=self.takes,
        )

    def _reset(self) -> None:
        """A fresh life: at first, and in the child of a fork."""
        self.attention = True
        self._attention_lock = threading.RLock()  # innermost: an interrupter comes with its slot's lock
        self.by_hand: Callable[[], int] | None = None
        self.opened = False
        self._opening = False
        self.ends_at: float | None = None  # monotonic: since the main thread has ended
        self.running = False
        self.lock = threading.RLock()
        self.lanes: dict[str, Lane] = {}
        # Taken by its lock: a Condition's own `with` is Python code, which an exception of a signal handler
        # may leave halfway, with the lock taken.
        self._changing = threading.RLock()
        self.changed = threading.Condition(self._changing)
        self.watchers = 0
        self.told = 0  # how often they were told to look
        self.awaited: dict[int, Awaited] = {}
        self.stopping: Stopping | None = None
        self.worker_id = os.urandom(16).hex()
        self.began = self.clock.time()
        self.failures = 0
        self.duplicates = 0
        self._told_of_own: set[str] = set()  # queues
        self.watchdog = Watchdog("neoq-watchdog", self.clock, self._guarded, self.config.log)
        self.ticker = Ticker(self.store, self.config, self.clock)
        self.settler: Settler | None = None
        self.fetcher: Fetcher | None = None
        self.keeper: Keeper | None = None
        self.standby = Standby("neoq-shutdown")
        self.source: Source = self._new_source()
        for cron in self.crons:
            cron.seen = cron.first = cron.away = None
            self.ticker.add(cron)
        for listener in self.listeners.values():
            self._new_lane(listener)

    def _new_source(self) -> Source:
        if self.local:
            return LocalSource(self.store, self.settled, self.succeeded, self.parked, self._settle_later)
        # Imported only here: most programs that keep jobs in memory never need them.
        from neoq.engine.fetcher import Fetcher
        from neoq.engine.heartbeat import Keeper
        from neoq.engine.settler import Settler

        config = self.config
        self.settler = Settler(self.store, self.settled, config.log)
        self.fetcher = Fetcher(
            self.store,
            self.settler,
            config,
            self.clock,
            lanes=lambda: list(self.lanes.values()),
            parked=self.parked,
        )
        self.keeper = Keeper(
            self.store,
            config,
            held=self.held,
            unsettled=self.settler.unsettled,
            info=self.worker_info,
            cancel=self.cancel_running,
            lose=self.lose,
            fence=self.fetcher.fence,
        )
        return self.fetcher

    def forked(self) -> None:
        """Begin again in the child of a fork, where no thread but the forking one exists."""
        for lane in self.lanes.values():
            for runner in lane.runners:
                runner.slot.abandoned = True  # if it is this very thread, its loop ends with its job
        if not self.closed:
            self._reset()

    # -- listening ---------------------------------------------------------------------------------------

    def listen(self, listener: Listener, cron: Cron | None = None) -> None:
        """Register a queue's handler, and start it unless that is left to `start`.

        In an interactive session one that is defined again takes the place of the one before.
        """
        with self.lock:
            self._refuse_closed()
            if listener.queue in self.listeners:
                self._listen_again(listener, cron)
            else:
                listener.wrap(self.middleware)
                self.listeners[listener.queue] = listener
                self._new_lane(listener)
                if cron is not None:
                    self.crons.append(cron)
                    self.ticker.add(cron)
            if self.started:
                self.start()
        if not self.local:
            self._look_for_others(listener)

    def _listen_again(self, listener: Listener, cron: Cron | None) -> None:
        """Let a handler that was defined again replace the one before; elsewhere raise."""
        queue, present = listener.queue, self.listeners[listener.queue]
        its_cron = next((one for one in self.crons if one.queue == queue), None)
        again = named_alike(listener.handler, present.handler) and (cron is None) == (its_cron is None)
        if not again or not is_interactive():
            advice = "it has one, so give this one another queue"
            if cron is not None:
                advice = "pass queue= to give this cron a name of its own"
            elif again:
                advice = (
                    "to replace it, call shutdown() and make a new backend; or give this one another queue"
                )
            raise ListenerExistsError(f"queue {queue!r} has a handler already; {advice}", queue=queue)
        present.replace(listener)
        present.wrap(self.middleware)
        if self.running:
            self.lanes[queue].begin()
        if cron is not None and its_cron is not None:
            its_cron.schedule, its_cron.catch_up = cron.schedule, cron.catch_up
        self.config.log.info("the handler of queue %s was defined again: the new one is used", queue)

    def _look_for_others(self, listener: Listener) -> None:
        """Warn of another backend on the same store with a handler of the same name, perhaps old code."""
        queue, place = listener.queue, place_of(self.config)
        told = False
        for engine in [reference() for reference in _engines.valuerefs()]:
            if engine is None or engine is self or not engine.running or engine.closed:
                continue
            other = engine.listeners.get(queue)
            if other is None or other.handler is listener.handler or place_of(engine.config) != place:
                continue
            if not named_alike(other.handler, listener.handler):
                continue
            if is_interactive():
                with engine.lock:
                    other.run_as(listener)
                    other.wrap(engine.middleware)
            if not told:
                told = True
                self.config.log.warning(
                    "another backend of this process still takes jobs of queue %s, with a handler of the "
                    "same name, perhaps before it was changed; call shutdown() on it, unless both are meant",
                    queue,
                )

    def _new_lane(self, listener: Listener) -> None:
        lane = self.lanes[listener.queue] = Lane(
            listener,
            source=self.source,
            watchdog=self.watchdog,
            clock=self.clock,
            max_abandoned=self.config.max_abandoned,
            new_slot=self.new_slot,
        )
        lane.held = self.by_hand is not None

    def new_slot(self) -> Slot:
        """A slot for one thread that runs jobs."""
        complete = self._complete if "transactions" in self.store.features else None
        slot = Slot(self.clock, complete, self._draw_attention)
        slot.max_progress = self.config.max_payload
        return slot

    def _draw_attention(self) -> None:
        """An interrupt comes, or waits for its handler to leave our code: the next call of ours lands it."""
        with self._attention_lock:
            self.attention = True

    def _land(self) -> None:
        if has_late():
            revive()
        slot = current_slot()
        if slot is not None:
            slot.land()
        with self.lock, self._attention_lock:
            deferred = any(runner.slot.deferred for runner in self._runners())
            if self.opened and self.stopping is None and not deferred and not has_late():
                self.attention = False

    def _complete(self, job: Job, connection: Any, result: Any) -> None:
        """Settle a running job as succeeded inside its handler's own transaction."""
        outcome = Outcome(
            lease_of(job),
            Status.SUCCEEDED,
            started_at=job._ran_at,
            finished_at=self.clock.time(),
            result=sized_result(result, self.config.max_payload),
        )
        if self.store.settle([outcome], transaction=connection):
            raise StaleLeaseError(
                f"job {job.id} is no longer ours: its lease was lost, and others may have it; roll back",
                queue=job.queue,
                job_id=job.id,
            )
        job._completed = True

    def use_middleware(self, middleware: Middleware) -> None:
        """Put middleware around every handler, those that listen already included."""
        with self.lock:
            self.middleware.append(middleware)
            for listener in self.listeners.values():
                listener.wrap(self.middleware)

    @property
    def listens(self) -> bool:
        """Whether this process runs jobs."""
        return self.running and bool(self.lanes)

    # -- starting ----------------------------------------------------------------------------------------

    def use(self) -> None:
        """Be ready for a call: open the store at the first one, and start what was to start by itself."""
        if not self.attention:
            return
        self._land()
        with self.lock:
            self._refuse_closed()
            self._open()
            if self.started and not self.running:
                self.start()

    def _open(self) -> None:
        if self._opening:  # and this thread has the lock: something came in between
            raise reentered()
        self._opening = True
        try:
            if not self.opened:
                self.store.open_store(self.notify)
                self.opened = True
                self.attention = self.stopping is not None
                _alive[id(self)] = self
        finally:
            self._opening = False

    def start(self) -> None:
        """Run jobs: idempotent."""
        with self.lock:
            self._refuse_closed()
            self.started = True
            if not self.lanes or self.by_hand is not None:
                return
            if not self.running:
                refuse_isolated()
                self._warn_of_green_threads()
            self._open()
            self.running = True
            before_pools_close(_ending)
            for lane in self.lanes.values():
                lane.begin()
            self.ticker.start()
            if self.fetcher is not None and self.keeper is not None:
                self.keeper.start()
                self.watchdog.start()
                self.standby.prepare()
                self.watchdog.expect(-math.inf)  # it looks at the keeper from now on
                self.fetcher.start()
                self.fetcher.call()
            else:
                for counts in self.store.counts():
                    if counts.ready and counts.queue in self.lanes:
                        self.lanes[counts.queue].wake()

    def _warn_of_green_threads(self) -> None:
        if (patched_by := green_threads()) is not None:
            self.config.log.warning(
                "handlers run in green threads, for %s has patched threading: no timeout, cancel or shutdown "
                "can interrupt them there; run the jobs in a process without it",
                patched_by,
            )

    # -- what stores and runners tell --------------------------------------------------------------------

    def notify(self, queue: str, notice: str) -> None:
        """Something may have changed in the store."""
        if notice in {"ready", "called"}:
            lane = self.lanes.get(queue)
            if self.fetcher is not None:
                self.fetcher.fetch() if notice == "called" else self.fetcher.call()
            elif lane is not None:
                try:
                    lane.wake()
                except BaseException:  # of a signal handler, perhaps before anybody was called
                    lane.wake()
                    raise
        elif notice == "cancel" and self.keeper is not None:
            self.keeper.call()
        if self.watchers:
            self.tell()

    def takes(self, queue: str) -> bool:
        """Whether a job that is ready now in a queue of a store that is a round trip away is taken here."""
        lane = self.lanes.get(queue)
        return lane is not None and self.fetcher is not None and self.fetcher.takes(lane)

    def succeeded(self, jobs: Sequence[Job], stale: set[int]) -> None:
        """Successes are recorded; the stale ones were dropped."""
        if stale:
            self._warn_of(stale)
        if self.stopping is not None:
            self.stopping.note_succeeded(jobs, stale)
        if self.awaited:
            self._note_awaited([succeeded(job) for job in jobs if job.id in self.awaited], stale)
        if self.watchers:
            self.tell()

    def settled(self, outcomes: Sequence[Outcome], stale: set[int]) -> None:
        """Outcomes are recorded; the stale ones were dropped."""
        if stale:
            self._warn_of(stale)
        if self.stopping is not None:
            self.stopping.note(outcomes, stale)
        if self.awaited:
            self._note_awaited(outcomes, stale)
        if self.watchers:
            self.tell()

    def _settle_later(self, outcomes: list[Outcome], error: Exception) -> None:
        """Leave to a settler what a store in this process has just raised at, as out of memory."""
        from neoq.engine.settler import Settler

        with self._changing:
            if self.settler is None:
                self.settler = Settler(self.store, self.settled, self.config.log)
            settler = self.settler
        settler.put(outcomes)
        self.config.log.error(
            "the store did not take %d outcomes: they are settled again", len(outcomes), exc_info=error
        )

    def _note_awaited(self, outcomes: Sequence[Outcome], stale: set[int]) -> None:
        """Keep how a job ended for who waits for it: its store may not (retention=0)."""
        for outcome in outcomes:
            job_id = outcome.lease.job_id
            with self._changing:
                if job_id in self.awaited and job_id not in stale and outcome.status in FINISHED:
                    self.awaited[job_id].outcome = outcome

    def _warn_of(self, stale: set[int]) -> None:
        for job_id in stale:
            self.config.log.warning("job %s was settled elsewhere meanwhile: its outcome is dropped", job_id)

    def parked(self) -> None:
        """A runner found nothing to do."""
        if self.watchers:
            self.tell()

    def tell(self) -> None:
        """Let those who wait for a change look again."""
        with self._changing:
            self.told += 1
            self.changed.notify_all()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While somebody waits for a change."""
        with self._changing:
            self.watchers += 1
        try:
            yield
        finally:
            with self._changing:
                self.watchers -= 1

    def wait_for_change(self, seconds: float, seen: int) -> None:
        """Wait until something was settled or parked, or the time is up; not where ``seen`` is out of date.

        That is what `told` was when the caller began to look at what it waits for.
        """
        if has_late():
            revive()
        try:
            with self._changing:
                if seen == self.told:
                    self.changed.wait(min(seconds, self.config.job_check_interval))
        except RuntimeError as error:  # what a signal handler raises can come while wait() has not got the
            if error.__context__ is None:  # lock back: then the end of the block has nothing to release
                raise
            raise error.__context__ from None

    # -- enqueue -----------------------------------------------------------------------------------------

    def admit(self, queue: str) -> None:
        """Let an enqueue pass, or raise: closed, or nobody here ever runs that job."""
        check_queue(queue)
        if self.attention:
            self.use_or_pass()
        if not self.durable:
            self.refuse_unheard(queue)

    def refuse_unheard(self, queue: str) -> None:
        """In memory, refuse a queue that nothing here listens on."""
        if not self.durable and queue not in self.lanes:
            raise NoListenerError(
                f"nothing in this process listens on queue {queue!r}, and jobs in memory run nowhere else; "
                f"call listen({queue!r}, handler) first, or use a durable backend"
                + (f" (it listens on {', '.join(map(repr, sorted(self.lanes)))})" if self.lanes else ""),
                queue=queue,
            )

    def use_or_pass(self) -> None:
        """As `use`, but handlers may still enqueue while the backend is being shut down."""
        if self.stopping is not None and self.opened and self.in_runner():
            self._land()
        else:
            self.use()

    def look(self) -> None:
        """Be ready to be asked about jobs, also after the end."""
        if self.attention:
            self._land()
        if not self.opened:
            self.use()

    def may_still_add(self) -> bool:
        """Whether this thread runs a job that still counts: it may enqueue while the backend shuts down."""
        slot = current_slot()
        return slot is not None and not slot.abandoned and self.in_runner()

    def capacity_of(self, queue: str) -> int | None:
        """How many ready jobs a queue holds before its producers wait."""
        listener = self.listeners.get(queue)
        return self.config.queue_capacity if listener is None else listener.capacity

    def handed_over(self, queue: str) -> int:
        """Jobs of a queue that runners of this process hold and have not started."""
        lane = self.lanes.get(queue)
        return 0 if lane is None else lane.handed_over()

    def in_runner(self) -> bool:
        """Whether this thread is one of our runners."""
        slot = current_slot()
        return slot is not None and any(slot is runner.slot for runner in self.all_runners())

    # -- looking -----------------------------------------------------------------------------------------

    def _runners(self) -> list[Runner]:
        return [runner for lane in list(self.lanes.values()) for runner in list(lane.runners)]

    def _guarded(self) -> Iterator[Guarded]:
        """What the watchdog looks at."""
        yield from self._runners()
        if self.keeper is not None:
            yield self.keeper

    def all_runners(self) -> list[Runner]:
        """Every runner whose thread lives, those that were left behind included."""
        return self._runners() + [runner for lane in list(self.lanes.values()) for runner in list(lane.stuck)]

    def held(self) -> list[Job]:
        """Every job that this process has taken and that has not ended: fetched, handed over, or running."""
        held = self.fetcher.held() if self.fetcher is not None else []
        for runner in self._runners():
            held += list(runner.ahead)
            if (job := runner.slot.job) is not None:
                held.append(job)
        return held

    def cancel_running(self, job_ids: set[int]) -> None:
        """Interrupt jobs that run here, and keep those that were handed over from starting."""
        if job_ids:
            self._stop(lambda job: job.id in job_ids)

    def lose(self, leases: set[tuple[int, int]]) -> None:
        """Stop what is run here under these leases (job and token): others may run it by now."""
        if leases:
            self._stop(lambda job: (job.id, job._token) in leases, lost=True)

    def _stop(self, is_meant: Callable[[Job], bool], *, lost: bool = False) -> None:
        for job in filter(is_meant, self.held()):
            job._lost = job._lost or lost
            job._cancel = True
        for runner in self._runners():
            running = runner.slot.job
            if running is None or not is_meant(running):
                continue
            running._lost = running._lost or lost
            if runner.slot.interrupt(running, JobCancelled):
                self.watchdog.expect(-math.inf)

    def worker_info(self) -> WorkerInfo:
        """This process, as others see it."""
        now = to_datetime(self.clock.time())
        assert now is not None
        running = sum(runner.slot.job is not None for runner in self._runners())
        began: datetime = to_datetime(self.began) or now
        return WorkerInfo(
            self.worker_id, host_name(), os.getpid(), began, now, tuple(sorted(self.lanes)), running
        )

    def count_failure(self) -> None:
        """Count one failed attempt."""
        with self._changing:
            self.failures += 1

    def note_duplicate(self, job: Job) -> None:
        """Count an enqueue that stored nothing, and warn of a handler that has met its own job."""
        with self._changing:
            self.duplicates += 1
        slot = current_slot()
        if slot is None or slot.job is None or slot.job.id != job.id or job.queue in self._told_of_own:
            return
        if self.in_runner() or self.by_hand is not None:
            self._told_of_own.add(job.queue)
            self.config.log.warning(
                "job %s of %s has enqueued its own duplicate, so nothing was stored: it is unique until it "
                'ends; to run once more, listen with unique="until_started" or raise neoq.Snooze',
                job.id,
                job.queue,
            )

    # -- drain, wait and shutdown ------------------------------------------------------------------------

    def is_quiet(self) -> bool:
        """Whether nothing is ready or runs here."""
        claims = self.fetcher.claims if self.fetcher is not None else 0
        if self._is_busy():
            return False
        for counts in self.store.counts():
            lane = self.lanes.get(counts.queue)
            if lane is None or lane.stranded:
                continue
            if counts.ready and not counts.paused:
                return False
            if counts.running and self.local:
                return False
        return self.fetcher is None or (claims == self.fetcher.claims and not self._is_busy())

    def _is_busy(self) -> bool:
        """Whether a job is on its way from or to a store that is a round trip away."""
        if self.fetcher is None or self.settler is None:
            return False
        return (
            self.fetcher.busy
            or bool(self.fetcher.held())
            or any(len(lane.idle) < len(lane.runners) for lane in list(self.lanes.values()))
            or bool(self.settler.unsettled())
        )

    def hold(self, by_hand: Callable[[], int]) -> None:
        """Let the threads rest, once their jobs have ended: a test runs what is ready by hand."""
        with self.lock:
            if self.by_hand is not None:
                raise NeoqError("this backend is run by hand already: inline and clock cannot be combined")
            self.by_hand = by_hand
            self.ticker.held = True
            for lane in self.lanes.values():
                lane.held = True
        try:
            self._await_rest(machine.monotonic() + self.config.shutdown_timeout)
        except BaseException:
            self.go_on()
            raise

    def _await_rest(self, give_up: float) -> None:
        """Wait until the threads have ended what they held as they were told to rest."""
        with self.watching():
            while not self._rests():
                if machine.monotonic() > give_up:
                    raise NeoqError("jobs of this backend still run in threads; drain it before")
                self.wait_for_change(0.01, self.told)

    def _rests(self) -> bool:
        if not all(runner.parked for runner in self._runners()):
            return False
        if self.fetcher is not None:
            if self.fetcher.busy:
                return False
            self.fetcher.give_back()
        return self.settler is None or not self.settler.unsettled()

    def go_on(self) -> None:
        """Let the threads work again."""
        with self.lock:
            self.by_hand = None
            self.ticker.held = False
            for lane in self.lanes.values():
                lane.held = False
            if self.started and self.stopping is None:
                self.start()

    def drain(self, timeout: float | None) -> bool:
        """Wait until `is_quiet`; False where the time ran out."""
        if self.in_runner():
            raise NeoqError("drain() inside a handler would wait for its own job to end")
        self.use()
        if self.by_hand is not None:
            self.by_hand()
            return True
        if not self.running and not self.is_quiet():
            raise NeoqError("drain() waits for jobs that nobody runs: call start() first")
        try:
            return self.await_quiet(math.inf if timeout is None else machine.monotonic() + timeout)
        except BackendError:
            if self.stopping is None or not self.stopping.drained:
                raise
            return True  # a shutdown has drained all, and closed the store as we looked

    def await_quiet(self, give_up: float, broken_off: Callable[[], bool] = bool) -> bool:
        """Wait until `is_quiet`, at most until ``give_up`` (monotonic) or until it is broken off."""
        with self.watching():
            while True:
                seen = self.told
                if self.is_quiet():
                    return True
                left = give_up - machine.monotonic()
                if left <= 0 or broken_off():
                    return False
                self.wait_for_change(left, seen)

    def wait(self, job_id: int, timeout: float | None) -> Job:
        """Wait until a job has finished."""
        self.look()
        if self.by_hand is not None:
            self.by_hand()
            timeout = 0  # nothing else happens while this thread waits
        slot = current_slot()
        give_up = math.inf if timeout is None else machine.monotonic() + timeout
        with self.watching(), self._awaiting(job_id) as awaited:
            while True:
                seen = self.told
                job = self._look_for(job_id, awaited)
                if job is None:
                    return self._forgotten(job_id, awaited)
                if job.finished:
                    return job
                self._refuse_own(job, slot)
                awaited.seen = job
                if slot is not None and slot.asked is not None:
                    raise slot.asked
                left = give_up - machine.monotonic()
                if left <= 0:
                    raise TimeoutError(f"job {job_id} of {job.queue} is {job.status.name} after {timeout} s")
                self.wait_for_change(left, seen)

    def _refuse_own(self, job: Job, slot: Slot | None) -> None:
        """Raise where a handler would wait for its own job, or for a runner of its own queue."""
        own = None if slot is None else slot.job
        if own is None or own.queue != job.queue or not self.in_runner():
            return
        if own.id == job.id:
            raise NeoqError(
                "wait() inside a handler would wait for its own job to end", queue=job.queue, job_id=job.id
            )
        raise NeoqError(
            f"wait() inside a handler of queue {job.queue!r} would wait for job {job.id} of the same queue, "
            "whose runners may all be waiting like that; put the jobs that are waited for into a queue of "
            "their own",
            queue=job.queue,
            job_id=job.id,
        )

    def _look_for(self, job_id: int, awaited: Awaited) -> Job | None:
        """A job as its store has it; None where that does not know it, or was closed since the job ended."""
        try:
            return next(iter(self.store.find(ids=[job_id], limit=1)), None)
        except (BackendError, BackendClosedError):
            if awaited.outcome is None:
                raise
            return None

    @contextmanager
    def _awaiting(self, job_id: int) -> Iterator[Awaited]:
        with self._changing:
            awaited = self.awaited.setdefault(job_id, Awaited())
            awaited.waiters += 1
        try:
            yield awaited
        finally:
            with self._changing:
                awaited.waiters -= 1
                if not awaited.waiters:
                    del self.awaited[job_id]

    def _forgotten(self, job_id: int, awaited: Awaited) -> Job:
        """A job that its store no longer has: as it ended here while we waited, or an error."""
        if awaited.seen is not None:
            with self._changing:  # its store forgets it a moment before we are told how it ended
                self.changed.wait_for(lambda: awaited.outcome, WORD_COMES)
        outcome = awaited.outcome
        if outcome is None or awaited.seen is None:
            raise NeoqError(
                f"nothing is known of job {job_id}: it never was, or it finished and was forgotten "
                "(max_finished, retention)",
                job_id=job_id,
            )
        job = awaited.seen._copy()
        job.status, job._result = outcome.status, outcome.result
        job._ran_at, job._finished_at = outcome.started_at, outcome.finished_at
        return job

    def unfinished(self) -> list[Job]:
        """Every job that has not ended, oldest first."""
        statuses = (Status.PENDING, Status.RUNNING, Status.RETRYING)
        jobs = [job for status in statuses for job in self.store.find(status=status, limit=sys.maxsize)]
        return sorted(jobs, key=lambda job: job.id or 0)

    def shutdown(self, timeout: float | None, *, drain: bool) -> ShutdownReport:
        """End; see `neoq.engine.shutdown`."""
        if self.stopping is None and interrupts_us():
            return self._ask_for_shutdown(timeout, drain)
        return self.begin_shutdown(timeout, drain=drain).run()

    def begin_shutdown(self, timeout: float | None, *, drain: bool) -> Stopping:
        """The one shutdown of this engine, which its caller is to run."""
        with self.lock:
            if self.stopping is None:
                seconds = self.config.shutdown_timeout if timeout is None else timeout
                self.stopping = Stopping(self, seconds, drain)
                self.attention = True
            return self.stopping

    def _ask_for_shutdown(self, timeout: float | None, drain: bool) -> ShutdownReport:
        """Leave it to a thread; the report fills when it is done."""
        stopping = Stopping(self, self.config.shutdown_timeout if timeout is None else timeout, drain)

        def shut_down() -> None:
            with self.lock:
                if self.stopping is None:
                    self.stopping = stopping
                    self.attention = True
            self.stopping.run()

        thread = threading.Thread(target=shut_down, name="neoq-shutdown")
        # Not awaited: the frame under a signal handler may hold the lock that the start of a thread takes.
        _thread.start_new_thread(thread.start, ())
        return stopping.report

    def finish_at_exit(self) -> None:
        """Let jobs end as the main thread does; nothing is closed, for others may still enqueue."""
        if self.stopping is not None or not self.running or self.by_hand is not None:
            return
        give_up = self.ends_at = machine.monotonic() + self.config.shutdown_timeout
        if not self.durable:  # what is ready is run, too
            self.await_quiet(give_up)
            return
        for lane in self.lanes.values():
            lane.held = True
        with self.watching():
            while not all(runner.parked for runner in self._runners()) and machine.monotonic() < give_up:
                self.wait_for_change(0.01, self.told)

    def stop_at_exit(self) -> None:
        """End with the interpreter: in memory what is ready is run first."""
        if self.stopping is None and self.opened:
            for lane in self.lanes.values():
                lane.vacant = 0 if lane.runners else lane.vacant  # no thread can be started any more
            timeout = None if self.ends_at is None else max(0.0, self.ends_at - machine.monotonic())
            self.begin_shutdown(timeout, drain=not self.durable).run()

    def forget(self) -> None:
        """It is closed: nothing is to be done for it after a fork or at exit."""
        _alive.pop(id(self), None)

    @property
    def closed(self) -> bool:
        """Whether it is shut down, or about to be."""
        return self.stopping is not None

    def _refuse_closed(self) -> None:
        if self.stopping is not None:
            raise BackendClosedError("this backend was shut down; make a new one")


_alive: dict[int, Engine] = {}  # engines whose store is open
_engines: WeakValueDictionary[int, Engine] = WeakValueDictionary()


def _attend() -> None:
    """The next call at each backend is to ask again for the threads that are missing."""
    for engine in list(_alive.values()):
        engine.attention = True


def _forked() -> None:
    """Also those whose store is not open: another thread, which is no more, may just have been opening it."""
    for engine in [reference() for reference in _engines.valuerefs()]:
        if engine is not None:
            engine.forked()


@entrance
def _ending() -> None:
    for engine in list(_alive.values()):
        try:
            engine.finish_at_exit()
        except (KeyboardInterrupt, SystemExit):  # what still runs is interrupted
            engine.ends_at = 0.0
        except Exception as error:
            engine.config.log.debug("the end of the interpreter is not waited for: %s", error)


@entrance
def _exiting() -> None:
    for engine in list(_alive.values()):
        try:
            engine.stop_at_exit()
        except KeyboardInterrupt:  # it has hurried, and said what was lost
            pass


at_fork(after_in_child=_forked)
tell_of_late(_attend)
atexit.register(_exiting)
