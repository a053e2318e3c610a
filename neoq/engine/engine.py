"""The engine: what one backend runs. It wires pools, watchdog and cron together, starts and stops them."""

from __future__ import annotations

import _thread
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakValueDictionary

from neoq.checks import check_queue
from neoq.clock import machine
from neoq.engine.at_exit import alive, finish_before_pools_close
from neoq.engine.interactive import is_interactive, named_alike, place_of
from neoq.engine.interrupt import current_slot
from neoq.engine.listener import Listener, Middleware, Route
from neoq.engine.quiet import await_quiet, await_rest
from neoq.engine.report import Ending, ShutdownReport
from neoq.engine.runtime import Runtime
from neoq.engine.scheduler import Cron
from neoq.engine.shutdown import Shutdown, interrupts_us
from neoq.engine.waiting import Waiting
from neoq.engine.worker_log import say_started, warn_of_green_threads
from neoq.errors import (
    BackendClosedError,
    InvalidJobError,
    ListenerExistsError,
    NeoqError,
    NoListenerError,
)
from neoq.job import Job
from neoq.store import Store
from neoq.system import at_fork
from neoq.threads.lifecycle import refuse_isolated
from neoq.threads.loop import has_late, revive, tell_of_late
from neoq.threads.reentry import reentered

if TYPE_CHECKING:
    from neoq.config import Config


class Engine(Runtime):
    """The threads of one backend, and which calls are allowed when.

    ``needs_check`` is True while an enqueue has to ask first: before the store is open, after a fork, and
    once it is being shut down. ``manual_run`` runs what is ready while a test holds the threads.
    """

    only_looks: ClassVar[bool] = False
    """No backend of this process runs jobs: it has imported an application only to look at its store."""

    def __init__(self, config: Config, store_class: type[Store]) -> None:
        super().__init__(config, store_class)
        self.forget = partial(alive.pop, id(self), None)
        self._waiting = Waiting(self)
        _engines[id(self)] = self

    def forked(self) -> None:
        """Begin again in the child of a fork, where no thread but the forking one exists."""
        for pool in self.pools.values():
            for runner in pool.runners:
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
                self._new_pool(listener)
                if cron is not None:
                    self.crons.append(cron)
                    self.cron_scheduler.add(cron)
            if self.started:
                self.start()
        if not self.local:
            self._look_for_others(listener)

    def listen_tasks(self, routes: Sequence[Route]) -> None:
        """Register the listeners of tasks, and those of queues that have none yet: all, or none."""
        with self.lock:
            self._refuse_closed()
            for route in routes:
                self._refuse_plain(route)
            by_kind = self.routes.with_more(routes)
            if self.started and self.manual_run is None and not self.only_looks:
                self._open()  # here, where a store that is away leaves nothing behind
            self.routes.take(by_kind)
            for route in routes:
                self._take_route(route)
            if self.started:
                self.start()
            if self.running:  # jobs of these kinds may wait
                for pool in self.pools.values():
                    self.notify(pool.queue, "ready")

    def _refuse_plain(self, route: Route) -> None:
        queue = route.of_queue.queue
        present = self.listeners.get(queue)
        if present is not None and present.routes is None:
            raise ListenerExistsError(
                f"queue {queue!r} has a plain handler, so it cannot hold the task {route.kinds[0]}; "
                "give the task another queue=",
                queue=queue,
            )

    def _take_route(self, route: Route) -> None:
        if route.listener is not None:
            route.listener.wrap(self.middleware)
        of_queue = route.of_queue
        if of_queue.queue not in self.listeners:
            of_queue.routes = self.routes
            self.listeners[of_queue.queue] = of_queue
            self._new_pool(of_queue)
        self.listeners[of_queue.queue].limits = of_queue.limits or self.listeners[of_queue.queue].limits
        for cron in route.crons:
            self.crons.append(cron)
            self.cron_scheduler.add(cron)

    def configure(self, listener: Listener) -> None:
        """Let a queue that holds tasks have the concurrency and capacity of a listener."""
        with self.lock:
            present = self.listeners[listener.queue]
            present.concurrency, present.capacity = listener.concurrency, listener.capacity
            present.limits = listener.limits or present.limits
            if self.running and listener.queue in self.pools:
                self.pools[listener.queue].begin()

    def _listen_again(self, listener: Listener, cron: Cron | None) -> None:
        """Let a handler that was defined again replace the one before; elsewhere raise."""
        queue, present = listener.queue, self.listeners[listener.queue]
        if present.routes is not None:
            raise ListenerExistsError(
                f"queue {queue!r} holds tasks, and a plain handler needs a queue of its own; name another",
                queue=queue,
            )
        its_cron = next((one for one in self.crons if one.queue == queue), None)
        again = named_alike(listener.handler, present.handler) and (cron is None) == (its_cron is None)
        if not again or not is_interactive():
            advice = "give this one another queue"
            if cron is not None:
                advice = "pass queue= to give this cron a name of its own"
            elif again:
                advice = (
                    "to replace it, call shutdown() and make a new backend; or give this one another queue"
                )
            raise ListenerExistsError(f"queue {queue!r} has a handler already; {advice}", queue=queue)
        present.replace(listener)
        present.wrap(self.middleware)
        if self.running and queue in self.pools:
            self.pools[queue].begin()
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

    def _deliver_pending(self) -> None:
        if has_late():
            revive()
        slot = current_slot()
        if slot is not None:
            slot.deliver()
        with self.lock, self._check_lock:
            deferred = any(runner.slot.deferred for runner in self.runners())
            if (
                self.opened
                and not self._idle_unsaid
                and self.stopping is None
                and not deferred
                and not has_late()
            ):
                self.needs_check = False

    def use_middleware(self, middleware: Middleware) -> None:
        """Put middleware around every handler, those that listen already included."""
        with self.lock:
            self.middleware.append(middleware)
            for listener in (*self.listeners.values(), *self.routes.by_kind.values()):
                listener.wrap(self.middleware)

    # -- starting ----------------------------------------------------------------------------------------

    def ensure_open(self) -> None:
        """Open the store at the first call, and start the threads if they are to start by themselves."""
        if not self.needs_check:
            return
        self._deliver_pending()
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
                self.needs_check = self.stopping is not None or self._idle_unsaid
                alive[id(self)] = self
        finally:
            self._opening = False

    def choose(self, queues: Iterable[str]) -> None:
        """Run jobs of these queues only; InvalidJobError for one that has no handler here."""
        if isinstance(queues, str):
            raise InvalidJobError(f"queues is {queues!r}; it takes a list: [{queues!r}]")
        chosen = list(queues)
        for queue in chosen:
            if queue not in self.listeners:
                from neoq.wording.remedies import of_queue

                advice = of_queue(str(queue), self.listeners)
                raise InvalidJobError(f"this backend does not listen on queue {queue!r}; {advice}")
        with self.lock:
            if self.running and not set(chosen) >= set(self.pools):
                raise NeoqError(
                    "queues= comes too late: this process runs jobs already; make it autostart=False"
                )
            self.chosen = frozenset(chosen)
            self.leave_out_others()

    def start(self, queues: Iterable[str] | None = None) -> None:
        """Run jobs: idempotent."""
        if queues is not None:
            self.choose(queues)
        with self.lock:
            self._refuse_closed()
            self.started = True
            self._idle_unsaid = False
            if not self.pools or self.manual_run is not None or self.only_looks:
                return
            if not self.running:
                refuse_isolated()
                warn_of_green_threads(self.config)
            self._open()
            if self.is_worker and not self.said_started:
                self.said_started = True
                crons, now = self.cron_scheduler.at_work(), self.clock.time()
                say_started(self.config, self.pools, crons, now, durable=self.durable)
            self.holding.hand_limits([pool.listener for pool in self.pools.values()])
            self.running = True
            finish_before_pools_close()
            for pool in self.pools.values():
                pool.begin()
            self.cron_scheduler.start()
            self.watchdog.start()
            if self.fetcher is not None and self.heartbeat is not None:
                self.heartbeat.start()
                self.bounded_call.prepare()
                self.watchdog.expect(-math.inf)  # it looks at the heartbeat from now on
                self.fetcher.start()
                self.fetcher.call()
            else:
                self.wake_ready()

    # -- enqueue -----------------------------------------------------------------------------------------

    def check_enqueue(self, queue: str) -> None:
        """Raise where an enqueue is not allowed: the backend is closed, or nothing here runs that queue."""
        check_queue(queue)
        if self.needs_check:
            self.ensure_open_or_in_handler()
        self.require_listener(queue)

    def require_listener(self, queue: str) -> None:
        """In memory, refuse a queue that nothing here listens on; elsewhere see whether somebody does."""
        if queue in self.pools:
            return
        if self.durable:
            if self.unheard is not None:
                self.unheard.note(queue)
        else:
            raise NoListenerError(
                f"nothing in this process listens on queue {queue!r}, and jobs in memory run nowhere else; "
                f"call listen({queue!r}, handler) first, or use a durable backend"
                + (f" (it listens on {', '.join(map(repr, sorted(self.pools)))})" if self.pools else ""),
                queue=queue,
            )

    def ensure_open_or_in_handler(self) -> None:
        """As `ensure_open`, but handlers may still enqueue while the backend is being shut down."""
        if self.stopping is not None and self.opened and self.in_runner():
            self._deliver_pending()
        else:
            self.ensure_open()
        if self._idle_unsaid:
            self._say_idle()

    def _say_idle(self) -> None:
        """Say once that what listens here runs no jobs, which on a durable store is the default."""
        with self.lock:
            said, self._idle_unsaid = not self._idle_unsaid, False
        if self.pools and not said and self.manual_run is None:
            self.config.log.info(
                "this process runs no jobs of %s, it only enqueues: nothing has called start(), run() or "
                "`with backend:` here; jobs wait for a process that does, such as the command neoq worker",
                ", ".join(map(repr, sorted(self.pools))),
            )

    def ensure_readable(self) -> None:
        """Open the store for a call that only reads, which is allowed after the shutdown, too."""
        if self.needs_check:
            self._deliver_pending()
        if not self.opened:
            self.ensure_open()

    # -- looking -----------------------------------------------------------------------------------------

    def note_duplicate(self, job: Job) -> None:
        """Count an enqueue that stored nothing, and warn of a handler that has met its own job."""
        with self.changing:
            self.duplicates += 1
        slot = current_slot()
        if slot is None or slot.job is None or slot.job.id != job.id or job.queue in self._told_of_own:
            return
        if self.in_runner() or self.manual_run is not None:
            self._told_of_own.add(job.queue)
            self.config.log.warning(
                "job %s of %s has enqueued its own duplicate, so nothing was stored: it is unique until it "
                'ends; to run once more, listen with unique="until_started" or raise neoq.Snooze',
                job.id,
                job.queue,
            )

    def note_added(self, added: Sequence[Job]) -> None:
        """Count what an enqueue has stored, and what it has not."""
        for job in added:
            if job.duplicate:
                self.note_duplicate(job)
        self.meter.note_enqueued([job for job in added if not job.duplicate])

    # -- drain, wait and shutdown ------------------------------------------------------------------------

    def suspend(self, manual_run: Callable[[], int]) -> None:
        """Let the threads rest, once their jobs have ended: a test runs what is ready by hand."""
        with self.lock:
            if self.manual_run is not None:
                raise NeoqError("this backend is run by hand already: inline and clock cannot be combined")
            self.manual_run = manual_run
            self.cron_scheduler.suspended = True
            for pool in self.pools.values():
                pool.suspended = True
        try:
            await_rest(self, machine.monotonic() + self.config.shutdown_timeout)
        except BaseException:
            self.resume()
            raise

    def resume(self) -> None:
        """Let the threads work again."""
        with self.lock:
            self.manual_run = None
            self.cron_scheduler.suspended = False
            for pool in self.pools.values():
                pool.suspended = not self.runs(pool.queue)
            if self.started and self.stopping is None:
                self.start()

    def drain(self, timeout: float | None) -> bool:
        """Wait until `is_quiet`; False where the time ran out."""
        if self.in_runner():
            raise NeoqError("drain() inside a handler would wait for its own job to end")
        self.ensure_open()
        return self._waiting.drain(timeout)

    def wait(self, job_id: int, timeout: float | None) -> Job:
        """Wait until a job has finished."""
        self.ensure_readable()
        return self._waiting.wait(job_id, timeout)

    def watch(self, job_id: int, timeout: float | None) -> Iterator[Job]:
        """Yield a job now and at each change, until it has finished."""
        self.ensure_readable()
        return self._waiting.watch(job_id, timeout)

    def shutdown(self, timeout: float | None, *, drain: bool) -> ShutdownReport:
        """End; see `neoq.engine.shutdown`."""
        if self.stopping is None and interrupts_us():
            return self._ask_for_shutdown(timeout, drain)
        return self.begin_shutdown(timeout, drain=drain).run()

    def begin_shutdown(self, timeout: float | None, *, drain: bool) -> Ending:
        """The one shutdown of this engine, which its caller is to run."""
        with self.lock:
            if self.stopping is None:
                seconds = self.config.shutdown_timeout if timeout is None else timeout
                self.stopping = Shutdown(self, seconds, drain)
                self.needs_check = True
            return self.stopping

    def _ask_for_shutdown(self, timeout: float | None, drain: bool) -> ShutdownReport:
        """Leave it to a thread; the report fills when it is done."""
        stopping = Shutdown(self, self.config.shutdown_timeout if timeout is None else timeout, drain)

        def shut_down() -> None:
            with self.lock:
                if self.stopping is None:
                    self.stopping = stopping
                    self.needs_check = True
            self.stopping.run()

        thread = threading.Thread(target=shut_down, name="neoq-shutdown")
        # Not awaited: the frame under a signal handler may hold the lock that the start of a thread takes.
        _thread.start_new_thread(thread.start, ())
        return stopping.report

    def stop_claiming(self) -> None:
        """Claim nothing more, and give back what has not begun; running jobs may end.

        A claim that is under way may still bring jobs: a later call gives those back.
        """
        for pool in self.pools.values():
            pool.suspended = True
        if self.fetcher is not None:
            self.fetcher.give_back()

    def finish_at_exit(self) -> None:
        """Let jobs end as the main thread does; nothing is closed, since other threads may still enqueue."""
        if self.stopping is not None or not self.running or self.manual_run is not None:
            return
        give_up = self.ends_at = machine.monotonic() + self.config.shutdown_timeout
        if not self.durable:  # what is ready is run, too
            await_quiet(self, give_up)
            return
        self.stop_claiming()
        with self.waiting():
            while not all(runner.parked for runner in self.runners()) and machine.monotonic() < give_up:
                self.wait_for_change(0.01, self.changes)

    def stop_at_exit(self) -> None:
        """End with the interpreter: in memory what is ready is run first."""
        if self.stopping is None and self.opened:
            for pool in self.pools.values():
                pool.spare = 0 if pool.runners else pool.spare  # no thread can be started any more
            timeout = None if self.ends_at is None else max(0.0, self.ends_at - machine.monotonic())
            self.begin_shutdown(timeout, drain=not self.durable).run()

    def _refuse_closed(self) -> None:
        if self.stopping is not None:
            raise BackendClosedError("this backend was shut down; make a new one")


_engines: WeakValueDictionary[int, Engine] = WeakValueDictionary()


def _attend() -> None:
    """The next call at each backend is to ask again for the threads that are missing."""
    for engine in list(alive.values()):
        engine.needs_check = True


def _forked() -> None:
    """Also those whose store is not open: another thread, which is no more, may just have been opening it."""
    for engine in [reference() for reference in _engines.valuerefs()]:
        if engine is not None:
            engine.forked()


at_fork(after_in_child=_forked)
tell_of_late(_attend)
