"""Handlers that enqueue in a tight loop until their timeout interrupts them, wherever they are just then.

Says what was accepted and did not run, and which stored jobs wait for ever with their fingerprint taken.
"""

from __future__ import annotations

import faulthandler
import logging
import sys
import time
from collections.abc import Callable

import neoq

ROUNDS = 8
PRODUCERS = 40  # a round
PATIENCE = 5.0


def main() -> None:
    sys.setswitchinterval(1e-5)
    logging.getLogger("neoq").disabled = True
    for _ in range(ROUNDS):
        faulthandler.dump_traceback_later(4 * PATIENCE, exit=True)
        accepted, lost, ghosts = one_round()
        print("accepted", accepted, "lost", lost, "ghosts", ghosts)
    faulthandler.cancel_dump_traceback_later()


def one_round() -> tuple[int, list[int], list[int]]:
    backend = neoq.MemBackend(
        max_retries=0, max_finished=None, max_dead=None, queue_capacity=None, shutdown_timeout=1
    )
    accepted: list[int] = []

    def produce(job: neoq.Job) -> None:
        n = 0
        while True:
            n += 1
            payload = {"from": job.payload["n"], "n": n}
            new = backend.enqueue("sink", payload, run_after=0.01 if n % 3 == 0 else None)
            if not new.duplicate and new.id is not None:
                accepted.append(new.id)

    backend.listen("producer", produce, concurrency=2, timeout=0.003)
    backend.listen("sink", lambda job: None, concurrency=1)
    backend.enqueue_many([neoq.Job("producer", {"n": n}) for n in range(PRODUCERS)])
    until(lambda: backend.stats().dead == PRODUCERS)
    until(lambda: all(counts.unfinished == 0 for counts in backend.queues()))
    succeeded = {job.id for job in backend.jobs("sink", neoq.Status.SUCCEEDED, limit=10**9)}
    stored = {job.id for job in backend.jobs("sink", limit=10**9) if job.id is not None}
    backend.shutdown()
    return len(accepted), sorted(set(accepted) - succeeded), sorted(stored - succeeded)


def until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds() and time.monotonic() < give_up:
        time.sleep(0.01)


main()
