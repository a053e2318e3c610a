"""How many jobs a second are enqueued one after the other, run, and counted."""

from __future__ import annotations

import gc
import time
from functools import partial

from contenders import CONTENDERS
from contest import Bar, Contest, Handled, Measures, payloads

# So many that each runs for about half a second.
JOBS = {
    "neoq": 100_000,
    "neoq enqueue_many": 200_000,
    "ThreadPoolExecutor": 60_000,
    "queue.Queue": 150_000,
    "huey": 20_000,
    "dramatiq": 6_000,
    "APScheduler": 6_000,
}


def measure(name: str, quick: bool, runners: int) -> Measures:
    count = JOBS[name] // (4 if quick else 1)
    handled = Handled(count)
    contender = CONTENDERS[name](handled.note, runners)
    work = list(payloads(count))
    gc.collect()
    start = time.perf_counter()
    contender.put_all(work)
    handled.wait()
    seconds = time.perf_counter() - start
    contender.stop()
    handled.check()
    return {"jobs": count, "jobs/s": count / seconds}


BARS = (
    Bar(
        "one by one: at least 2.0 x ThreadPoolExecutor", "jobs/s", at_least=2.0, against="ThreadPoolExecutor"
    ),
    Bar("one by one: at least 5 x huey", "jobs/s", at_least=5.0, against="huey"),
    Bar(
        "in thousands: at least 4.0 x ThreadPoolExecutor",
        "jobs/s",
        at_least=4.0,
        contender="neoq enqueue_many",
        against="ThreadPoolExecutor",
    ),
)

CONTESTS = {
    "throughput": Contest(
        "Throughput, 4 runners",
        tuple(JOBS),
        partial(measure, runners=4),
        BARS,
        ratio=("jobs/s", "ThreadPoolExecutor"),
    ),
    "throughput-1": Contest(
        "Throughput, 1 runner",
        tuple(JOBS),
        partial(measure, runners=1),
        ratio=("jobs/s", "ThreadPoolExecutor"),
    ),
}
