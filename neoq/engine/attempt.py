"""One attempt of one job: deadline, then middleware, timeout, handler; what comes out is an Outcome.

Nothing here touches storage. Whatever a handler raises, an attempt ends in an Outcome and the thread
that ran it lives on.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from neoq.attempts import one_more
from neoq.engine.dead_heads import holds_line, log_held_line, say_with_line
from neoq.engine.listener import Listener
from neoq.engine.results import plain_json, undone
from neoq.errors import (
    ArgumentsError,
    DeadlineExceeded,
    Discard,
    InvalidJobError,
    JobCancelled,
    JobInterrupted,
    JobTimeout,
    MissingKeyError,
    NeoqError,
    Retry,
    ShutdownRequested,
    Snooze,
    Suspended,
    TooManyStepsError,
)
from neoq.job import Job
from neoq.outcome import ROLLED_BACK, Failure, Outcome, given_back, lease_of, succeeded
from neoq.payload import sized_result
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.threads.boundary import wall
from neoq.threads.lifecycle import in_time
from neoq.times import later_and_later, latest, to_seconds
from neoq.wording.bounds import MAX_ERROR, MAX_TRACEBACK, MAX_TYPE, class_name, cut

if TYPE_CHECKING:
    from neoq.engine.interrupt import AttemptSlot, Interrupt, Watchdog
    from neoq.engine.steps import AttemptSteps

LONGEST_DELAY = 1.0  # seconds that a retry policy may take for an attempt whose thread was abandoned
T = TypeVar("T")


# Returns the job itself where it succeeded (with ``started``, ``finished_on`` and ``result_body`` set), the
# Outcome of anything else, and None where the attempt was abandoned meanwhile and is settled already. An
# Outcome for each success would cost 13,000 instructions more per job of a memory drain, which takes 34,000.
@wall
def attempt(
    job: Job, listener: Listener, slot: AttemptSlot, watchdog: Watchdog | None = None
) -> Job | Outcome | None:
    """Run one attempt in this thread, and in its context: see `Surroundings`."""
    now = listener.clock.time
    started = now()
    if job.cancel_asked or (job.expires is not None and started + job.clock_skew >= job.expires):
        return Ending(job, listener, slot, watchdog).not_started(started)
    until = slot.plan(job, _timeout(job, listener) if job.special else listener.timeout, started)
    if watchdog is not None and until < watchdog.wakes_at:
        watchdog.expect(until)
    error: BaseException | None = None
    asked: Interrupt | None = None
    result = None
    try:
        slot.job = job  # from here on an interrupt may land anywhere
        result = listener.call(job)
        slot.job = None  # first of all: from here on no interrupt is raised for this attempt
    except BaseException as raised:
        slot.job = None
        error = raised
    while slot.asked is not None:  # one is under way, and may land at any call from here to its end
        try:
            asked = slot.end()
        except JobInterrupted:
            continue
    if slot.abandoned:
        return None
    if result is not None and error is None:
        error = undone(result, job.queue)
    if error is not None or job.completed or slot.stepped is not None:
        try:
            return Ending(job, listener, slot, watchdog).otherwise(started, error, asked, result)
        finally:
            slot.stepped = None
            error = None  # or the traceback and this frame would keep each other alive
    job.finished_on = now()
    if result is not None:
        job.result_body = plain_json(result)
        if job.result_body is None or len(job.result_body) > listener.max_result:
            return Ending(job, listener, slot, watchdog).returned(result)
    return job


class Ending:
    """What an attempt's end may ask of the handler's objects and the queue's functions.

    Text and traceback of an exception, a retry policy, a result, a line of log, on_error: each may run
    code of the user, so it is guarded as the handler was. If it hangs, the attempt ends without it.
    """

    def __init__(
        self,
        job: Job,
        listener: Listener,
        slot: AttemptSlot,
        watchdog: Watchdog | None,
    ) -> None:
        self.job = job
        self.listener = listener
        self.slot = slot
        self.watchdog = watchdog

    def not_started(self, now: float) -> Outcome | None:
        """The end of a job that was cancelled, or whose deadline has passed, before it ran."""
        outcome = _not_started(self.job, now)
        if outcome.failure is not None:
            message = outcome.failure.message
            self._guarded(outcome, _log_not_started, self.job, self.listener, message)
            self._tell_of_line(outcome)
        return None if self.slot.abandoned else outcome

    def returned(self, result: Any) -> Job | None:
        """The end of an attempt whose result is more than plain values."""
        self.job.result_body, _ = self._guarded(
            succeeded(self.job), _encoded, result, self.job, self.listener
        )
        return None if self.slot.abandoned else self.job

    def otherwise(
        self, started: float, error: BaseException | None, asked: Interrupt | None, result: Any
    ) -> Job | Outcome | None:
        """The end of an attempt that raised, was completed by its handler, or has used steps."""
        steps: AttemptSteps | None = self.slot.stepped
        if steps is not None:
            if steps.wait is None:
                if error is None and not self.job.completed:
                    error = steps.open_error()
                    if error is None:
                        return self._succeeded(steps, result)
            elif asked is not JobCancelled and (error is None or isinstance(error, Suspended)):
                return None if self.slot.abandoned else steps.suspended(started)
            elif error is None:
                error = Suspended()
        if error is None:
            outcome = _at_least(self.job, self.listener, started, ROLLED_BACK)
            judged, _ = self._guarded(outcome, _unless_committed, self.job, self.listener, started)
            outcome = judged or outcome
        else:
            outcome = self._failed(started, error, asked)
        return None if self.slot.abandoned else outcome

    def _succeeded(self, steps: AttemptSteps, result: Any) -> Job | Outcome | None:
        """The end of an attempt that has used steps, and returned."""
        job = self.job
        job.finished_on = self.listener.clock.time()
        if result is not None:
            job.result_body = plain_json(result)
            if job.result_body is None or len(job.result_body) > self.listener.max_result:
                self.returned(result)
        if self.slot.abandoned:
            return None
        return steps.followed(succeeded(job)) if steps.follow else job

    def _failed(self, started: float, error: BaseException, asked: Interrupt | None) -> Outcome:
        job, listener = self.job, self.listener
        _look_back(job, self.slot)
        outcome = _at_least(job, listener, started, _unread(error), asked)
        told: BaseException | None = None if outcome.failure is None else error
        say: Callable[[], None] = partial(_log_unread, job, listener)
        self.slot.uncounted = told is not None  # whoever settles it counts it, if this thread is abandoned
        try:
            judged, broken = self._guarded(outcome, _judge, job, listener, started, error, asked)
            if judged is not None:
                outcome, told, say = judged
            if self.slot.stepped is not None:
                outcome = self.slot.stepped.with_saved(outcome)
            if not self.slot.abandoned:
                self.slot.uncounted = False
                if told is not None:
                    listener.failed()
            self._guarded(outcome, say)
            self._tell_of_line(outcome)
            if told is not None and listener.on_error is not None:
                _, broken = self._guarded(outcome, listener.on_error, job, told)
                if broken is not None:
                    self._guarded(outcome, listener.log_failed_on_error, job, broken)
            return outcome
        finally:
            told = broken = None  # as in `attempt`

    def _tell_of_line(self, outcome: Outcome) -> None:
        if holds_line(self.job, self.slot, outcome):
            self._guarded(outcome, log_held_line, self.listener.logger, self.job)

    def _guarded(
        self, outcome: Outcome, work: Callable[..., T], *arguments: Any
    ) -> tuple[T | None, BaseException | None]:
        """Call ``work`` for as long as the handler may run; return what it returned, and what it raised.

        If it does not end, the attempt is settled with ``outcome`` over this thread's head.
        """
        slot, watchdog = self.slot, self.watchdog
        if slot.abandoned:
            return None, None
        until = slot.begin_on_error(_timeout(self.job, self.listener), outcome)
        if watchdog is not None and until < watchdog.wakes_at:
            watchdog.expect(until)
        done, failed, _ = called(slot, self.job, work, *arguments)
        if not slot.abandoned:
            slot.outcome = None
        try:
            return done, failed
        finally:
            failed = None


@wall
def called(
    slot: AttemptSlot, job: Job, work: Callable[..., T], *arguments: Any
) -> tuple[T | None, BaseException | None, Interrupt | None]:
    """What ``work`` returned, what it raised, and the interrupt that it was to heed; as in `attempt`."""
    done: T | None = None
    failed: BaseException | None = None
    asked: Interrupt | None = None
    try:
        slot.job = job
        done = work(*arguments)
        slot.job = None
    except BaseException as raised:
        slot.job = None
        failed = raised
    while slot.asked is not None:
        try:
            asked = slot.end()
        except JobInterrupted:
            continue
    try:
        return done, failed, asked
    finally:
        failed = None


def _not_started(job: Job, now: float) -> Outcome:
    if job.lease_lost:
        return given_back(job)
    if job.cancel_asked:
        return Outcome(lease_of(job), Status.CANCELLED, finished_at=now)
    message = f"still waiting at its deadline {job.deadline:%Y-%m-%d %H:%M:%S} UTC"
    failure = Failure("DeadlineExceeded", message, "")
    return Outcome(lease_of(job), Status.DEAD, finished_at=now, failure=failure)


def _log_not_started(job: Job, listener: Listener, message: str) -> None:
    listener.logger.warning("job %s of %s is dead: %s", job.id, job.queue, message)


def _unless_committed(job: Job, listener: Listener, started: float) -> Outcome:
    """How an attempt ends that its handler has completed, if that was not committed: the store knows.

    The effects are undone then, so it has failed, although the handler returned.
    """
    now = listener.clock.time()
    delay = _delay(job, listener, NeoqError(ROLLED_BACK.message))
    return _failed(job, started, now, ROLLED_BACK, None if delay is None else latest(now + delay))


def _failed(job: Job, started: float, now: float, failure: Failure, again: float | None) -> Outcome:
    """The outcome of an attempt that failed: the job runs again at that time, or is dead."""
    status = Status.DEAD if again is None else Status.RETRYING
    attempts = one_more(
        job.failed_attempts,
        f"{failure.type}: {failure.message}",
        failure.traceback,
        started=started,
        finished=now,
        worker=job.worker,
    )
    return Outcome(
        lease_of(job), status, again, again is not None, started, now, failure, failed_attempts=attempts
    )


def _encoded(result: Any, job: Job, listener: Listener) -> bytes | None:
    """The result as JSON; None if it cannot be stored: the work is done, and is not done again for that."""
    try:
        return sized_result(result, listener.max_result)
    except BaseException as error:
        listener.logger.warning("job %s of %s: its result is stored as null: %s", job.id, job.queue, error)
        return None


def _at_least(
    job: Job, listener: Listener, started: float, failure: Failure, asked: Interrupt | None = None
) -> Outcome:
    """The outcome of an attempt that raised, found without calling any code of the user."""
    now = listener.clock.time()
    lease = lease_of(job)
    if asked is ShutdownRequested or (asked is JobCancelled and job.lease_lost):
        return Outcome(lease, Status.PENDING, job.due, False, started, now)
    if asked is JobCancelled:
        return Outcome(lease, Status.CANCELLED, None, False, started, now)
    if asked is DeadlineExceeded or fruitless(job) >= _max_retries(job, listener):
        return _failed(job, started, now, failure, None)
    policy = RetryPolicy() if callable(listener.retry.delay) else listener.retry
    return _failed(job, started, now, failure, latest(now + policy.seconds(fruitless(job))))


def _unread(error: BaseException) -> Failure:
    return Failure(class_name(type(error)), "<its message could not be read>", "")


def _log_unread(job: Job, listener: Listener) -> None:
    listener.logger.error("job %s of %s failed, and its exception cannot be looked at", job.id, job.queue)


Judged = tuple[Outcome, BaseException | None, Callable[[], None]]


def _judge(
    job: Job, listener: Listener, started: float, error: BaseException, asked: Interrupt | None
) -> Judged:
    """The outcome of an attempt that raised, the error for on_error, and the function that logs it."""
    now = listener.clock.time()
    info = listener.logger.info
    if asked is ShutdownRequested or (asked is JobCancelled and job.lease_lost):
        why = "by shutdown" if asked is ShutdownRequested else "since another worker may have it by now"
        text = "job %s of %s was interrupted %s and is given back"
        outcome = Outcome(lease_of(job), Status.PENDING, job.due, False, started, now)
        return outcome, None, partial(info, text, job.id, job.queue, why)
    if asked is JobCancelled:
        outcome = Outcome(lease_of(job), Status.CANCELLED, None, False, started, now)
        return outcome, None, partial(info, "job %s of %s was cancelled while it ran", job.id, job.queue)
    if isinstance(error, Snooze) and asked is None:
        try:
            again = _instant(error.delay, now)
        except InvalidJobError as wrong:
            return _judge_failure(job, listener, started, wrong)
        return Outcome(lease_of(job), Status.PENDING, again, False, started, now), None, say_nothing
    if isinstance(error, Discard):
        failure = describe(error)
        outcome = _failed(job, started, now, failure, None)
        text = "job %s of %s was discarded: %s"
        return outcome, None, partial(info, text, job.id, job.queue, failure.message)
    if isinstance(error, JobInterrupted) and asked is not None and not error.args:
        bare, error = error, asked(_reason(asked, job, listener)).with_traceback(error.__traceback__)
        error.__context__ = bare.__context__
    return _judge_failure(job, listener, started, error, asked)


def _judge_failure(
    job: Job,
    listener: Listener,
    started: float,
    error: BaseException,
    asked: Interrupt | None = None,
) -> Judged:
    """The same of an attempt that failed with ``error``: another attempt, or the end."""
    now = listener.clock.time()
    if isinstance(error, MissingKeyError) and asked is None:
        again = later_and_later(job.created, now)
        outcome = Outcome(lease_of(job), Status.PENDING, again, False, started, now)
        text = "job %s of %s is given back, and is tried again later: %s"
        level = 20 if listener.said_key_is_missing else 50  # INFO, CRITICAL
        listener.said_key_is_missing = True
        return outcome, None, partial(listener.logger.log, level, text, job.id, job.queue, error)
    failure = describe(error)
    delay = None if asked is DeadlineExceeded else _delay(job, listener, error)
    outcome = _failed(job, started, now, failure, None if delay is None else latest(now + delay))
    return outcome, error, partial(_log_failure, job, listener, error, failure, delay)


def say_nothing() -> None:
    """Log nothing."""


def _delay(job: Job, listener: Listener, error: BaseException) -> float | None:
    """Seconds until the next attempt, or None: there is none."""
    if fruitless(job) >= _max_retries(job, listener):
        return None
    try:
        if not listener.retry.retries(error) or isinstance(error, (ArgumentsError, TooManyStepsError)):
            return None
        if isinstance(error, Retry) and error.after is not None:
            return max(0.0, to_seconds("Retry.after", error.after))
        return listener.retry.seconds(fruitless(job), error)
    except BaseException:
        listener.logger.exception("the retry delay of queue %s failed; its default is used", job.queue)
        return RetryPolicy().seconds(fruitless(job))


def _timeout(job: Job, listener: Listener) -> float | None:
    return listener.timeout if job.timeout is None else job.timeout


def _max_retries(job: Job, listener: Listener) -> int:
    return listener.max_retries if job.max_retries is None else job.max_retries


def _log_failure(
    job: Job, listener: Listener, error: BaseException, failure: Failure, delay: float | None
) -> None:
    """Log a failed attempt, once."""
    next_step = "dead" if delay is None else f"again in {delay:.1f} s"
    try:
        listener.logger.log(
            40 if delay is None else 30,  # ERROR, WARNING
            "job %s of %s failed, attempt %d of %d, %s: %s: %s",
            job.id,
            job.queue,
            job.attempt,
            _max_retries(job, listener) + 1,
            next_step,
            failure.type,
            failure.message,
            exc_info=error,
            extra={"job_id": job.id, "queue": job.queue, "attempt": job.attempt},
        )
    except BaseException:  # of the exception, as its traceback is formatted
        listener.logger.error("job %s of %s failed: %s", job.id, job.queue, failure.type)  # noqa: TRY400


def _reason(asked: Interrupt, job: Job, listener: Listener) -> str:
    if asked is DeadlineExceeded and job.expires is not None:
        return f"still running at its deadline {job.deadline:%Y-%m-%d %H:%M:%S} UTC"
    if asked is JobTimeout and job.timeout is not None:
        return f"ran longer than its timeout of {job.timeout:g} s"
    if asked is JobTimeout and listener.timeout is not None:
        return f"ran longer than {listener.whose} timeout of {listener.timeout:g} s"
    return "interrupted"


def abandoned(job: Job, listener: Listener, slot: AttemptSlot, asked: Interrupt) -> Judged:
    """The outcome of an attempt whose thread was abandoned, the error for on_error, and how to log it."""
    if slot.outcome is not None:  # it was over, and what followed did not heed its interrupt
        return slot.outcome, None, say_nothing
    outcome, error, say = _judge_abandoned(job, listener, slot, asked)
    if holds_line(job, slot, outcome):
        say = partial(say_with_line, say, listener.logger, job)
    return outcome if slot.stepped is None else slot.stepped.with_saved(outcome), error, say


def _judge_abandoned(job: Job, listener: Listener, slot: AttemptSlot, asked: Interrupt) -> Judged:
    _look_back(job, slot)
    started = job.started or listener.clock.time()
    error = asked(f"{_reason(asked, job, listener)} and did not stop when interrupted")
    if not callable(listener.retry.delay):
        return _judge(job, listener, started, error, asked)
    outcome = _at_least(job, listener, started, describe(error), asked)
    judged = in_time(partial(_judge, job, listener, started, error, asked), LONGEST_DELAY)
    return judged or (outcome, error, partial(_log_hanging_delay, job, listener, error, outcome))


def fruitless(job: Job) -> int:
    """How many of a job's attempts have failed since it last got on: since it recorded a step."""
    return job.retries - job.retries_before


def _look_back(job: Job, slot: AttemptSlot) -> None:
    """Let a job that has recorded steps know which of its failed attempts count."""
    if job.steps:
        slot.look_back(job)


def _log_hanging_delay(job: Job, listener: Listener, error: BaseException, outcome: Outcome) -> None:
    listener.logger.error("the retry delay of queue %s hangs; its default is used", job.queue)
    if outcome.failure is not None:
        again = outcome.run_after
        delay = None if again is None else max(0.0, again - listener.clock.time())
        _log_failure(job, listener, error, outcome.failure, delay)


def describe(error: BaseException) -> Failure:
    """An exception as type, message and traceback, whatever its own methods do."""
    return Failure(
        cut(class_name(type(error)), MAX_TYPE),
        cut(_read(lambda: str(error), "message"), MAX_ERROR),
        cut(_read(lambda: "".join(traceback.format_exception(error)), "traceback"), MAX_TRACEBACK),
    )


def _read(read: Callable[[], str], what: str) -> str:
    try:
        return read()
    except BaseException as broken:
        return f"<its {what} could not be read: {class_name(type(broken))}>"


def _instant(delay: timedelta | float | datetime, now: float) -> float:
    if isinstance(delay, datetime):
        if delay.utcoffset() is None:
            raise InvalidJobError(f"Snooze got the naive datetime {delay!r}; give it a timezone")
        return latest(max(now, delay.timestamp()))
    return latest(now + max(0.0, to_seconds("Snooze", delay)))
