"""Lines and limits whose workers are killed at every durable boundary: never too many at once, never stuck.

A child of this process does it all, and is killed before a certain call of its server; then this process
goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.filter import Filter
from neoq.held.limits import Limits
from neoq.job import Job
from neoq.outcome import Failure, Outcome, lease_of
from neoq.record import FINISHED, Status
from neoq.store import Demand
from neoq.testing.cases.suite import prepared
from tests.killing import Make, boundaries, killed

Act = Callable[[Backend], None]

PATIENCE = 20.0
KEYS = ("k", "j")
MOST = 2  # of a key, or of the queue, where that is the limit
FAILURE = Failure("ValueError", "no", "")
LIMITS = {
    "ordered": Limits(ordered=True),
    "per_key": Limits(per_key=MOST),
    "max_running": Limits(max_running=MOST),
}


def found(backend: Backend, *statuses: Status) -> list[Job]:
    """The jobs that have one of these states, or any."""
    return backend.store.find(Filter(queue="q", statuses=frozenset(statuses) or None)).jobs


def add(backend: Backend, n: int) -> None:
    """Add a job of each key, unless that was added."""
    there = {(job.key, job.payload["n"]) for job in found(backend)}
    jobs = [prepared("q", {"n": n, "key": key}, key=key) for key in KEYS if (key, n) not in there]
    if jobs:
        backend.store.add(jobs, token=backend.store.new_token())


def claim(backend: Backend, limit: int = 9) -> list[Job]:
    """Take what there is, and look whether more run than may."""
    claimed = backend.store.claim([Demand("q", limit)]).jobs
    running = found(backend, Status.RUNNING)
    limits = backend.limits()["q"]
    of_key = Counter(job.key for job in running)
    assert not of_key or max(of_key.values()) <= (1 if limits.ordered else limits.per_key or 9), running
    assert len(running) <= (limits.max_running or 9), running
    return claimed


def settle(backend: Backend, jobs: list[Job], status: Status = Status.SUCCEEDED, **fields: Any) -> None:
    """Settle what was claimed."""
    failed = {"failure": FAILURE, "charged": True} if status in {Status.DEAD, Status.RETRYING} else {}
    backend.store.settle(
        [Outcome(lease_of(job), status, finished_at=time.time(), **failed, **fields) for job in jobs]
    )


def finish(backend: Backend) -> None:
    """Run all that is there to its end, in the order that the queue promises."""
    give_up, ended = time.monotonic() + PATIENCE, dict.fromkeys(KEYS, -1)
    while unfinished := [job for job in found(backend) if job.status not in FINISHED]:
        assert time.monotonic() < give_up, f"it does not go on: {unfinished}"
        backend.store.reclaim()
        backend.store.tend()
        for job in (jobs := claim(backend)):
            if backend.limits()["q"].ordered:
                assert job.payload["n"] > ended[job.key or ""], "it jumped the line"
                ended[job.key or ""] = job.payload["n"]
        settle(backend, jobs)


def room_is_left(backend: Backend) -> bool:
    """Whether as many run at once as may: no turn was left with nobody."""
    backend.enqueue_many([Job("q", {"n": 10 + n, "key": key}, key=key) for n in range(MOST) for key in KEYS])
    most = {"ordered": len(KEYS), "per_key": MOST * len(KEYS), "max_running": MOST}
    limits = backend.limits()["q"]
    wanted = most["ordered" if limits.ordered else "per_key" if limits.per_key else "max_running"]
    give_up, jobs = time.monotonic() + PATIENCE, []
    while len(jobs) < wanted and time.monotonic() < give_up:
        backend.store.tend()
        jobs += claim(backend)
    settle(backend, jobs)
    return len(jobs) == wanted


# -- what is killed -----------------------------------------------------------------------------------------


def work(backend: Backend) -> None:
    """Add, claim and settle jobs of two keys; the first attempt of some fails, and one is given back."""
    for n in range(3):
        add(backend, n)
    jobs = claim(backend, 3)
    settle(backend, jobs[:1], Status.RETRYING, run_after=time.time() + 0.01)
    settle(backend, jobs[1:2], Status.PENDING)
    settle(backend, jobs[2:])
    settle(backend, claim(backend), Status.DEAD)
    settle(backend, claim(backend))


def on_heads(action: str, status: Status) -> Act:
    """What does something to the head of a line as it waits, runs, is to be retried, or is dead."""

    def act(backend: Backend) -> None:
        for n in range(2):
            add(backend, n)
        store = backend.store
        if status is not Status.PENDING:
            jobs = claim(backend)
            if status is Status.RETRYING:
                settle(backend, jobs, status, run_after=time.time() + 0.05)
            elif status is Status.DEAD:
                settle(backend, jobs, status)
        heads = [job.id for job in found(backend) if job.payload["n"] == 0]
        if action == "prune":
            store.prune()
        else:
            store.change(heads, action)
        if status is Status.RUNNING:
            settle(backend, jobs, Status.CANCELLED if action == "cancel" else Status.SUCCEEDED)
        settle(backend, claim(backend))

    return act


HEADS = [
    (action, status)
    for action in ("retry", "cancel", "delete", "prune")
    for status in (Status.PENDING, Status.RUNNING, Status.RETRYING, Status.DEAD)
    if (action, status) != ("cancel", Status.DEAD)
]


def check_after_a_kill(make: Make, limits: Limits, act: Act, before: int) -> bool:
    """Check that what a child leaves can be done to its end; whether it was killed at all."""
    with make() as backend:
        backend.queues()  # it opens the store
        backend.store.limit("q", limits, by_listener=False)
    was_killed = killed(make, act, before)
    with make() as backend:
        backend.queues()
        store = backend.store
        dead = [job.id for job in found(backend, Status.DEAD) if job.id]
        store.change(dead, "retry")
        finish(backend)
        assert {job.status for job in found(backend)} <= {
            Status.SUCCEEDED,
            Status.CANCELLED,
        }
        assert room_is_left(backend)
        finish(backend)
        assert backend.lines("q") == []
        store.change([job.id or 0 for job in found(backend)], "delete")
    return was_killed


# -- the tests ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [4, 9])
@pytest.mark.parametrize("limits", LIMITS)
def test_a_worker_with_a_turn_is_killed(durable: Make, limits: str, before: int) -> None:
    """A worker is killed that holds turns; never do more run than may, and then as many as may."""
    check_after_a_kill(durable, LIMITS[limits], work, before)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("limits", LIMITS)
def test_a_worker_with_a_turn_is_killed_at_every_boundary(durable: Make, limits: str) -> None:
    """Wherever a worker is killed, its turns come back, and lines go on in their order."""
    assert boundaries(lambda before: check_after_a_kill(durable, LIMITS[limits], work, before)) > 5


@pytest.mark.parametrize(
    ("action", "status"),
    [
        ("retry", Status.DEAD),
        ("cancel", Status.RUNNING),
        ("delete", Status.RETRYING),
        ("prune", Status.DEAD),
    ],
)
def test_killed_in_the_middle_of_heads(durable: Make, action: str, status: Status) -> None:
    """Something is done to heads of lines by a process that is killed; the lines go on."""
    check_after_a_kill(durable, LIMITS["ordered"], on_heads(action, status), 6)


@pytest.mark.faults
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("action", "status"), HEADS)
def test_killed_as_something_is_done_to_heads(durable: Make, action: str, status: Status) -> None:
    """Whatever is done to heads, and at whatever call the process that does it is killed, lines go on."""
    act = on_heads(action, status)
    assert boundaries(lambda before: check_after_a_kill(durable, LIMITS["ordered"], act, before)) > 3
