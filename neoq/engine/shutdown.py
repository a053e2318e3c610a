"""The graceful end: stop claiming, give back, wait, interrupt, settle, close, and report on each job."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.engine.quiet import await_quiet
from neoq.engine.report import ShutdownReport
from neoq.engine.worker_log import say_stopped, say_stopping
from neoq.errors import BackendError, ShutdownRequested
from neoq.job import Job
from neoq.outcome import Outcome, given_back
from neoq.record import FINISHED, Status
from neoq.threads.boundary import entered
from neoq.threads.frames import frames_from
from neoq.threads.lifecycle import start

if TYPE_CHECKING:
    from neoq.engine.pool import Runner
    from neoq.engine.runtime import Runtime

INTERRUPT_GRACE = 0.6  # seconds that interrupted handlers get to clean up
CLOSING_GRACE = 0.3  # and the last settles after them: with it the whole call keeps to its bound
LONGEST = threading.TIMEOUT_MAX / 2  # seconds, a century and more: no thread may wait much longer at once
CLOSING = 1.0  # seconds that the call takes beyond its timeout, at most, where the store answers
STANDSTILL = 5.0  # and as many more where the store does not answer: then the shutdown gives up
NAMED_IN_LOG = 20
SLICE = 0.1  # seconds


class Shutdown:
    """One shutdown of one engine; a second caller waits for the first, and gets the same report."""

    def __init__(self, runtime: Runtime, timeout: float, drain: bool) -> None:
        self.report = ShutdownReport()
        self.drained = False  # before it began to close
        self._runtime = runtime
        self._timeout = min(timeout, LONGEST)
        self._drain = drain
        self._lock = threading.RLock()
        self._begun = False
        self._done = threading.Event()
        self._ended: set[int] = set()
        self._returned: set[int] = set()
        self._asked: set[int] = set()
        self._unsettled: set[int] = set()
        self._held: dict[int, Job] = {}  # as they were when the shutdown began
        self._reported = False
        self._give_up = 0.0
        self._by = 0  # the thread that shuts down
        self._hurried = False
        self._hurried_at = math.inf  # monotonic
        self._broken_off: BaseException | None = None

    def note(self, outcomes: Sequence[Outcome], stale: set[int]) -> None:
        """Remember what was settled meanwhile."""
        with self._lock:
            for outcome in outcomes:
                job_id = outcome.lease.job_id
                if job_id in stale:
                    continue
                if outcome.status in FINISHED:
                    self._ended.add(job_id)
                elif outcome.status is Status.PENDING and outcome.started_at is None:
                    self._returned.add(job_id)

    def hurry(self) -> None:
        """Wait for jobs no longer: those that run are interrupted. A signal handler may call it."""
        if not self._hurried:
            self._hurried_at = machine.monotonic()
            self._hurried = True

    def run(self) -> ShutdownReport:
        """Shut down, or wait for the thread that does.

        An exception that breaks off the waiting, such as Ctrl-C, hurries the rest and is raised at its end.
        """
        own = self._own_runner()
        with self._lock:
            first, self._begun = not self._begun, True
        if first:
            self._by = threading.get_ident()
            try:
                self._stop_in_time(own)
            finally:
                self._done.set()
            if self._broken_off is not None:
                raise self._broken_off
        elif own is None and self._by != threading.get_ident():  # else a signal came while it shuts down
            try:
                self._done.wait(self._timeout + CLOSING + (0 if self._runtime.local else STANDSTILL))
            except BaseException:
                self.hurry()
                raise
        return self.report

    @contextmanager
    def _impatient(self) -> Iterator[None]:
        """Around each wait of the first caller: what breaks it off is kept until all is closed."""
        try:
            yield
        except Exception:
            raise
        except BaseException as error:
            self._broken_off = error
            self.hurry()
            self._runtime.note_change()

    def _stop_in_time(self, own: Runner | None) -> None:
        """Stop; for a remote store in its own thread, since a call to it may never return."""
        runtime = self._runtime
        if runtime.local:
            self._stop(own)
            return
        seconds = self._timeout + CLOSING + STANDSTILL
        if self._in_standby(own, seconds):
            return
        mine = None if own is None or own.slot.job is None else own.slot.job.id
        unknown = {job.id: job for job in runtime.held() if job.id is not None and job.id != mine}
        self._held |= unknown
        self._unsettled |= unknown.keys()
        if runtime.settler is not None:
            self._unsettled |= {outcome.lease.job_id for outcome in runtime.settler.unsettled()}
        runtime.config.log.error(
            "the store does not answer, and the shutdown gave up after %.1f s; the outcomes of %d jobs may "
            "be unrecorded, and those jobs will run again: %s",
            seconds,
            len(self._unsettled),
            sorted(self._unsettled)[:NAMED_IN_LOG],
        )
        self._report(own, self._known)

    def _in_standby(self, own: Runner | None, seconds: float) -> bool:
        """Stop in a thread of its own; whether that was done in time."""
        done = False
        give_up = machine.monotonic() + seconds
        with self._impatient():
            while not done and machine.monotonic() < give_up:
                done = self._runtime.bounded_call.run(lambda: self._stop(own), min(SLICE, seconds))
                if self._hurried:
                    give_up = min(give_up, self._hurried_at + CLOSING + STANDSTILL)
        if self._broken_off is not None and not done:
            done = self._runtime.bounded_call.run(lambda: self._stop(own), CLOSING + STANDSTILL)
        return done

    def _own_runner(self) -> Runner | None:
        """The runner of this thread, if a handler shuts its own backend down."""
        me = threading.current_thread()
        return next((runner for runner in self._runtime.all_runners() if runner.thread is me), None)

    def _stop(self, own: Runner | None) -> None:
        runtime = self._runtime
        give_up = self._give_up = machine.monotonic() + self._timeout
        if runtime.durable:
            self._held = {job.id: job for job in runtime.held() if job.id is not None}
        runtime.cron_scheduler.close()
        if not runtime.opened:
            return
        if runtime.is_worker and runtime.running:
            running = sum(runner.slot.job is not None for runner in runtime.all_runners())
            say_stopping(runtime.config, running, self._timeout)
        runtime.store.stop_waiting()
        if self._drain and runtime.running and own is None:
            try:
                with self._impatient():
                    self.drained = await_quiet(runtime, give_up, lambda: self._hurried)
            except BackendError as error:
                runtime.config.log.warning("nothing more is drained: %s", error)
        if runtime.fetcher is not None:
            left = runtime.fetcher.stop(self._patience() - CLOSING_GRACE, CLOSING_GRACE)
            runtime.source.settle([given_back(job) for job in left])
        for pool in runtime.pools.values():
            pool.stop()
        with self._impatient():
            self._await_runners(own, give_up, lambda: self._hurried)
        self._interrupt(own)
        with self._impatient():
            self._await_runners(own, machine.monotonic() + INTERRUPT_GRACE, lambda: False)
        self._abandon_rest(own)
        if own is None:
            self._close()
        else:
            self._write_report(own)
            # Its own job still runs: the watchdog and the store stay until it has ended.
            start(threading.Thread(target=self._close_after, args=(own,), name="neoq-shutdown"))

    def _patience(self) -> float:
        """Seconds for a claim or a settle that is under way: all that are left, and a moment at least."""
        give_up = min(self._give_up, self._hurried_at + CLOSING)
        return max(CLOSING_GRACE, give_up - machine.monotonic())

    def _await_runners(self, own: Runner | None, give_up: float, hurried: Callable[[], bool]) -> None:
        for runner in self._runtime.all_runners():
            # In slices, since the watchdog may abandon a thread that is waited for.
            while runner is not own and runner.thread.is_alive() and not runner.slot.abandoned:
                left = give_up - machine.monotonic()
                if left <= 0 or hurried():
                    break
                runner.thread.join(min(left, SLICE))

    def _interrupt(self, own: Runner | None) -> None:
        for runner in self._runtime.all_runners():
            job = runner.slot.job
            if runner is own or job is None:
                continue
            if runner.slot.interrupt(job, ShutdownRequested) and runner.slot.asked is ShutdownRequested:
                self._asked.update(one.id or 0 for one in runner.called_with(job))
        self._runtime.watchdog.expect(-math.inf)

    def _abandon_rest(self, own: Runner | None) -> None:
        """Settle the attempts of handlers that ignored their interrupt, and abandon their threads."""
        for runner in self._runtime.all_runners():
            job, asked = runner.slot.job, runner.slot.asked
            if runner is own or job is None or asked is None or not runner.slot.abandon(job):
                continue
            runner.pool.replace(runner)
            outcome, error, say = runner.settle_abandoned(job, asked)
            say()
            self._runtime.config.log.warning(
                "job %s of %s did not stop for the shutdown; its thread %s was abandoned, and the job is %s",
                job.id,
                job.queue,
                runner.thread.name,
                self._became(outcome),
            )
            if error is not None:
                runner.pool.run_callback(runner.pool.listener.of(job).call_on_error, job, error)
        for pool in self._runtime.pools.values():
            with pool.lock:
                callback_threads = pool.callback_threads
            for thread in callback_threads:
                thread.join(CLOSING_GRACE)

    def _became(self, outcome: Outcome) -> str:
        """What an attempt's end means for its job, in words."""
        if outcome.status is not Status.PENDING:
            return str(outcome.status)
        return "given back, to be run again" if self._runtime.durable else "lost with this process"

    def _close_after(self, own: Runner) -> None:
        own.thread.join()
        self._close(report=False)

    def _close(self, *, report: bool = True) -> None:
        runtime = self._runtime
        runtime.watchdog.close()
        if runtime.settler is not None:
            # As long as shutdown may take: what has run and is not recorded would run again.
            left = runtime.settler.close(self._patience())
            self._unsettled |= {outcome.lease.job_id for outcome in left}
        if runtime.heartbeat is not None:
            runtime.heartbeat.close()
        for part in (runtime.progress, runtime.announcer, runtime.lookout, runtime.unheard):
            if part is not None:
                part.close()
        if report:
            self._write_report(None)
        try:
            runtime.series_writer.write()
        except BackendError as error:
            runtime.config.log.warning("the last numbers of the series were not kept: %s", error)
        try:
            runtime.store.close_store()
        except BackendError:
            runtime.config.log.exception("the store did not close cleanly")
        runtime.awaited.note_changed(None)
        runtime.forget()

    def _write_report(self, own: Runner | None) -> None:
        try:
            self._report(own, self._find)
        except BackendError as error:
            self._runtime.config.log.error("the report of the shutdown is incomplete: %s", error)  # noqa: TRY400
            self._report(own, self._known)

    def _report(self, own: Runner | None, find: Callable[[set[int]], list[Job]]) -> None:
        """Report once, with the jobs as ``find`` has them."""
        runtime, found = self._runtime, ShutdownReport()
        with self._lock:
            ended, asked, returned = set(self._ended), set(self._asked), set(self._returned)
        found.finished = find(ended)
        found.interrupted = find(asked - ended)
        if runtime.durable:
            found.given_back = find(returned - self._unsettled)
            found.lost = find(self._unsettled)
        elif find == self._find:
            mine = None if own is None or own.slot.job is None else own.slot.job.id
            found.lost = [job for job in runtime.unfinished() if job.id != mine]
        with self._lock:
            if self._reported:  # without us, when we were late
                return
            self._reported = True
            vars(self.report).update(vars(found))
        if runtime.is_worker and runtime.running:
            say_stopped(runtime.config, found)
        if found.lost:
            named = ", ".join(f"job {job.id} of {job.queue}" for job in found.lost[:NAMED_IN_LOG])
            more = f" and {len(found.lost) - NAMED_IN_LOG} more" if len(found.lost) > NAMED_IN_LOG else ""
            runtime.config.log.warning("shutdown lost %d unfinished jobs: %s%s", len(found.lost), named, more)

    def _find(self, job_ids: set[int]) -> list[Job]:
        return self._runtime.store.of_ids(job_ids)[::-1]

    def _known(self, job_ids: set[int]) -> list[Job]:
        """What this process had of these jobs, which cannot be looked for."""
        return [self._held[job_id].snapshot() for job_id in sorted(job_ids & self._held.keys())]


def interrupts_us() -> bool:
    """Whether the caller is a signal handler that came while this thread was inside neoq.

    The frame below may hold one of our locks, so nothing may be waited for here.
    """
    if threading.current_thread() is not threading.main_thread():
        return False
    call = entered(frames_from(sys._getframe(1)))
    return call is not None and entered(frames_from(call.f_back)) is not None
