"""Keys: what a line costs beside plain jobs, and what a long line of one key costs the other keys."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from contest import PATIENCE, Bar, Contest, Measures, payloads
from on_servers import RUNNERS, Timed
from server_contenders import batches as in_thousands
from stores import PACKAGE_OF, SERVER_OF, STORES, opened

JOBS = {"memory": 100_000, "sqlite": 20_000, "postgres": 20_000, "redis": 20_000}
AT_LEAST = {"memory": 0.7, "sqlite": 0.45, "postgres": 0.45, "redis": 0.6}
KEYS = 1_000
LIMITS: dict[str, dict[str, Any]] = {"plain": {}, "ordered": {"ordered": True}, "per_key": {"per_key": 3}}
OTHERS = 10_000  # jobs of other keys beside the long line
LINE, LONG_LINE = 100_000, 1_000_000


def key_of(number: int) -> str:
    return f"customer-{number % KEYS}"


def keyed(store: str, name: str, quick: bool) -> Measures:
    """Add jobs of a thousand keys in thousands, then run all of them."""
    count = JOBS[store] // (50 if quick else 1)
    handled = Timed(count)
    limits = LIMITS[name]
    with opened(store) as backend:
        backend.listen("work", lambda job: handled.note(job.payload), concurrency=RUNNERS, **limits)
        backend.queues()
        added = add(backend, range(count), keys=bool(limits))
        backend.start()
        handled.wait()
        backend.drain()
        ran = handled.seconds
    if name == "ordered":
        check_order(handled.numbers)
    handled.check()
    return {"jobs": count, "added/s": count / added, "run/s": count / ran, "both/s": count / (added + ran)}


def add(backend: Any, numbers: range, *, keys: bool = True, key: str | None = None) -> float:
    """Enqueue in thousands, and return how long that took; the jobs are made before."""
    from neoq import Job

    seconds = 0.0
    for part in in_thousands(payloads(len(numbers), numbers.start), 1_000):
        jobs = [
            Job("work", payload, unique=False, key=(key or key_of(payload["n"])) if keys else None)
            for payload in part
        ]
        start = time.perf_counter()
        backend.enqueue_many(jobs)
        seconds += time.perf_counter() - start
    return seconds


def check_order(numbers: Iterable[int]) -> None:
    last: dict[str, int] = {}
    for number in numbers:
        if last.get(key_of(number), -1) > number:
            raise RuntimeError(f"job {number:,} of {key_of(number)} ran after a later one")
        last[key_of(number)] = number


def beside_a_line(store: str, length: int, name: str, quick: bool) -> Measures:
    """Run jobs of a thousand keys, while a job of one more key runs, with none or many behind it."""
    waiting, count = (length // 50, OTHERS // 50) if quick else (length, OTHERS)
    handled, busy, gate = Timed(count), threading.Event(), threading.Event()

    def handler(job: Any) -> None:
        if job.key != "large":
            handled.note(job.payload)
        else:
            busy.set()
            gate.wait(PATIENCE * 2)

    with opened(store) as backend:
        backend.listen("work", handler, concurrency=RUNNERS, ordered=True, timeout=None)
        backend.queues()
        add(backend, range(sys.maxsize - (waiting if name == "beside" else 1), sys.maxsize), key="large")
        gc.collect()
        added = add(backend, range(count))
        start = time.perf_counter()
        backend.start()
        handled.wait()
        ran = handled.seconds
        if not busy.wait(PATIENCE):
            raise RuntimeError("the head of the long line did not run")
        gate.set()
    handled.check()
    return {
        "in the line": waiting if name == "beside" else 1,
        "others added/s": count / added,
        "others run/s": count / ran,
        "first after s": handled.began - start,
    }


CONTESTS: dict[str, Contest] = {}
for _store in STORES:
    CONTESTS[f"{_store}-keyed"] = Contest(
        f"{_store}: jobs of {KEYS:,} keys beside plain jobs, 8 runners",
        tuple(LIMITS),
        partial(keyed, _store),
        tuple(
            Bar(f"{_store}, {name}: at least {least} x plain", "run/s", least, None, name, "plain")
            for name in ("ordered", "per_key")
            for least in [AT_LEAST[_store]]
        ),
        ratio=("run/s", "plain"),
        needs=PACKAGE_OF.get(_store),
        server=SERVER_OF.get(_store),
    )
    for _name, _length in ((f"{_store}-line", LINE), (f"{_store}-line-million", LONG_LINE)):
        CONTESTS[_name] = Contest(
            f"{_store}: {OTHERS:,} jobs of other keys beside {_length:,} of one key",
            ("alone", "beside"),
            partial(beside_a_line, _store, _length),
            tuple(
                Bar(
                    f"{_store}, {metric} with {_length:,} of one key: at least 0.9 x",
                    metric,
                    0.9,
                    None,
                    "beside",
                    "alone",
                )
                for metric in ("others added/s", "others run/s")
            ),
            ratio=("others run/s", "alone"),
            needs=PACKAGE_OF.get(_store),
            server=SERVER_OF.get(_store),
            long=_length == LONG_LINE,
        )
