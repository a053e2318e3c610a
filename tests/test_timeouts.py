"""Slots, guards and the watchdog: an interrupt reaches the attempt that it is meant for, or none."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from neoq.clock import SystemClock
from neoq.engine.attempt import abandoned, attempt
from neoq.engine.interrupt import GRACE, AttemptSlot, Watchdog
from neoq.engine.listener import Listener
from neoq.errors import (
    DeadlineExceeded,
    JobCancelled,
    JobInterrupted,
    JobTimeout,
    Retry,
    ShutdownRequested,
    Snooze,
    UnsupportedError,
)
from neoq.job import Job
from neoq.outcome import Failure
from neoq.record import Status
from neoq.retry import RetryPolicy

CLOCK = SystemClock()
QUIET = logging.getLogger("tests.quiet")
PATIENCE = 10.0


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of failed attempts need no lines in the log."""
    QUIET.disabled = True
    yield
    QUIET.disabled = False


@pytest.fixture
def no_callbacks_of_the_collector() -> Iterator[None]:
    """Python drops an exception that lands in a callback of the collector; Hypothesis leaves one."""
    left, gc.callbacks[:] = gc.callbacks[:], []
    yield
    gc.callbacks[:] = left


def listener(handler: Callable[[Job], Any], **options: Any) -> Listener:
    defaults = {"concurrency": 1, "timeout": 60.0, "capacity": None, "max_retries": 0, "on_error": None}
    defaults |= {"retry": RetryPolicy(), "clock": CLOCK, "logger": QUIET, "failed": lambda: None}
    return Listener("q", handler, **{**defaults, **options})


def new_job(number: int = 1, deadline: float | None = None) -> Job:
    job = Job("q", {"number": number})
    job.id = number
    job.prepare(CLOCK.time(), 1000)
    job.expires = deadline
    return job


def new_slot() -> AttemptSlot:
    slot = AttemptSlot(CLOCK)
    slot.ident = threading.get_ident()
    return slot


class End(NamedTuple):
    """How an attempt ended."""

    job_id: int | None
    status: Status
    charged: bool = False
    result: Any = None
    failure: Failure | None = None
    run_after: float | None = None


def tried(job: Job, work: Listener, slot: AttemptSlot, watchdog: Watchdog | None = None) -> End | None:
    """Run one attempt in this thread; None where it was abandoned."""
    came = attempt(job, work, slot, watchdog)
    if came is None:
        return None
    if isinstance(came, Job):
        return End(came.id, Status.SUCCEEDED, result=came.result)
    return End(came.lease.job_id, came.status, came.charged, None, came.failure, came.run_after)


class Other(threading.Thread):
    """A second thread that does one thing to a slot; its end is awaited."""

    def __init__(self, act: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.act = act
        self.start()

    def run(self) -> None:
        self.act()


def spin(seconds: float = PATIENCE) -> None:
    """Run bytecodes, between which an interrupt can land."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        pass


def interrupt_from_elsewhere(slot: AttemptSlot, job: Job, why: type[JobInterrupted] = JobTimeout) -> None:
    """Have another thread interrupt the attempt, and wait until it has."""
    thread = Other(lambda: slot.interrupt(job, why))
    thread.join(PATIENCE)


# ------------------------------------------------------------------------------------------ one attempt


@pytest.mark.parametrize(
    ("why", "status", "charged"),
    [
        (JobTimeout, Status.RETRYING, True),
        (DeadlineExceeded, Status.DEAD, False),
        (JobCancelled, Status.CANCELLED, False),
        (ShutdownRequested, Status.PENDING, False),
    ],
)
def test_an_interrupted_attempt_ends_as_it_was_asked(
    why: type[JobInterrupted], status: Status, charged: bool
) -> None:
    """Each kind of interrupt is raised in the handler, and decides what becomes of the job."""
    slot, seen = new_slot(), []

    def handler(job: Job) -> None:
        try:
            interrupt_from_elsewhere(slot, job, why)
            spin()
        except BaseException as error:
            seen.append(type(error))
            raise

    outcome = tried(new_job(deadline=CLOCK.time() + 60), listener(handler, max_retries=1), slot)
    assert seen == [why]
    assert outcome is not None
    assert (outcome.status, outcome.charged) == (status, charged)


def test_finally_and_with_blocks_run_when_a_handler_is_interrupted() -> None:
    """An interrupt unwinds the handler as any exception does."""
    slot, ran = new_slot(), []

    @contextlib.contextmanager
    def resource() -> Iterator[None]:
        try:
            yield
        finally:
            ran.append("with")

    def handler(job: Job) -> None:
        try:
            with resource():
                interrupt_from_elsewhere(slot, job)
                spin()
        finally:
            ran.append("finally")

    tried(new_job(), listener(handler), slot)
    assert ran == ["with", "finally"]


def test_except_exception_does_not_eat_an_interrupt() -> None:
    """A handler that catches Exception in a loop is stopped all the same."""
    slot = new_slot()

    def handler(job: Job) -> None:
        interrupt_from_elsewhere(slot, job)
        while True:
            try:
                spin()
            except Exception:  # this is how handlers are written
                continue

    outcome = tried(new_job(), listener(handler), slot)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "JobTimeout"


def test_a_handler_that_finishes_in_spite_of_its_interrupt_has_succeeded() -> None:
    """Work that is done is not done again, even if it was asked to stop."""
    slot = new_slot()

    def handler(job: Job) -> str:
        with contextlib.suppress(JobTimeout):
            interrupt_from_elsewhere(slot, job)
            spin()
        return "done"

    outcome = tried(new_job(), listener(handler), slot)
    assert outcome is not None
    assert (outcome.status, outcome.result) == (Status.SUCCEEDED, "done")


def test_an_attempt_is_asked_only_once() -> None:
    """A second interrupt of the same attempt changes nothing: cleaning up is not interrupted."""
    slot, landed = new_slot(), []

    def handler(job: Job) -> None:
        try:
            interrupt_from_elsewhere(slot, job, JobTimeout)
            spin()
        except JobInterrupted as error:
            landed.append(type(error))
            try:
                interrupt_from_elsewhere(slot, job, ShutdownRequested)
                spin(0.01)
            except JobInterrupted as again:
                landed.append(type(again))
            raise

    tried(new_job(), listener(handler), slot)
    assert landed == [JobTimeout]


def test_an_interrupt_of_a_job_that_ended_does_nothing() -> None:
    """Who asks too late is told so, and no later job is hit."""
    slot, first, second = new_slot(), new_job(1), new_job(2)
    tried(first, listener(lambda job: None), slot)
    told = []
    outcome = tried(second, listener(lambda job: told.append(slot.interrupt(first, JobTimeout))), slot)
    assert told == [False]
    assert outcome is not None
    assert outcome.status is Status.SUCCEEDED
    assert slot.asked is None


def test_a_handler_sees_that_it_was_asked_to_stop() -> None:
    """job.cancelled becomes true with the interrupt, and job.remaining() counts down to the timeout."""
    slot, seen = new_slot(), []

    def handler(job: Job) -> None:
        seen.extend([job.cancelled, 0 < job.remaining() <= 60])
        with contextlib.suppress(JobTimeout):
            interrupt_from_elsewhere(slot, job)
            spin()
        seen.append(job.cancelled)

    tried(new_job(), listener(handler), slot)
    assert seen == [False, True, True]


def test_without_timeout_and_deadline_there_is_no_end() -> None:
    """remaining() is infinite where nothing will interrupt."""
    slot, seen = new_slot(), []
    tried(new_job(), listener(lambda job: seen.append(job.remaining()), timeout=None), slot)
    assert seen == [math.inf]


def test_the_earlier_of_timeout_and_deadline_counts() -> None:
    """A deadline before the timeout is what interrupts, and the other way round."""
    slot, wall = new_slot(), CLOCK.time()
    slot.plan(new_job(deadline=wall + 5), 60.0, wall)
    assert slot.why is DeadlineExceeded
    slot.plan(new_job(deadline=wall + 60), 5.0, wall)
    assert slot.why is JobTimeout


def test_complete_needs_a_backend_that_shares_transactions() -> None:
    """job.complete() says so where it cannot work."""
    outcome = tried(new_job(), listener(lambda job: job.complete(None)), new_slot())
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == UnsupportedError.__name__


# ----------------------------------------------------------------------------------------------- shields


def test_an_interrupt_waits_for_the_end_of_a_shield() -> None:
    """Inside job.shield() nothing lands; at its end what came meanwhile is raised."""
    slot, steps = new_slot(), []

    def handler(job: Job) -> None:
        with job.shield():
            interrupt_from_elsewhere(slot, job)
            spin(0.01)
            steps.append("shielded")
        steps.append("behind")

    outcome = tried(new_job(), listener(handler), slot)
    assert steps == ["shielded"]
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "JobTimeout"


def test_shields_nest() -> None:
    """Only the end of the outermost shield raises what was held back."""
    slot, steps = new_slot(), []

    def handler(job: Job) -> None:
        with job.shield():
            with job.shield():
                interrupt_from_elsewhere(slot, job)
            spin(0.01)
            steps.append("between")
        steps.append("behind")

    tried(new_job(), listener(handler), slot)
    assert steps == ["between"]


def test_an_interrupt_comes_before_what_a_shielded_block_raises() -> None:
    """A handler that gets over an error of the block does not get over the interrupt that came meanwhile."""
    slot, steps = new_slot(), []

    def handler(job: Job) -> None:
        try:
            with job.shield():
                interrupt_from_elsewhere(slot, job)
                raise KeyError("of the block")
        except KeyError:
            steps.append("went on")

    outcome = tried(new_job(), listener(handler), slot)
    assert steps == []
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "JobTimeout"
    assert "of the block" in outcome.failure.traceback


def test_the_shield_of_a_helping_thread_keeps_the_interrupt_for_the_handler() -> None:
    """An interrupt that a shield in another thread held back is raised in the handler's."""
    slot = new_slot()
    raised: list[BaseException] = []

    def assist(job: Job) -> None:
        try:
            with job.shield():
                interrupt_from_elsewhere(slot, job)
        except JobInterrupted as error:
            raised.append(error)

    def handler(job: Job) -> None:
        helper = threading.Thread(target=assist, args=(job,))
        helper.start()
        helper.join()
        spin(0.05)

    outcome = tried(new_job(), listener(handler), slot)
    assert raised == []
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "JobTimeout"


def test_a_shield_without_an_interrupt_raises_nothing() -> None:
    """A shield that nothing came for is not felt, and the next one works again."""
    slot, steps = new_slot(), []

    def handler(job: Job) -> None:
        for _ in range(2):
            with job.shield():
                steps.append("shielded")

    outcome = tried(new_job(), listener(handler), slot)
    assert steps == ["shielded"] * 2
    assert outcome is not None
    assert outcome.status is Status.SUCCEEDED


def test_cleaning_up_after_an_interrupt_may_use_a_shield() -> None:
    """What is in a shield runs in a handler that was interrupted before it: that is what shields are for."""
    slot, steps = new_slot(), []

    def handler(job: Job) -> None:
        try:
            interrupt_from_elsewhere(slot, job)
            spin()
        finally:
            with job.shield():
                steps.append("cleaned up")

    tried(new_job(), listener(handler), slot)
    assert steps == ["cleaned up"]


def test_a_shield_of_one_attempt_does_not_protect_the_next() -> None:
    """A handler that leaves a shield open spoils nothing but its own attempt."""
    slot, left_open = new_slot(), []

    def careless(job: Job) -> None:
        shield = job.shield()
        shield.__enter__()
        left_open.append(shield)  # or its end would come with the garbage collection

    def spinning(job: Job) -> None:
        interrupt_from_elsewhere(slot, job)
        spin()

    tried(new_job(1), listener(careless), slot)
    outcome = tried(new_job(2), listener(spinning), slot)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "JobTimeout"


# ------------------------------------------------------------------------ interrupts at the very beginning


class Telling:
    """A watchdog that is interrupting the attempt while it is being told of it."""

    wakes_at = math.inf

    def __init__(self, slot: AttemptSlot) -> None:
        self.slot = slot
        self.landed = False

    def expect(self, due: float) -> None:
        job = self.slot.job
        if job is None:
            return
        try:
            interrupt_from_elsewhere(self.slot, job)
            spin(0.01)
        except JobTimeout:
            self.landed = True
            raise


def test_no_interrupt_lands_in_what_is_done_before_the_handler() -> None:
    """The watchdog's own locks are taken where no interrupt can land, or one would stay locked for ever."""
    slot = new_slot()
    watchdog = Telling(slot)
    tried(new_job(), listener(lambda job: None), slot, watchdog)  # type: ignore[arg-type]
    assert not watchdog.landed


# ------------------------------------------------------------------------------ interrupts at the very end


def handler_that_returns(job: Job, work: float) -> None:
    spin(work)


def handler_that_raises(job: Job, work: float) -> None:
    spin(work)
    raise ValueError("on time")


def handler_that_shields(job: Job, work: float) -> None:
    with job.shield():
        spin(work)


def handler_that_cleans_up(job: Job, work: float) -> None:
    try:
        spin(work)
    finally:
        spin(work)


@pytest.mark.usefixtures("no_callbacks_of_the_collector")
@pytest.mark.parametrize(
    "body", [handler_that_returns, handler_that_raises, handler_that_shields, handler_that_cleans_up]
)
def test_an_interrupt_that_comes_as_the_job_ends_never_hits_the_next(
    body: Callable[[Job, float], None],
) -> None:
    """Of thousands of interrupts at any moment of an attempt none escapes it, or is felt by another one."""
    slot, rng = new_slot(), random.Random(7)
    strays: list[str] = []
    landed = 0
    stop = threading.Event()

    def handler(job: Job) -> None:
        try:
            body(job, rng.random() * 60e-6)
        except JobTimeout as error:
            nonlocal landed
            landed += 1
            if getattr(type(error), "meant_for", job.id) != job.id:
                strays.append(f"job {job.id} got the interrupt of job {type(error).meant_for}")  # type: ignore[attr-defined]
            raise

    def interrupter() -> None:
        while not stop.is_set():
            job = slot.job
            if job is not None:
                slot.interrupt(job, type("JobTimeout", (JobTimeout,), {"meant_for": job.id}))

    work = listener(handler)
    with switching_threads_often():
        thread = Other(interrupter)
        number, began = 0, time.monotonic()
        while time.monotonic() - began < (1.5 if landed > 10 else PATIENCE) and number < 20_000:
            number += 1
            try:
                outcome = tried(new_job(number), work, slot)
                if outcome is None or outcome.job_id != number:
                    strays.append(f"job {number} ended as {outcome}")
            except BaseException as error:
                strays.append(f"job {number} let out {error!r}")
                slot.job = slot.asked = None
                slot.end()
        stop.set()
        thread.join(PATIENCE)
    spin(0.01)  # a stray one would land here
    assert not strays, f"{len(strays)} of {number}, the first: {strays[:3]}"
    assert landed, "the test interrupted nothing"


@contextlib.contextmanager
def switching_threads_often() -> Iterator[None]:
    """Let threads take turns after microseconds, so that they meet at every bytecode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# ---------------------------------------------------------------------------------------- the watchdog


class Watched:
    """A slot under a watchdog, with what the watchdog did to it."""

    def __init__(self) -> None:
        self.slot = AttemptSlot(CLOCK)
        self.abandoned: list[Job] = []
        self.happened = threading.Event()
        self.watchdog = Watchdog("neoq-watchdog-test", CLOCK, lambda: [self])

    def check(self, now: float) -> float:
        slot, job = self.slot, self.slot.job
        if job is not None and now >= slot.due():
            if slot.asked is None:
                slot.interrupt(job, slot.why)
            elif slot.abandon(job):
                self.abandoned.append(job)
                self.happened.set()
                return math.inf
        return slot.due()

    def run(self, handler: Callable[[Job], Any], timeout: float | None = 0.05, **options: Any) -> End | None:
        self.slot.ident = threading.get_ident()
        self.watchdog.start()
        try:
            return tried(new_job(), listener(handler, timeout=timeout, **options), self.slot, self.watchdog)
        finally:
            self.watchdog.close()


def test_the_watchdog_interrupts_what_runs_longer_than_its_timeout() -> None:
    """An attempt that spins is ended by its timeout, with a message that says how long it was."""
    outcome = Watched().run(lambda job: spin())
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "JobTimeout"
    assert "0.05 s" in outcome.failure.message


def test_the_watchdog_leaves_alone_what_ends_in_time() -> None:
    """An attempt within its timeout is not touched."""
    outcome = Watched().run(lambda job: None, timeout=60.0)
    assert outcome is not None
    assert outcome.status is Status.SUCCEEDED


def test_what_does_not_heed_its_interrupt_is_abandoned_after_the_grace() -> None:
    """Code that is blocked in C sees no interrupt: after the grace it is left behind, and counts no more."""
    watched = Watched()
    began = time.monotonic()
    outcome = watched.run(lambda job: watched.happened.wait(PATIENCE))
    assert [job.id for job in watched.abandoned] == [1]
    assert outcome is None
    assert time.monotonic() - began >= GRACE


def test_a_watchdog_with_nothing_to_watch_can_be_closed() -> None:
    """Closing wakes a watchdog that waits for ever, and closing again does nothing."""
    watchdog = Watchdog("neoq-watchdog-test", CLOCK, list)
    watchdog.start()
    watchdog.close()
    watchdog.close()
    watchdog.start()
    assert not [thread for thread in threading.enumerate() if thread.name == "neoq-watchdog-test"]


# --------------------------------------------------------------------------------------- what it leaves


@pytest.mark.parametrize("why", [JobTimeout, DeadlineExceeded, JobCancelled, ShutdownRequested])
@pytest.mark.parametrize("timeout", [5.0, None])
def test_an_abandoned_attempt_has_an_outcome_whatever_it_was_asked(
    why: type[JobInterrupted], timeout: float | None
) -> None:
    """The attempt of a thread that was left behind can be settled, on queues without a timeout too."""
    job = new_job(deadline=CLOCK.time() + 60)
    outcome, _, _ = abandoned(job, listener(lambda job: None, timeout=timeout), new_slot(), why)
    assert outcome.lease.job_id == 1


def test_an_abandoned_attempt_does_not_wait_for_a_retry_policy_that_hangs() -> None:
    """The default delay is used where the policy does not return; where it does, its own."""
    gate = threading.Event()
    policy = RetryPolicy(delay=lambda _retries: float(gate.wait()))
    queue = listener(lambda job: None, retry=policy, max_retries=5)
    outcome, error, _ = abandoned(new_job(), queue, new_slot(), JobTimeout)
    assert (outcome.status, type(error)) == (Status.RETRYING, JobTimeout)
    assert outcome.run_after is not None
    assert outcome.run_after >= CLOCK.time() + 10
    gate.set()
    outcome, _, _ = abandoned(new_job(), queue, new_slot(), JobTimeout)
    assert outcome.run_after is not None
    assert outcome.run_after < CLOCK.time() + 10


@pytest.mark.parametrize("signal", [Snooze, lambda delay: Retry(after=delay)], ids=["Snooze", "Retry"])
@pytest.mark.parametrize(
    "delay", [1e18, 1e300, timedelta.max, 10**400], ids=["1e18", "1e300", "timedelta", "10**400"]
)
def test_a_delay_beyond_all_calendars_spoils_nothing(signal: Callable[[Any], Exception], delay: Any) -> None:
    """A handler that asks for a delay no calendar holds still leaves a job whose times can be read."""

    def handler(job: Job) -> None:
        raise signal(delay)

    outcome = tried(new_job(), listener(handler, max_retries=5), new_slot())
    assert outcome is not None
    job = new_job()
    job.due = outcome.run_after
    job.run_after  # noqa: B018  # raises where no datetime holds it


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


class Proxy:
    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of request context")


class Loud(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the disk is full")


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), Unreadable(), JobTimeout("mine")]
)
def test_whatever_a_handler_raises_is_an_outcome(error: BaseException) -> None:
    """No exception leaves an attempt, and each is recorded as the failure of its job."""

    def handler(job: Job) -> None:
        raise error

    outcome = tried(new_job(), listener(handler), new_slot())
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == type(error).__name__


@pytest.mark.parametrize(
    "make", [object, Proxy, set, lambda: math.nan], ids=["object", "Proxy", "set", "nan"]
)
def test_a_result_that_is_not_json_is_null(make: Callable[[], Any]) -> None:
    """Whatever a handler returns, its job has succeeded."""
    outcome = tried(new_job(), listener(lambda job: make()), new_slot())
    assert outcome is not None
    assert (outcome.status, outcome.result) == (Status.SUCCEEDED, None)


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), JobTimeout()], ids=repr)
def test_on_error_that_fails_does_no_harm(error: BaseException) -> None:
    """Whatever on_error raises, the attempt has its outcome."""

    def on_error(job: Job, problem: BaseException) -> None:
        raise error

    outcome = tried(new_job(), listener(lambda job: 1 / 0, on_error=on_error), new_slot())
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "ZeroDivisionError"


def test_a_log_that_cannot_be_written_does_no_harm() -> None:
    """A logging handler that raises costs a line in the log, never the outcome of a job."""
    logger = logging.Logger("full")  # noqa: LOG001  # one that nobody else has
    logger.addHandler(Loud())
    outcome = tried(new_job(), listener(lambda job: 1 / 0, logger=logger), new_slot())
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.type == "ZeroDivisionError"


@pytest.mark.parametrize("delay", [ValueError("x"), SystemExit(3)], ids=repr)
def test_a_retry_policy_that_fails_does_no_harm(delay: BaseException) -> None:
    """A delay function that raises leaves the attempt with the default delay."""

    def fails(retries: int) -> float:
        raise delay

    outcome = tried(
        new_job(), listener(lambda job: 1 / 0, retry=RetryPolicy(delay=fails), max_retries=5), new_slot()
    )
    assert outcome is not None
    assert outcome.status is Status.RETRYING
