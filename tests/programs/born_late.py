"""Jobs that are interrupted the moment they begin: their deadline is all but past when they start."""

from __future__ import annotations

import faulthandler
import logging
import random
import sys
import time

import neoq

JOBS = 40_000
PATIENCE = 10.0


def main() -> None:
    faulthandler.dump_traceback_later(3 * PATIENCE, exit=True)
    sys.setswitchinterval(1e-5)
    logging.getLogger("neoq").disabled = True
    backend = neoq.MemBackend(
        max_retries=0, max_finished=None, max_dead=None, queue_capacity=None, shutdown_timeout=2
    )
    backend.listen("late", lambda job: None, concurrency=16)
    backend.listen("plain", plain, concurrency=1, timeout=0.2)
    rng = random.Random(7)
    for n in range(JOBS):
        backend.enqueue("late", {"n": n}, deadline=rng.uniform(0.00005, 0.0006))
    if backend.drain(PATIENCE) and backend.stats().succeeded + backend.stats().dead == JOBS:
        print("every job ended")
    if ends_as(backend, {"spin": False}, neoq.Status.SUCCEEDED):
        print("a job runs")
    if ends_as(backend, {"spin": True}, neoq.Status.DEAD):
        print("a job is interrupted")
    backend.shutdown()


def plain(job: neoq.Job) -> None:
    give_up = time.monotonic() + PATIENCE
    while job.payload["spin"] and time.monotonic() < give_up:
        pass


def ends_as(backend: neoq.MemBackend, payload: dict[str, bool], status: neoq.Status) -> bool:
    job = backend.enqueue("plain", payload)
    assert job.id is not None
    return backend.wait(job.id, PATIENCE / 2).status is status


main()
