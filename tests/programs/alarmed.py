"""A signal handler that raises, again and again, while the main thread enqueues: no job may be left lying."""

from __future__ import annotations

import itertools
import logging
import random
import signal
import sys
import time

import neoq

SECONDS = 2.0
logging.disable(logging.CRITICAL)


class Alarm(Exception):
    pass


def alarm(*_: object) -> None:
    raise Alarm


def silence() -> None:
    """End the alarms; one that comes meanwhile may still raise."""
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
    except Alarm:
        silence()


def main(in_batches: bool) -> None:
    backend = neoq.MemBackend(shutdown_timeout=1, queue_capacity=None, max_finished=0)
    backend.listen("q", lambda job: None, concurrency=2)
    signal.signal(signal.SIGALRM, alarm)
    rng = random.Random(7)
    end, landed = time.monotonic() + SECONDS, 0
    numbers = itertools.count()

    def enqueue() -> None:
        """Enqueue until the alarm; apart, since a try does not cover the turn of a loop (CPython 3.13)."""
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, 4e-4))
        while time.monotonic() < end:  # an alarm that lands in a destructor is swallowed
            n = next(numbers)
            if in_batches:
                backend.enqueue_many([neoq.Job("q", {"n": n, "k": k}) for k in range(3)])
            else:
                backend.enqueue("q", {"n": n})

    over = False
    while not over:
        try:
            enqueue()
            silence()
            over = True
        except Alarm:
            landed += 1
    drained = backend.drain(20)
    left = backend.jobs(status=neoq.Status.PENDING, limit=1000)
    print("drained" if drained and not left and landed else f"{landed} landed, {backend.stats()}, {left[:3]}")


main(sys.argv[1] == "batches")
