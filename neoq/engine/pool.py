"""Runner threads: each takes jobs of one queue, runs them, and hands their outcomes on.

A `RunnerPool` is a queue's runners. They are started as work comes, up to its concurrency; those without work
are parked. They are woken one at a time: a runner that finds more jobs than it takes wakes the next.
"""

from __future__ import annotations

import math
import os
import threading
import traceback
from collections import deque
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Any

from neoq.engine.attempt import Judged, abandoned, attempt
from neoq.engine.coroutines import close_loop
from neoq.engine.interrupt import FLUSH_AFTER, AttemptSlot, Interrupt, Watchdog, enter
from neoq.errors import JobInterrupted
from neoq.job import Job
from neoq.outcome import Successes, given_back
from neoq.threads.frames import gc_paused, stack_frames
from neoq.threads.lifecycle import Wakeup, start
from neoq.threads.loop import try_later
from neoq.wording.safe_logger import Lines

if TYPE_CHECKING:
    from contextvars import Context

    from neoq.clock import Clock
    from neoq.engine.listener import Listener
    from neoq.engine.source import JobSource

MAX_AHEAD = 64  # jobs handed to a runner at once, at most
AHEAD_SECONDS = 0.005  # and never beyond what takes longer than this
SMOOTHING = 0.2  # weight of the newest chunk in the average duration of a job
TINY_JOB = (
    20e-6  # seconds: shorter jobs gain nothing from more threads, which only contend for the interpreter
)
RUNNER_ERROR_PAUSE = 1.0  # seconds that a runner waits after an error outside of its job


class RunnerPool:
    """One queue's runners; ``lock`` guards its lists of them."""

    def __init__(
        self,
        listener: Listener,
        *,
        source: JobSource,
        watchdog: Watchdog,
        clock: Clock,
        max_abandoned: int,
        new_slot: Callable[[], AttemptSlot],
    ) -> None:
        self.listener = listener
        self.queue = listener.queue
        self.source = source
        self.watchdog = watchdog
        self.clock = clock
        self.lock = threading.RLock()  # a signal handler may enqueue meanwhile
        self.runners: list[Runner] = []
        self.idle: list[Runner] = []  # parked; a thread that takes one out has to wake it
        self.abandoned: list[Runner] = []  # abandoned, and not yet come back
        self.spare = 0  # runners that may still be started
        self.waking = False  # a runner was woken and has not looked yet
        # Its jobs are so short that the other runners rest, though more are ready.
        self.sole_runner: Runner | None = None
        self.stopping = False
        self.without_threads = False  # the interpreter is going down, and no thread can be started any more
        self.suspended = False  # a test runs the jobs by hand
        self.runner_class: type[Runner] = Runner
        self.processed = 0  # by runners that are gone
        self.callback_threads: list[threading.Thread] = []
        self._busy = 0.0  # seconds that the last chunks took, and their jobs: decaying sums
        self._jobs = 0.0
        self.nothing_ahead: Container[str] = ()  # queues of which each job is claimed as it starts
        self._max_abandoned = max_abandoned
        self._new_slot = new_slot
        self._numbers = 0

    def begin(self) -> None:
        """Allow runners to be started."""
        with self.lock:
            if not self.stopping:
                self.spare = self.listener.concurrency - len(self.runners)

    def wake(self) -> None:
        """Let one more runner look for jobs; called for each enqueue, so it is cheap."""
        if self.waking or self.suspended:
            return
        if self.idle:
            self.waking = True
            try:
                runner = self.idle.pop()
            except IndexError:  # another thread took the last one
                self.waking = False
            else:
                runner.wakeup.set()
        elif self.spare > 0:
            self._start_runner()

    def wake_again(self) -> None:
        """Wake a runner for jobs that lie ready, whatever became of the calls before.

        An exception of a signal handler may end `wake` halfway, so the watchdog does this once in a while.
        """
        for runner in list(self.runners):
            if runner.parked and runner not in self.idle:  # taken out, and perhaps never woken
                runner.wakeup.set()
        self.sole_runner = None
        self.waking = False
        self.wake()

    def call_help(self, runner: Runner) -> None:
        """Wake another runner for the jobs that wait behind a slow one."""
        if self.sole_runner is runner:
            self.sole_runner = None
        self.wake()

    def _start_runner(self) -> None:
        with self.lock:
            if self.spare > 0 and not self.waking:
                self._start(deque())

    def _start(self, ahead: deque[Job]) -> bool:
        """Start a runner; whether there was a thread for it."""
        self.waking = True
        self._numbers += 1
        runner = None
        try:
            runner = self.runner_class(self, self._new_slot(), ahead, self._numbers)
            self.spare -= 1
            self.runners.append(runner)
            self.watchdog.start()
            start(runner.thread)
        except BaseException as error:  # a signal handler may raise, too
            if runner is None or runner.thread.ident is None:
                self._take_back(runner)
            if not isinstance(error, (RuntimeError, OSError)):
                raise
            self._say_no_thread(error)  # none are left, or the interpreter is going down
            return False
        return True

    def _take_back(self, runner: Runner | None) -> None:
        """Leave the place of a runner free whose thread did not start."""
        self.waking = False
        if runner in self.runners:
            self.runners.remove(runner)
            self.spare += 1

    def _say_no_thread(self, error: Exception) -> None:
        self.without_threads = not self.runners and not threading.main_thread().is_alive()
        self.listener.logger.error("no thread for queue %s: %s", self.queue, error)
        if threading.main_thread().is_alive():
            try_later(self, self.wake)

    def stop(self) -> None:
        """Take no more jobs; runners end after the one that they run."""
        with self.lock:
            self.stopping = True
            self.spare = 0
        while self.idle:
            try:
                self.idle.pop().wakeup.set()
            except IndexError:
                return

    def handed_over(self) -> int:
        """Jobs that runners hold and have not started."""
        return sum(len(runner.ahead) for runner in list(self.runners))

    def fits_ahead(self) -> int:
        """How many jobs the runners at work finish in the few milliseconds that may be claimed ahead.

        It weighs jobs, not chunks: a chunk of one that waited for the interpreter says little. Parked runners
        do not count, since their figures are old.
        """
        if not self._busy:
            return 0
        at_work = max(1, len(self.runners) - len(self.idle))
        return int(at_work * AHEAD_SECONDS * self._jobs / self._busy)

    def learn(self, jobs: int, seconds: float) -> None:
        """Remember what a chunk took. Two threads at once may lose one of theirs, which does no harm."""
        self._jobs += jobs - SMOOTHING * self._jobs
        self._busy += seconds - SMOOTHING * self._busy

    def attempts(self) -> int:
        """Attempts that have ended here."""
        return self.processed + sum(runner.processed for runner in list(self.runners))

    def left(self, runner: Runner) -> None:
        """A runner's thread ends."""
        with self.lock:
            came_back = runner in self.abandoned
            if came_back:
                self.abandoned.remove(runner)
                self._replace_missing()
            elif runner in self.runners:
                self.runners.remove(runner)
                self.processed += runner.processed
        if came_back:
            self.wake()

    def replace(self, runner: Runner) -> None:
        """Give the place of a runner that hangs to a new thread, with all that it held ahead."""
        ahead: deque[Job] = deque()
        while runner.ahead:
            try:
                ahead.append(runner.ahead.popleft())
            except IndexError:
                break
        with self.lock:
            if runner not in self.runners:
                return
            self.runners.remove(runner)
            self.processed += runner.processed + 1
            self.abandoned.append(runner)
            if self.sole_runner is runner:
                self.sole_runner = None
            if not self.stopping:
                self.spare = 0 if self.at_abandoned_limit else self.spare + 1
                if self.spare and self._start(ahead):
                    return
        if ahead:  # without the lock: a store that adds a job has its own first, and takes this one then
            self.source.settle([given_back(job) for job in ahead])

    def run_callback(self, task: Callable[..., None], *args: Any) -> None:
        """Do something that may call the user's code, such as on_error, and must not hold up the watchdog."""
        thread = threading.Thread(target=task, args=args, name=f"neoq-callback-{self.queue}", daemon=True)
        try:
            with self.lock:  # a shutdown waits for those that it finds here, which must have begun
                start(thread)
                self.callback_threads = [other for other in self.callback_threads if other.is_alive()] + [
                    thread
                ]
        except RuntimeError:  # the interpreter is going down
            task(*args)

    def _replace_missing(self) -> None:
        """Fill the places that stayed empty while too many threads hung."""
        if not self.stopping and not self.at_abandoned_limit:
            self.spare = self.listener.concurrency - len(self.runners)

    def warn_at_abandoned_limit(self) -> None:
        """Log that too many threads hang: not in the watchdog's thread, for a log may hang, too."""
        if self.at_abandoned_limit and not self.stopping:
            self.listener.logger.critical(
                "queue %s has %d abandoned threads (max_abandoned) and claims no more; its handlers "
                "hang where no timeout can stop them: give their sockets and locks timeouts of their own",
                self.queue,
                len(self.abandoned),
            )

    @property
    def at_abandoned_limit(self) -> bool:
        """Whether too many of its threads hang for it to take jobs."""
        return len(self.abandoned) >= self._max_abandoned


class Runner:
    """One thread that runs jobs, with what was handed to it ahead and what it has done."""

    def __init__(self, pool: RunnerPool, slot: AttemptSlot, ahead: deque[Job], number: int) -> None:
        self.pool = pool
        self.slot = slot
        self.ahead = ahead
        self.done = slot.done
        self.wakeup = Wakeup()
        self.together: list[Job] = []  # of one call of a handler that takes many: see many.py
        self.parked = False  # it waits to be called
        self.processed = 0
        self._seen: Job | None = None
        self._size = 1  # of the next chunk
        self._chunk = 0
        self._chunk_began = 0.0
        self.seconds = 0.0  # that a job takes, on average
        self._pid = os.getpid()
        name = f"neoq-runner-{pool.queue}-{number}"
        self.thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        enter(self.slot)
        self.pool.waking = False
        while True:
            try:
                context = self.pool.listener.surroundings.fresh()
                if context.run(self._work, context):
                    break
            except JobInterrupted:
                continue  # it landed after its job's end; the job is not concerned
            except BaseException:  # a thread that ended here would still count as a runner
                self.pool.listener.logger.exception(
                    "a runner of queue %s goes on after an error", self.pool.queue
                )
                if self.pool.stopping:
                    break
                self.pool.call_help(self)
                threading.Event().wait(RUNNER_ERROR_PAUSE)
        try:
            close_loop()
        except BaseException as error:  # of what coroutines have left behind
            self.pool.listener.logger.debug("the event loop of a runner was not closed: %s", error)
        if os.getpid() != self._pid:  # a child forked in a handler that has returned: nothing is left to do
            os._exit(0)
        self.pool.left(self)

    def _work(self, context: Context) -> bool:
        """Run jobs in a context until the thread is to end; False: a job has spoiled the context."""
        pool, slot, ahead, done = self.pool, self.slot, self.ahead, self.done
        listener, watchdog = pool.listener, pool.watchdog
        spoiled = listener.surroundings.spoiled
        while True:
            try:
                job = ahead.popleft()
            except IndexError:
                if self._next_chunk():
                    continue
                return True
            if pool.stopping:
                pool.source.settle([given_back(job)])
                continue
            outcome = attempt(job, listener if listener.routes is None else listener.of(job), slot, watchdog)
            if outcome is job:
                done.append(job)
            elif outcome is not None:
                self.processed += 1
                pool.source.settle([outcome])  # type: ignore[list-item]
            if slot.abandoned:
                return True  # another thread has this place by now
            if context and spoiled(context):  # mostly it is empty
                return False

    def _next_chunk(self) -> bool:
        """Hand on what is done and take up more; False: the thread is to end."""
        pool = self.pool
        if self._chunk:
            self._learn()
        self._flush()
        while not pool.stopping:
            if self._find():
                return True
            self._park()
            if self.ahead:
                return True
        return False

    def _find(self) -> bool:
        alone = self.pool.sole_runner
        if alone is not None and alone is not self and 0.0 < self.seconds < TINY_JOB:
            return False
        return self._take() or self._steal()

    def _take(self) -> bool:
        if self.pool.at_abandoned_limit or self.pool.suspended:
            return False
        pool = self.pool
        jobs, more = pool.source.take(pool.queue, self._size)
        alone = more and 0.0 < self.seconds < TINY_JOB
        if alone:
            pool.sole_runner = self
        elif pool.sole_runner is self:
            pool.sole_runner = None
        if not jobs:
            return False
        self.ahead.extend(jobs)
        self._chunk = len(jobs)
        self._chunk_began = now = pool.clock.monotonic()
        if self._chunk > 1 or alone:
            pool.watchdog.expect(now + FLUSH_AFTER)
        if more and not alone:
            pool.wake()
        return True

    def _learn(self) -> None:
        """Adapt how much is handed over at once to how long these jobs take."""
        seconds = self.pool.clock.monotonic() - self._chunk_began
        self.pool.learn(self._chunk, seconds)
        seconds /= self._chunk
        self.seconds += SMOOTHING * (seconds - self.seconds)
        fits = int(AHEAD_SECONDS / max(self.seconds, seconds, 1e-6))
        most = 1 if self.pool.queue in self.pool.nothing_ahead else MAX_AHEAD
        self._size = max(1, min(2 * self._size, fits, most))
        self._chunk = 0

    def _steal(self) -> bool:
        """Take a job that waits behind another runner's."""
        for other in list(self.pool.runners):
            if other is not self and other.ahead:
                try:
                    self.ahead.append(other.ahead.popleft())
                except IndexError:
                    continue
                return True
        return False

    def _park(self, seconds: float | None = None) -> None:
        """Wait to be woken. It joins `idle` first and looks for jobs after: so it misses no wakeup."""
        pool = self.pool
        pool.idle.append(self)
        try:
            if not (pool.stopping or self._find()):
                pool.source.note_idle(pool.queue)
                self.parked = True
                self.wakeup.wait(seconds)
        finally:
            self.parked = False
            called = self._was_called()
            if called:
                pool.waking = False
        if called and self.ahead:
            pool.wake()  # the call may have been for another job than the one taken here

    def _was_called(self) -> bool:
        """Take this runner out of `idle`; whether another thread had done so, to wake it."""
        try:
            self.pool.idle.remove(self)
        except ValueError:
            return True
        return False

    def _flush(self) -> None:
        """Hand on successes; the watchdog does it too, for those that wait behind a long job."""
        done = self.done
        if not done:
            return
        succeeded = []
        try:
            while True:
                succeeded.append(done.popleft())
        except IndexError:
            pass
        self.processed += len(succeeded)
        self.pool.source.settle(Successes(succeeded))

    def _abandon(self, job: Job) -> None:
        """Settle the attempt of a thread that ignored its interrupt, and replace that thread."""
        asked = self.slot.asked
        if asked is None or not self.slot.abandon(job):
            return
        stack = _stack_of(self)
        self.pool.replace(self)
        self.pool.run_callback(self._report_abandoned, job, asked, stack)

    def _report_abandoned(self, job: Job, asked: Interrupt, stack: str) -> None:
        _, error, say = self.settle_abandoned(job, asked)  # first of all: a log may hang, too
        self.pool.listener.logger.error(
            "job %s of %s did not stop when interrupted; its thread %s was abandoned, and hangs at:\n%s",
            job.id,
            self.pool.queue,
            self.thread.name,
            Lines(stack),
        )
        say()
        self.pool.warn_at_abandoned_limit()
        if error is not None:
            self.pool.listener.of(job).call_on_error(job, error)

    def called_with(self, job: Job) -> Sequence[Job]:
        """The jobs whose handler runs, of which ``job`` is the one in the slot."""
        return [job]

    def settle_abandoned(self, job: Job, asked: Interrupt) -> Judged:
        """Settle the attempt of an abandoned thread.

        Return its outcome, the error for on_error, and the function that logs it.
        """
        judged = abandoned(job, self.pool.listener.of(job), self.slot, asked)
        if judged[1] is not None or self.slot.uncounted:
            self.pool.listener.failed()  # counted before the outcome is seen
        self.pool.source.settle([judged[0]])
        return judged

    def check(self, now: float) -> float:
        """Interrupt, abandon, flush or wake another runner where it is due: the watchdog calls this."""
        pool, slot, job = self.pool, self.slot, self.slot.job
        if (
            job is not None and self._seen is job
        ):  # it ran at the last look, so it is slow: nothing may wait behind it
            self._flush()
            if self.ahead or pool.sole_runner is self:
                pool.call_help(self)
        may_wait = self.done or self.ahead or pool.sole_runner is self
        soon = now + FLUSH_AFTER if may_wait else math.inf
        self._seen = job
        if job is None:
            return min(slot.due(), soon)
        if slot.overdue:
            self._abandon(job)
        elif slot.asked is not None:
            slot.retry_delivery()
        elif now >= slot.until:
            slot.interrupt(job, slot.why)
        return min(slot.due(), soon)


def _stack_of(runner: Runner) -> str:
    with gc_paused():
        frames = [(frame, frame.f_lineno) for frame in stack_frames(runner.slot.ident)]
    return "".join(traceback.StackSummary.extract(reversed(frames)).format()) or "(no stack)"
