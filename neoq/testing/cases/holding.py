"""What the cases of held jobs, steps and lines stand on: calls of the store, and waits for what follows."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from typing import Any

from neoq.backend import Backend
from neoq.held.group import BATCH, Batch, BatchRules, Group
from neoq.job import Job
from neoq.outcome import Failure, Outcome, lease_of
from neoq.record import Status
from neoq.store import Demand
from neoq.testing.cases.seam import EVERYTHING, StoreSuite, claim
from neoq.testing.cases.suite import eventually, id_of, prepared

PRODUCER = 7
RULES = BatchRules(PRODUCER)
FAILURE = Failure("ValueError", "no", "")
_numbers = itertools.count(1)


def tend(idle: Backend) -> None:
    """Do what a heartbeat does for held jobs, until nothing is left of it."""
    for _ in range(EVERYTHING):
        if not idle.store.tend():
            return
    raise AssertionError("tend() always says that there is more to do")


def come(idle: Backend, count: int = 1, queue: str = "q") -> list[Job]:
    """Claim from a queue until so many jobs have come."""
    jobs: list[Job] = []

    def all_came() -> bool:
        tend(idle)
        jobs.extend(claim(idle, count - len(jobs), queue))
        return len(jobs) >= count

    eventually(all_came, f"{count} jobs of {queue} can be claimed")
    return jobs


def come_in_turn(idle: Backend, numbers: Iterable[int], status: Status = Status.SUCCEEDED) -> None:
    """Let jobs of one line come and end: these, each alone."""
    for n in numbers:
        [job] = come(idle)
        assert job.payload["n"] == n
        assert nothing_comes(idle)
        settle(idle, [job], status)


def nothing_comes(idle: Backend, queue: str = "q") -> bool:
    """Whether no job of a queue can be claimed, after all that a heartbeat does."""
    tend(idle)
    claimed = claim(idle, queue=queue)
    tend(idle)
    return not [*claimed, *claim(idle, queue=queue)]


def outcome(job: Job, status: Status = Status.SUCCEEDED, **fields: Any) -> Outcome:
    """How the attempt of a claimed job ended, begun and ended now."""
    now = time.time()
    if status in {Status.DEAD, Status.RETRYING}:
        fields = {"failure": FAILURE, "charged": True, **fields}
    return Outcome(lease_of(job), status, **{"started_at": now, "finished_at": now, **fields})


def settle(idle: Backend, jobs: Iterable[Job], status: Status = Status.SUCCEEDED, **fields: Any) -> None:
    """Settle claimed jobs, which are still ours."""
    assert idle.store.settle([outcome(job, status, **fields) for job in jobs]) == set()


def in_group(
    holder: Job, queue: str = "q", *, number: int = BATCH, place: int | None = None, **keywords: Any
) -> Job:
    """Make a job of a holder's group, as the engine hands it to the store."""
    job = prepared(queue, {"n": next(_numbers)}, **{"unique": False, **keywords})
    job.group = str(Group(id_of(holder), number, place))
    job.producer = PRODUCER
    return job


def open_batch(idle: Backend, rules: BatchRules = RULES, **keywords: Any) -> Job:
    """Open a batch, whose callback is a job of the queue "then"."""
    then = prepared("then", **{"unique": False, **keywords})
    return idle.store.open_batch(then, rules, token=idle.store.new_token())


def add(idle: Backend, *jobs: Job) -> list[Job]:
    """Add jobs in one call."""
    return idle.store.add(jobs, token=idle.store.new_token()) if jobs else []


def seal(idle: Backend, holder: Job, producer: int = PRODUCER) -> None:
    """End the block of a batch."""
    idle.store.seal(id_of(holder), producer)


def sealed(idle: Backend, members: int, rules: BatchRules = RULES, **keywords: Any) -> tuple[Job, list[Job]]:
    """A batch of so many members of the queue "q", which takes no more."""
    holder = open_batch(idle, rules, **keywords)
    added = add(idle, *(in_group(holder) for _ in range(members)))
    seal(idle, holder)
    return holder, added


def group(idle: Backend, holder: Job, number: int = BATCH) -> Batch:
    """The counts of a group, after all that a heartbeat does."""
    tend(idle)
    found = idle.store.group(id_of(holder), number)
    assert found is not None
    return found


def hold(idle: Backend, holder: Job, *children: Job, number: int = 1, **fields: Any) -> None:
    """Let a claimed job wait for children, as a gather does."""
    settle(idle, [holder], Status.PENDING, holds=number, follow=children, **fields)


def running(idle: Backend, queue: str = "q", **keywords: Any) -> Job:
    """A claimed job of a queue of its own jobs."""
    add(idle, prepared(queue, {"n": next(_numbers)}, **{"unique": False, **keywords}))
    [job] = come(idle, queue=queue)
    return job


def demand(idle: Backend, queue: str = "q") -> Any:
    """What a claim of nothing but one job says."""
    return idle.store.claim([Demand(queue, 1)])


class HeldSuite(StoreSuite):
    """Cases of what is held, at the seam."""
