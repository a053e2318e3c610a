"""The jobs of one key in memory: their order, whatever the order in which they come."""

from __future__ import annotations

import random

import pytest

from neoq.job import blank
from neoq.memory.lines import KeyLine


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
