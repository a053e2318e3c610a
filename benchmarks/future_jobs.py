"""Jobs for later: what adding many of them costs, and how punctual others are beside them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from contenders import CONTENDERS
from contest import Bar, Contest, Handled, Measures, payloads, percentile, resident_bytes

# The peers add fewer, or they would take minutes. A Timer is a thread, and thousands of them are many.
FAR_JOBS = {"neoq": 300_000, "huey": 20_000, "APScheduler": 20_000, "threading.Timer": 2_000}
NEAR_JOBS = 2_000
SPREAD = 5.0  # seconds over which the near ones fall due
LEAD = 0.5  # seconds until the first of them is


def measure_adding(name: str, quick: bool) -> Measures:
    count = FAR_JOBS[name] // (10 if quick else 1)
    contender = CONTENDERS[name](no_handler, 4)
    due = datetime.now(UTC) + timedelta(hours=1)
    work = list(payloads(count))
    before = resident_bytes()
    start = time.perf_counter()
    for payload in work:
        contender.put_at(payload, due)
    seconds = time.perf_counter() - start
    held = resident_bytes() - before
    return {"jobs": count, "jobs/s": count / seconds, "bytes/job": held / count}


def no_handler(payload: dict[str, Any]) -> None:
    raise AssertionError(f"job {payload['n']} ran an hour early")


def measure_lateness(name: str, quick: bool) -> Measures:
    far, near, spread = FAR_JOBS[name], NEAR_JOBS, SPREAD
    if quick:
        far, near, spread = far // 10, near // 5, spread / 5
    handled = Handled(near)
    due, started = [0.0] * near, [0.0] * near

    def handler(payload: dict[str, Any]) -> None:
        started[payload["n"]] = time.time()
        handled.note(payload)

    contender = CONTENDERS[name](handler, 4)
    in_an_hour = datetime.now(UTC) + timedelta(hours=1)
    for payload in payloads(far, start=near):
        contender.put_at(payload, in_an_hour)
    first = datetime.now(UTC) + timedelta(seconds=LEAD)
    for payload in payloads(near):
        when = first + timedelta(seconds=spread * payload["n"] / near)
        due[payload["n"]] = when.timestamp()
        contender.put_at(payload, when)
    handled.wait()
    handled.check()
    late = [(begin - then) * 1e3 for then, begin in zip(due, started, strict=True)]
    early = sum(wait < 0 for wait in late)
    return {
        "far jobs": far,
        "early": early,
        "p50 ms": percentile(late, 0.5),
        "p99 ms": percentile(late, 0.99),
        "max ms": max(late),
    }


CONTESTS = {
    "adding": Contest(
        "Adding jobs that are due in an hour",
        tuple(FAR_JOBS),
        measure_adding,
        (
            Bar("adding future jobs: at least 60,000/s", "jobs/s", at_least=60_000),
            Bar("a future job: less than 1,024 resident bytes", "bytes/job", at_most=1_023),
        ),
        needs="psutil",
    ),
    "lateness": Contest(
        f"Lateness of {NEAR_JOBS:,} jobs due over {SPREAD:.0f} s, beside those due in an hour",
        ("neoq", "APScheduler"),
        measure_lateness,
        (
            Bar("none early", "early", at_most=0),
            Bar("lateness p50: less than 2 ms", "p50 ms", at_most=2),
            Bar("lateness p99: less than 10 ms", "p99 ms", at_most=10),
        ),
    ),
}
