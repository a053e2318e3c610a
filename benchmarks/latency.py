"""How long an idle queue takes from the call of enqueue to the start of the handler."""

from __future__ import annotations

import time
from typing import Any

from contenders import CONTENDERS
from contest import Bar, Contest, Handled, Measures, payloads, percentile

GAP = 0.002  # seconds between two jobs: time enough to run the one and go idle
RUNNERS = 4


def measure(name: str, quick: bool) -> Measures:
    count = 100 if quick else 400
    handled = Handled(count)
    enqueued, started = [0.0] * count, [0.0] * count

    def handler(payload: dict[str, Any]) -> None:
        started[payload["n"]] = time.perf_counter()
        handled.note(payload)

    contender = CONTENDERS[name](handler, RUNNERS)
    for payload in payloads(count):
        time.sleep(GAP)
        enqueued[payload["n"]] = time.perf_counter()
        contender.put(payload)
    handled.wait()
    contender.stop()
    handled.check()
    waits = [(begin - call) * 1e3 for call, begin in zip(enqueued, started, strict=True)]
    return {"jobs": count, "p50 ms": percentile(waits, 0.5), "p99 ms": percentile(waits, 0.99)}


CONTESTS = {
    "latency": Contest(
        f"Idle latency, enqueue to start of the handler, {RUNNERS} runners, a job every {GAP * 1e3:.0f} ms",
        ("neoq", "ThreadPoolExecutor", "queue.Queue", "huey", "dramatiq", "APScheduler"),
        measure,
        (
            Bar("p50: at most 1.5 x ThreadPoolExecutor", "p50 ms", at_most=1.5, against="ThreadPoolExecutor"),
            Bar("p99: at most 2.0 x ThreadPoolExecutor", "p99 ms", at_most=2.0, against="ThreadPoolExecutor"),
        ),
        ratio=("p50 ms", "ThreadPoolExecutor"),
    )
}
