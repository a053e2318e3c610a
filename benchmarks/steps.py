"""Steps: how many a second are recorded, and what a suspended parent costs."""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import Any

from contest import PATIENCE, Bar, Contest, Measures, payloads, resident_bytes
from on_servers import Timed
from server_contenders import batches as in_thousands
from stores import PACKAGE_OF, SERVER_OF, STORES, opened
from workflow_peers import PEERS

RUNNERS = 16
STEPS = 20  # of each job
JOBS = {"memory": 2_000, "sqlite": 1_000, "postgres": 1_000, "redis": 1_000}
PARENTS = 20_000
WARM_UP = 500  # parents before those that are counted


def recorded(store: str, name: str, quick: bool) -> Measures:
    """Sixteen runners, each with a job of twenty steps that do nothing; each step is recorded."""
    count = JOBS[store] // (50 if quick else 1)
    if name in PEERS:
        return PEERS[name].steps(count, STEPS, RUNNERS)
    from neoq import Job

    handled = Timed(count)
    done: list[int] = []

    def note(number: int) -> int:
        done.append(number)
        return number

    def work(job: Job) -> None:
        if not handled.began:
            handled.began = time.perf_counter()
        for number in range(STEPS):
            job.step(f"step {number}", note, number)
        handled.note(job.payload)

    with opened(store) as backend:
        backend.listen("work", work, concurrency=RUNNERS)
        backend.enqueue_many(Job("work", payload) for payload in payloads(count))
        backend.start()
        handled.wait()
        backend.drain()
        seconds = handled.seconds
    handled.check()
    if len(done) != count * STEPS:
        raise RuntimeError(f"{len(done):,} of {count * STEPS:,} steps ran")
    return {"jobs": count, "steps": len(done), "steps/s": len(done) / seconds}


def suspended(name: str, quick: bool) -> Measures:
    """Parents that wait, in memory: what each takes, and how many threads there are more than before."""
    from neoq import Job

    count = PARENTS // (20 if quick else 1)
    at_wait = threading.Event()
    asked: list[int] = []

    def parent(job: Job) -> None:
        asked.append(job.payload["n"])
        if len(asked) == WARM_UP + count:
            at_wait.set()
        wait_as(name, job)

    with opened("memory") as backend:
        backend.listen("parents", parent, concurrency=8)
        backend.listen("children", print)
        backend.start(["parents"])  # the children wait for ever
        add(backend, "parents", WARM_UP)
        while len(asked) < WARM_UP or not all_wait(backend):
            time.sleep(0.01)
        threads = threading.active_count()
        at_first = resident_bytes()
        add(backend, "children", count)
        child = resident_bytes() - at_first if name == "gather" else 0
        before = resident_bytes()
        add(backend, "parents", count)
        if not at_wait.wait(PATIENCE):
            raise RuntimeError(f"{len(asked):,} of {count:,} parents began")
        while not all_wait(backend):
            time.sleep(0.01)
        held = resident_bytes() - before - child
        more = threading.active_count() - threads
    return {"parents": count, "bytes/parent": held / count, "threads": more}


def all_wait(backend: Any) -> bool:
    """Whether no parent is ready or runs."""
    return not any(counts.ready or counts.running for counts in backend.queues() if counts.queue == "parents")


def wait_as(name: str, job: Any) -> None:
    from neoq import Job

    if name == "wait_for":
        job.wait_for("approval")
    elif name == "sleep":
        job.sleep("a day", 86_400.0)
    else:
        job.gather("children", [Job("children", {**job.payload, "again": True})])


def add(backend: Any, queue: str, count: int) -> None:
    from neoq import Job

    for part in in_thousands(payloads(count), 1_000):
        backend.enqueue_many([Job(queue, payload, unique=False) for payload in part])


CONTESTS: dict[str, Contest] = {
    f"{store}-steps": Contest(
        f"{store}: steps recorded, {RUNNERS} runners",
        ("neoq", *(name for name, peer in PEERS.items() if peer.store == store and peer.has_steps)),
        partial(recorded, store),
        (Bar("postgres, steps: at least 5,000 a second", "steps/s", at_least=5_000),)
        if store == "postgres"
        else (),
        ratio=("steps/s", "neoq"),
        needs=PACKAGE_OF.get(store),
        server=SERVER_OF.get(store),
        among=PEERS,
    )
    for store in STORES
}
CONTESTS["suspended"] = Contest(
    "memory: parents that wait (gather: without its child, which is measured apart)",
    ("wait_for", "sleep", "gather"),
    suspended,
    tuple(
        bar
        for name in ("wait_for", "sleep", "gather")
        for bar in (
            Bar(f"a parent in {name}: less than 1 KB", "bytes/parent", at_most=1_023, contender=name),
            Bar(f"a parent in {name}: no thread", "threads", at_most=0, contender=name),
        )
    ),
    needs="psutil",
)
