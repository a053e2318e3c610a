"""The jobs of one key in memory: their order, whatever the order in which they come."""

from __future__ import annotations

import random
import threading

import pytest

from neoq.clock import SystemClock
from neoq.held.limits import Limits, Rate
from neoq.job import Job, blank
from neoq.memory.lines import KeyLine, Lines
from neoq.memory.queues import ReadyQueue, Records
from neoq.record import Status


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_those_that_wait_comes_next(seed: int) -> None:
    """Jobs come by priority, then due time, then id, however they have arrived and others were taken."""
    chance, line, waiting = random.Random(seed), KeyLine(), []
    for number in range(1, 1_500):
        job = blank()
        job.id, job.due, job.priority = number, float(number), chance.choice([0] * 20 + [-1, 1, 2])
        line.push(job, number)
        waiting.append(job)
        if number % 500 == 0 or chance.random() < 0.4:
            for _ in range(len(waiting) if number % 500 == 0 else 1):
                best = min(waiting, key=lambda job: (-job.priority, job.due, job.id))
                assert line.head() is best
                line.pop()
                line.number -= 1
                waiting.remove(best)
                assert not line.has_void()


def test_a_job_that_has_its_turn_goes_before_those_that_have_none() -> None:
    """With no turn left only a job that has its own may be ready, and it goes first when there are others."""
    line, jobs = KeyLine(), []
    for number in (1, 2, 3):
        job = blank()
        job.id, job.due, job.priority = number, float(number), 0
        jobs.append(job)
    line.push(jobs[0], 1)
    line.push(jobs[1], 2)
    line.turns[3] = None
    assert line.next(1) is None
    line.push(jobs[2], 3)
    assert line.next(1) is jobs[2]
    assert line.next(2) is jobs[2]
    line.pop()
    assert line.next(1) is None
    assert line.next(2) is jobs[0]


def entered(limits: Limits, *keys: str, priorities: tuple[int, ...] = ()) -> tuple[Lines, ReadyQueue]:
    """Lines with a job for each of these keys, numbered from 1."""
    records: Records = {}
    ready = ReadyQueue(threading.RLock(), records)
    lines = Lines(ready, records, SystemClock(), lambda _at, _key: None)
    lines.limits = limits
    for number, key in enumerate(keys, 1):
        job = blank("q")
        job.id, job.key, job.due, job.priority = number, key, 1000.0, 0
        if priorities:
            job.priority = priorities[number - 1]
        lines.enter(job)
    return lines, ready


def taken(ready: ReadyQueue) -> list[Job]:
    jobs = [job for job in ready.take(100, None) if isinstance(job, Job)]
    for job in jobs:
        job.status = Status.RUNNING
    return jobs


def numbers(jobs: list[Job]) -> list[int]:
    return [job.id for job in jobs]


def test_of_jobs_that_end_together_each_is_followed_by_the_next_of_its_line() -> None:
    """The next of each line is ready, in the order of the queue, and waits no more."""
    lines, ready = entered(Limits(ordered=True), *"abcabcab")
    first = taken(ready)
    assert numbers(first) == [1, 2, 3]
    assert (len(ready), ready.in_line) == (5, 5)
    lines.leave_all(first[::-1])
    second = taken(ready)
    assert numbers(second) == [4, 5, 6]
    assert [job.held for job in second] == [None] * 3
    assert (len(ready), ready.in_line) == (2, 2)
    lines.leave_all(second)
    third = taken(ready)
    assert numbers(third) == [7, 8]
    lines.leave_all(third)
    assert lines.by_key == {}


def test_those_that_follow_are_taken_by_their_priority() -> None:
    """Those of a higher priority go first, and before what was ready."""
    lines, ready = entered(Limits(ordered=True), *"abab", priorities=(0, 0, 1, 5))
    lines.leave_all(taken(ready))
    assert numbers(taken(ready)) == [4, 3]


def test_a_job_that_was_withdrawn_follows_nobody() -> None:
    """The one behind it does, once."""
    lines, ready = entered(Limits(per_key=2), *"aaaaa")
    [first, second] = taken(ready)
    third = lines.heads()[0]
    assert isinstance(third, Job)
    lines.withdraw(third, None)
    lines.leave_all([first, second])
    assert numbers(taken(ready)) == [4, 5]
    assert ready.in_line == 0


def test_jobs_that_end_together_leave_the_rate_of_their_key_as_it_is() -> None:
    """The next one waits for it."""
    lines, ready = entered(Limits(rate_per_key=Rate(1, per=60)), *"aa")
    jobs = taken(ready)
    assert numbers(jobs) == [1]
    lines.claimed(jobs)
    lines.leave_all(jobs)
    assert taken(ready) == []
    assert ready.in_line == 1
