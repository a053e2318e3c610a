"""The memory of waiting jobs, and whether a backend grows while it runs millions of jobs."""

from __future__ import annotations

import threading
import time
from typing import Any

import contenders
from contenders import CONTENDERS, NeoqInThousands
from contest import PATIENCE, Bar, Contest, Handled, Measures, payloads, resident_bytes

WAITING = {
    "neoq": 20_000,
    "ThreadPoolExecutor": 20_000,
    "queue.Queue": 20_000,
    "huey": 10_000,
    "dramatiq": 6_000,
    "APScheduler": 6_000,
}
MANY = 5_000_000
FIRST = 500_000


def measure_waiting(name: str, quick: bool) -> Measures:
    """One job holds the only runner, and the rest waits behind it."""
    count = WAITING[name] // (2 if quick else 1)
    handled = Handled(count)
    gate = threading.Event()

    def handler(payload: dict[str, Any]) -> None:
        gate.wait(PATIENCE)
        handled.note(payload)

    contender = make(name, handler, count)
    before = resident_bytes()
    contender.put_all(payloads(count))
    held = resident_bytes() - before
    gate.set()
    handled.wait()
    contender.stop()
    handled.check()
    return {"jobs": count, "bytes/job": held / count}


def make(name: str, handler: contenders.Handler, count: int) -> contenders.Contender:
    if name == "neoq":  # the others have no limit
        return contenders.Neoq(handler, 1, queue_capacity=count)
    return CONTENDERS[name](handler, 1)


def measure_many(name: str, quick: bool) -> Measures:
    """Millions of unique jobs through one backend, in thousands; memory is read when none is waiting."""
    count, first = (MANY // 50, FIRST // 50) if quick else (MANY, FIRST)
    # One touched byte a job, made before: what counts them must not grow while the memory is watched.
    times_run = bytearray(b"\0") * count

    def handler(payload: dict[str, Any]) -> None:
        times_run[payload["n"]] += 1

    contender = NeoqInThousands(handler, 4)
    start = time.perf_counter()
    contender.put_all(payloads(first))
    contender.backend.drain()
    then = resident_bytes()
    contender.put_all(payloads(count - first, start=first))
    contender.backend.drain()
    seconds = time.perf_counter() - start
    now = resident_bytes()
    contender.stop()
    if times_run.count(1) != count:
        raise RuntimeError(f"of {count:,} jobs {times_run.count(1):,} ran once, {times_run.count(0):,} never")
    return {
        "jobs": count,
        "jobs/s": count / seconds,
        f"MB at {first:,}": then / 1e6,
        "MB at the end": now / 1e6,
        "grown by MB": (now - then) / 1e6,
    }


CONTESTS = {
    "waiting": Contest(
        "Memory of jobs that wait, ready to run",
        tuple(WAITING),
        measure_waiting,
        (Bar("a waiting job: less than 1,024 resident bytes", "bytes/job", at_most=1_023),),
        needs="psutil",
    ),
    "many": Contest(
        f"{MANY:,} jobs through one backend",
        ("neoq enqueue_many",),
        measure_many,
        (
            Bar(
                f"memory after {MANY:,} jobs: at most 10 MB more than after {FIRST:,}",
                "grown by MB",
                at_most=10,
                contender="neoq enqueue_many",
            ),
        ),
        needs="psutil",
        long=True,
    ),
}
