"""The wall clock is set forward or back by an hour: future jobs and cron go with it, timeouts do not."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import pytest

import neoq

HOUR = 3600.0
PATIENCE = 15.0
LOOKS = 20
FAST = 20
NOTICED = 0.3  # seconds; by then whoever looks at the clock every job_check_interval has looked


class Wall:
    """The system's clocks, but that the wall's can be set, and made to run fast."""

    def __init__(self) -> None:
        self.offset = 0.0
        self._rate, self._start = 1, time.time()
        self._reads = 0
        self._read = threading.Condition()

    def time(self) -> float:
        with self._read:
            self._reads += 1
            self._read.notify_all()
        return self._start + (time.time() - self._start) * self._rate + self.offset

    def run_fast(self) -> None:
        """Let ticks of a second come sooner: before anybody has looked."""
        self._rate = FAST

    def noticed(self) -> None:
        """Wait until the threads that look at the clock every job_check_interval looked several times."""
        with self._read:
            enough = self._reads + LOOKS
            assert self._read.wait_for(lambda: self._reads >= enough, PATIENCE)

    def monotonic(self) -> float:
        return time.monotonic()


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def backend(wall: Wall) -> Iterator[neoq.MemBackend]:
    backend = neoq.MemBackend(job_check_interval=0.02, concurrency=2, max_retries=0, shutdown_timeout=5)
    backend.clock = wall
    yield backend
    backend.shutdown()


class Notes:
    """A handler that notes what ran, and when by the wall."""

    def __init__(self, wall: Wall) -> None:
        self.wall = wall
        self.jobs: list[tuple[neoq.Job, float]] = []
        self._came = threading.Condition()

    def __call__(self, job: neoq.Job) -> None:
        with self._came:
            self.jobs.append((job, self.wall.time()))
            self._came.notify_all()

    def wait_for(self, count: int, timeout: float = PATIENCE) -> bool:
        with self._came:
            return self._came.wait_for(lambda: len(self.jobs) >= count, timeout)

    @property
    def ticks(self) -> list[datetime]:
        return [datetime.fromisoformat(job.payload["scheduled_at"]) for job, _ in self.jobs]


def until(holds: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, f"waited in vain until {what}"
        time.sleep(0.005)


# ------------------------------------------------------------------------------------------ future jobs


@pytest.mark.parametrize("window", [0.0, 30.0, 2 * HOUR], ids=["far", "near", "promoted"])
def test_a_clock_set_forward_makes_future_jobs_due(wall: Wall, window: float) -> None:
    """A job for in an hour runs as soon as the clock has been set forward by an hour, wherever it waits."""
    with neoq.MemBackend(job_check_interval=0.02, future_job_window=window) as backend:
        backend.clock = wall
        notes = Notes(wall)
        backend.listen("q", notes)
        backend.enqueue("q", run_after=HOUR)
        backend.enqueue("q", {"far": True}, run_after=2 * HOUR)
        assert not notes.wait_for(1, 0.1)
        wall.offset = HOUR
        assert notes.wait_for(1)
        assert not notes.wait_for(2, 0.1)


@pytest.mark.parametrize("window", [0.0, 30.0, 2 * HOUR], ids=["far", "near", "promoted"])
def test_a_clock_set_back_holds_future_jobs_back(wall: Wall, window: float) -> None:
    """A job due soon waits an hour longer when the clock is set back by an hour; it never runs early."""
    with neoq.MemBackend(job_check_interval=0.02, future_job_window=window) as backend:
        backend.clock = wall
        notes = Notes(wall)
        backend.listen("q", notes)
        job = backend.enqueue("q", run_after=0.2)
        assert job.run_after is not None
        wall.offset = -HOUR
        assert not notes.wait_for(1, 0.5)
        wall.offset = 0.0
        assert notes.wait_for(1)
        ((_, ran),) = notes.jobs
        assert ran >= job.run_after.timestamp()


def test_a_job_enqueued_after_the_jump_counts_from_the_new_time(backend: neoq.MemBackend, wall: Wall) -> None:
    """Spans count from what the clock shows at the enqueue, before and after a jump."""
    notes = Notes(wall)
    backend.listen("q", notes)
    backend.enqueue("q", {"n": "before"}, run_after=HOUR)
    wall.offset = -HOUR
    job = backend.enqueue("q", {"n": "after"}, run_after=0.05)
    assert job.run_after is not None
    assert abs(job.run_after.timestamp() - wall.time()) < 60
    assert notes.wait_for(1)
    assert [job.payload["n"] for job, _ in notes.jobs] == ["after"]


def test_ready_jobs_run_whatever_the_clock_does(backend: neoq.MemBackend, wall: Wall) -> None:
    """Jobs without a time run while the clock jumps to and fro, in their order."""
    notes = Notes(wall)
    backend.listen("q", notes, concurrency=1)
    for n in range(200):
        wall.offset = (-HOUR, HOUR, 0.0)[n % 3]
        backend.enqueue("q", {"n": n})
    assert notes.wait_for(200)
    assert {job.payload["n"] for job, _ in notes.jobs} == set(range(200))


def test_jobs_enqueued_after_the_clock_was_set_back_are_due_before(
    backend: neoq.MemBackend, wall: Wall
) -> None:
    """Jobs run by due time, so what comes after the clock was set back, one or a batch, runs first."""
    notes = Notes(wall)
    backend.listen("q", notes, concurrency=1)
    backend.pause("q")
    backend.enqueue("q", {"n": 3})
    wall.offset = -HOUR
    backend.enqueue_many([neoq.Job("q", {"n": n}) for n in (1, 2)])
    wall.offset = -2 * HOUR
    backend.enqueue("q", {"n": 0})
    wall.offset = 0.0
    backend.resume("q")
    assert notes.wait_for(4)
    assert [job.payload["n"] for job, _ in notes.jobs] == [0, 1, 2, 3]


def test_many_jumps_neither_lose_nor_repeat_future_jobs(backend: neoq.MemBackend, wall: Wall) -> None:
    """Through a clock that is set every few milliseconds each future job runs once."""
    notes = Notes(wall)
    backend.listen("q", notes)
    for n in range(100):
        backend.enqueue("q", {"n": n}, run_after=0.1 + 0.005 * n)
    for turn in range(40):
        wall.offset = (-0.2, 0.0, -HOUR, 0.1)[turn % 4]
        time.sleep(0.005)
    wall.offset = 1.0
    assert notes.wait_for(100)
    assert not notes.wait_for(101, 0.1)
    assert sorted(job.payload["n"] for job, _ in notes.jobs) == list(range(100))


def test_a_retry_moves_with_the_clock(backend: neoq.MemBackend, wall: Wall) -> None:
    """A job that waits an hour for its next attempt is tried when the clock is set forward by an hour."""
    attempts: list[int] = []

    @backend.listen("q", max_retries=1, retry=neoq.RetryPolicy(delay=HOUR))
    def handler(job: neoq.Job) -> None:
        attempts.append(job.attempt)
        if job.attempt == 1:
            raise ValueError("once")

    job = backend.enqueue("q")
    until(lambda: backend.stats().retrying == 1, "it failed")
    wall.offset = HOUR + 1
    assert job.id is not None
    assert backend.wait(job.id, PATIENCE).status is neoq.Status.SUCCEEDED
    assert attempts == [1, 2]


def test_a_deadline_of_a_waiting_job_moves_with_the_clock(backend: neoq.MemBackend, wall: Wall) -> None:
    """A job whose deadline the clock was set past dies without being run."""
    notes = Notes(wall)
    backend.listen("q", notes)
    backend.pause("q")
    job = backend.enqueue("q", deadline=HOUR)
    wall.offset = HOUR + 1
    backend.resume("q")
    assert job.id is not None
    dead = backend.wait(job.id, PATIENCE)
    assert dead.status is neoq.Status.DEAD
    assert notes.jobs == []


# ---------------------------------------------------------------------------------------------- timeouts


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_timeouts_do_not_move(backend: neoq.MemBackend, wall: Wall, jump: float) -> None:
    """An attempt is interrupted after its timeout, no earlier and no later, wherever the clock goes."""
    spans: dict[str, float] = {}
    started = threading.Semaphore(0)

    def handler(job: neoq.Job) -> None:
        began = time.monotonic()
        started.release()
        try:
            while time.monotonic() - began < job.payload["seconds"]:
                time.sleep(0.002)
        finally:
            spans[job.payload["name"]] = time.monotonic() - began

    backend.listen("long", handler, timeout=600)
    backend.listen("short", handler, timeout=0.6)
    long = backend.enqueue("long", {"name": "long", "seconds": 0.5})
    short = backend.enqueue("short", {"name": "short", "seconds": PATIENCE})
    for _ in range(2):
        assert started.acquire(timeout=PATIENCE)
    wall.offset = jump
    assert long.id is not None
    assert short.id is not None
    assert backend.wait(long.id, PATIENCE).status is neoq.Status.SUCCEEDED
    dead = backend.wait(short.id, PATIENCE)
    assert dead.status is neoq.Status.DEAD
    assert dead.error is not None
    assert dead.error.startswith("JobTimeout")
    assert 0.55 <= spans["short"] < PATIENCE


def test_waiting_and_draining_are_not_cut_short(backend: neoq.MemBackend, wall: Wall) -> None:
    """The timeouts of wait, drain, enqueue and shutdown are measured, not read off the wall."""
    release, running = threading.Event(), threading.Event()

    @backend.listen("q", concurrency=1, capacity=1)
    def handler(job: neoq.Job) -> None:
        running.set()
        release.wait(PATIENCE)

    job = backend.enqueue("q", {"n": 1})
    assert running.wait(PATIENCE)
    backend.enqueue("q", {"n": 2})
    done: list[str] = []
    waits: dict[str, Callable[[], object]] = {
        "wait": lambda: backend.wait(job.id or 0, PATIENCE),
        "drain": lambda: backend.drain(PATIENCE),
        "enqueue": lambda: backend.enqueue("q", {"n": 3}),
    }

    def run(name: str) -> None:
        waits[name]()
        done.append(name)

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in waits]
    for thread in threads:
        thread.start()
    for wall.offset in (HOUR, -HOUR, 0.0):
        time.sleep(0.1)
        assert done == []
    release.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(done) == ["drain", "enqueue", "wait"]


# -------------------------------------------------------------------------------------------------- cron


def watched(backend: neoq.MemBackend, wall: Wall, spec: str = "@every 1s") -> Notes:
    """A cron that has ticked once."""
    wall.run_fast()
    notes = Notes(wall)
    backend.listen_cron(spec, notes, queue="ticks")
    assert notes.wait_for(1)
    return notes


def test_a_clock_set_forward_does_not_make_an_hour_of_ticks(backend: neoq.MemBackend, wall: Wall) -> None:
    """The ticks of the hour that was left out do not come: the next one is of the new time."""
    notes = watched(backend, wall)
    before = len(notes.jobs)
    wall.offset = HOUR
    assert notes.wait_for(before + 2)
    assert len(notes.jobs) < before + 100
    assert notes.ticks[-1] - notes.ticks[0] > timedelta(seconds=HOUR - 10)
    assert len(set(notes.ticks)) == len(notes.ticks)


def test_a_clock_set_back_repeats_no_tick(backend: neoq.MemBackend, wall: Wall) -> None:
    """When the clock is set back and comes round again, no tick is enqueued twice."""
    notes = watched(backend, wall)
    wall.offset = -5.0
    wall.noticed()
    wall.offset = -3.0
    wall.noticed()
    wall.offset = 0.0
    before = len(notes.jobs)
    assert notes.wait_for(before + 2)
    assert len(set(notes.ticks)) == len(notes.ticks)
    assert notes.ticks == sorted(notes.ticks)


def test_a_clock_set_back_does_not_stop_cron_for_an_hour(backend: neoq.MemBackend, wall: Wall) -> None:
    """A clock that goes an hour back, as an unset machine's may, does not silence cron for that hour."""
    notes = watched(backend, wall)
    before = len(notes.jobs)
    wall.offset = -HOUR
    assert notes.wait_for(before + 2, 5.0), "no tick came after the clock was set back"
    assert len(notes.jobs) < before + 100


def test_a_clock_set_back_does_not_repeat_a_daily_tick(backend: neoq.MemBackend, wall: Wall) -> None:
    """What is to run at a certain time of the day runs once, though the clock shows that time twice."""
    wall.run_fast()
    now = datetime.fromtimestamp(wall.time()).astimezone()
    soon = (now + timedelta(hours=2)).replace(second=0, microsecond=0)
    notes = Notes(wall)
    spec = f"{soon.minute} {soon.hour} * * *"
    backend.listen_cron(spec, notes, queue="daily", timezone=now.tzinfo)  # type: ignore[arg-type]
    wall.noticed()
    wall.offset = soon.timestamp() - wall.time() + 1
    assert notes.wait_for(1)
    wall.offset -= HOUR
    wall.noticed()
    wall.offset += HOUR - 2
    assert not notes.wait_for(2, NOTICED)
    assert notes.ticks == [soon]


def test_a_clock_that_was_far_ahead_and_is_set_right_does_not_stop_cron(
    backend: neoq.MemBackend, wall: Wall
) -> None:
    """A machine that began in the wrong year ticks on when its clock is set right."""
    wall.offset = 365 * 24 * HOUR
    notes = watched(backend, wall)
    before = len(notes.jobs)
    wall.offset = 0.0
    assert notes.wait_for(before + 2)


def test_a_rare_cron_fires_when_the_clock_is_set_past_its_tick_by_a_little(
    backend: neoq.MemBackend, wall: Wall
) -> None:
    """A tick that the clock jumps over by a few seconds is late, not lost."""
    now = datetime.fromtimestamp(wall.time()).astimezone()
    soon = (now + timedelta(minutes=30)).replace(second=0, microsecond=0)
    notes = Notes(wall)
    spec = f"{soon.minute} {soon.hour} {soon.day} {soon.month} *"
    backend.listen_cron(spec, notes, queue="rare", timezone=now.tzinfo)  # type: ignore[arg-type]
    assert not notes.wait_for(1, NOTICED)
    wall.offset = soon.timestamp() - wall.time() + 5
    assert notes.wait_for(1)
    assert notes.ticks == [soon]
    assert not notes.wait_for(2, NOTICED)


def test_each_tick_is_told_its_scheduled_time_whatever_the_clock_did(
    backend: neoq.MemBackend, wall: Wall
) -> None:
    """scheduled_at is a whole multiple of the interval, and not later than when it ran."""
    notes = watched(backend, wall)
    for offset in (HOUR, 2 * HOUR, 2 * HOUR + 0.5):
        wall.offset = offset
        count = len(notes.jobs)
        assert notes.wait_for(count + 1)
    for job, ran in notes.jobs:
        tick = datetime.fromisoformat(job.payload["scheduled_at"]).timestamp()
        assert math.isclose(tick % 1.0, 0.0, abs_tol=1e-6)
        assert tick <= ran
