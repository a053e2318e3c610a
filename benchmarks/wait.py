"""How soon another process hears of what a job did: `wait` from enqueue to its return, and progress.

The worker is a process of its own, this file run as a program. Wait: there are gaps between the jobs, so that
all is idle again. Progress: one job reports the time at random moments, and `watch` sees it here.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contest import Bar, Contest, Measures, percentile

WARM_UP = 5  # jobs before those that count
GAP = 0.02  # seconds between two jobs
REPORTS_FOR = 10.0  # seconds


@contextmanager
def worker_on(url: str) -> Iterator[None]:
    """A worker in a process of its own."""
    with subprocess.Popen([sys.executable, __file__, url], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n", "the worker failed"
        try:
            yield
        finally:
            worker.terminate()


@contextmanager
def url_for(name: str) -> Iterator[str]:
    """The URL of an empty store: a file, or a server that was started for this measurement."""
    if name == "sqlite":
        from sqlite import a_file

        with a_file() as path:
            yield f"sqlite:///{path}"
    else:
        from servers import SERVERS

        with SERVERS[name]() as url:
            yield url


def waits(name: str, quick: bool) -> Measures:
    import neoq

    taken: list[float] = []
    with url_for(name) as url, worker_on(url), neoq.connect(url, autostart=False) as backend:
        for number in range(WARM_UP + (50 if quick else 300)):
            time.sleep(GAP * random.uniform(0.5, 1.5))
            began = time.perf_counter()
            job = backend.wait(backend.enqueue("short", {"n": number}).id, 30)
            taken.append((time.perf_counter() - began) * 1e3)
            assert job.result == number
    counted = taken[WARM_UP:]
    return {"jobs": len(counted), "p50 ms": percentile(counted, 0.5), "p99 ms": percentile(counted, 0.99)}


def reports(name: str, quick: bool) -> Measures:
    """How old the newest report was that was replaced by the next, whenever one was seen."""
    import neoq

    seen: list[tuple[float, float]] = []  # when, and which report
    with url_for(name) as url, worker_on(url), neoq.connect(url, autostart=False) as backend:
        seconds = REPORTS_FOR / (3 if quick else 1)
        job = backend.enqueue("long", {"seconds": seconds})
        last: Any = None
        for snapshot in backend.watch(job.id, 60):
            progress = snapshot.progress()
            if progress not in {None, last} and not snapshot.finished:
                last = progress
                seen.append((time.time(), float(progress[1])))
        reported = [float(one) for one in snapshot.result]
    unseen = [
        min((when for when, report in seen if report >= said), default=0.0) - said for said in reported[:-5]
    ]
    late = [one * 1e3 for one in unseen if one > 0]
    return {
        "reports": len(reported),
        "seen": len(seen),
        "seen/s": len(seen) / seconds,
        "p50 ms": percentile(late, 0.5),
        "max ms": max(late),
    }


def _work(url: str) -> None:
    import neoq

    backend = neoq.connect(url, autostart=False)
    backend.listen("short", lambda job: job.payload["n"])

    @backend.listen("long", timeout=None)
    def long(job: neoq.Job) -> list[str]:
        said: list[str] = []
        ends = time.time() + job.payload["seconds"]
        while time.time() < ends:
            said.append(repr(time.time()))
            job.progress(0.5, said[-1])
            time.sleep(random.uniform(0.01, 0.1))
        return said

    backend.start()
    print("ready", flush=True)
    backend.run()


STORES = ("sqlite", "postgres", "redis")
CONTESTS = {
    "wait": Contest(
        "From enqueue to the return of wait, in another process than the worker",
        STORES,
        waits,
        (
            Bar("SQLite, wait p50: less than 60 ms", "p50 ms", at_most=60, contender="sqlite"),
            Bar("Postgres, wait p50: less than 20 ms", "p50 ms", at_most=20, contender="postgres"),
            Bar("Redis, wait p50: less than 20 ms", "p50 ms", at_most=20, contender="redis"),
        ),
        ratio=None,
        among=dict.fromkeys(STORES),
    ),
    "progress": Contest(
        "From job.progress to its sight in another process, which watches the job",
        STORES,
        reports,
        tuple(
            Bar(f"{name}, progress: within 0.5 s", "max ms", at_most=500, contender=name) for name in STORES
        ),
        ratio=None,
        among=dict.fromkeys(STORES),
    ),
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    _work(sys.argv[1])
