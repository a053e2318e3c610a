"""Future jobs: what adding many of them costs, and how punctual due jobs are beside them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from contenders import CONTENDERS, Contender
from contest import Bar, Contest, Handled, Measures, payloads, percentile, resident_bytes

# The peers add fewer, or they would take minutes. A Timer is a thread, and thousands of them are many.
FAR = {"neoq": 300_000, "huey": 20_000, "APScheduler": 20_000, "threading.Timer": 2_000}
PUNCTUAL = ("neoq", "APScheduler")  # huey looks once a second, and the machine has no room for more Timers
NEAR = 2_000
SPREAD = 5.0  # seconds over which the near jobs come due
LEAD = 0.5  # seconds until the first of them is due
RUNNERS = 4


def measure(name: str, quick: bool) -> Measures:
    far, near, spread = FAR[name], NEAR, SPREAD
    if quick:
        far, near, spread = far // 10, near // 5, spread / 5
    handled = Handled(near)
    started = [0.0] * near

    def handler(payload: dict[str, Any]) -> None:
        if payload["n"] < near:  # a far one that runs is found by the check
            started[payload["n"]] = time.time()
        handled.note(payload)

    contender = CONTENDERS[name](handler, RUNNERS)
    measures = add_far(contender, far, first=near)
    if name in PUNCTUAL:
        due = add_near(contender, near, spread)
        handled.wait()
        measures |= lateness(due, started)
        handled.check()
    return measures


def add_far(contender: Contender, count: int, first: int) -> Measures:
    """Add this many jobs that are due in an hour."""
    work = list(payloads(count, start=first))
    due = datetime.now(UTC) + timedelta(hours=1)
    before = resident_bytes()
    start = time.perf_counter()
    for payload in work:
        contender.put_at(payload, due)
    seconds = time.perf_counter() - start
    return {"jobs": count, "jobs/s": count / seconds, "bytes/job": (resident_bytes() - before) / count}


def add_near(contender: Contender, count: int, spread: float) -> list[float]:
    """Add this many jobs that come due evenly over some seconds; return when each is due."""
    first = datetime.now(UTC) + timedelta(seconds=LEAD)
    due = []
    for payload in payloads(count):
        when = first + timedelta(seconds=spread * payload["n"] / count)
        due.append(when.timestamp())
        contender.put_at(payload, when)
    return due


def lateness(due: list[float], started: list[float]) -> Measures:
    late = [(begin - then) * 1e3 for then, begin in zip(due, started, strict=True)]
    return {
        "early": sum(wait < 0 for wait in late),
        "late p50 ms": percentile(late, 0.5),
        "late p99 ms": percentile(late, 0.99),
    }


CONTESTS = {
    "future": Contest(
        f"Adding jobs due in an hour; beside them, the lateness of {NEAR:,} due over {SPREAD:.0f} s",
        tuple(FAR),
        measure,
        (
            Bar("adding future jobs: at least 60,000/s", "jobs/s", at_least=60_000),
            Bar("a future job: less than 1,024 resident bytes", "bytes/job", at_most=1_023),
            Bar("none early", "early", at_most=0),
            Bar("lateness p50: less than 2 ms", "late p50 ms", at_most=2),
            Bar("lateness p99: less than 10 ms", "late p99 ms", at_most=10),
        ),
        needs="psutil",
    ),
}
