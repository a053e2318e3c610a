"""Batches: what a member costs beside a plain job, and how soon the callback follows the last end."""

from __future__ import annotations

import gc
import threading
import time
from functools import partial
from itertools import islice
from typing import Any

from contest import PATIENCE, Bar, Contest, Measures, payloads, percentile
from on_servers import RUNNERS, Timed
from server_contenders import batches as in_thousands
from stores import PACKAGE_OF, SERVER_OF, STORES, opened
from workflow_peers import PEERS

JOBS = {"memory": 100_000, "sqlite": 40_000, "postgres": 40_000, "redis": 40_000}
MEMBERS = 10  # of each batch whose callback is timed
TURNS = 300
GAP = 0.01  # seconds between two of these batches: everything is idle again by then
# Members are kept until the callback has succeeded, so they are compared with jobs that are kept for a day,
# too. `retention=0` deletes a plain job at its end.
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "members": {},
    "plain, retention=0": {"retention": 0},
    "members, retention=0": {"retention": 0},
}


def run_all(store: str, name: str, quick: bool) -> Measures:
    """Add jobs in thousands, then run all of them; a batch has ended when its callback has run."""
    count = JOBS[store] // (50 if quick else 1)
    if name in PEERS:
        return PEERS[name].batch(count // 10)
    from neoq import Job

    handled, called = Timed(count), threading.Event()
    with opened(store, **SETTINGS[name]) as backend:
        backend.listen("work", lambda job: handled.note(job.payload), concurrency=RUNNERS)
        backend.listen("then", lambda job: called.set())
        backend.queues()
        work = [Job("work", payload, unique=False) for payload in payloads(count)]
        parts = list(in_thousands(work, 1_000))  # type: ignore[arg-type, var-annotated]
        gc.collect()
        start = time.perf_counter()
        if name.startswith("members"):
            with backend.batch(then=Job("then", {})) as batch:
                for part in parts:
                    batch.enqueue_many(part)
        else:
            called.set()
            for part in parts:
                backend.enqueue_many(part)
        added = time.perf_counter() - start
        backend.start()
        handled.wait()
        if not called.wait(PATIENCE):
            raise RuntimeError("the callback did not run")
        backend.drain()
        ran = handled.seconds
    handled.check()
    return {"jobs": count, "added/s": count / added, "run/s": count / ran, "both/s": count / (added + ran)}


def callback(store: str, name: str, quick: bool) -> Measures:
    """From the end of the last member to the start of the callback, one batch after another."""
    turns = 10 if quick else TURNS
    if name in PEERS:
        return times(PEERS[name].callbacks(turns, MEMBERS))
    from neoq import Job

    ends: list[float] = []
    began: list[float] = []
    sealed, called = threading.Event(), threading.Event()

    def work(job: Job) -> None:
        sealed.wait(PATIENCE)
        ends.append(time.perf_counter())

    def then(job: Job) -> None:
        began.append(time.perf_counter() - max(ends))
        called.set()

    with opened(store) as backend:
        backend.listen("work", work, concurrency=RUNNERS)
        backend.listen("then", then)
        backend.start()
        for turn in range(turns):
            with backend.batch(then=Job("then", {"turn": turn})) as batch:
                batch.enqueue_many(Job("work", payload) for payload in payloads(MEMBERS))
            sealed.set()
            if not called.wait(PATIENCE):
                raise RuntimeError(f"callback {turn} did not run")
            if len(ends) != MEMBERS:
                raise RuntimeError(f"the callback ran after {len(ends)} of {MEMBERS} members")
            ends.clear()
            sealed.clear()
            called.clear()
            time.sleep(GAP)
    return times([seconds * 1e3 for seconds in islice(began, turns)])


def times(waits: list[float]) -> Measures:
    counted = waits[len(waits) // 10 :]  # the first ones warm up
    return {"batches": len(counted), "p50 ms": percentile(counted, 0.5), "p99 ms": percentile(counted, 0.99)}


def peers_on(store: str) -> tuple[str, ...]:
    return tuple(name for name, peer in PEERS.items() if peer.store == store and peer.has_batches)


CONTESTS: dict[str, Contest] = {}
for _store in STORES:
    CONTESTS[f"{_store}-members"] = Contest(
        f"{_store}: members of a batch beside plain jobs, 8 runners",
        (*SETTINGS, *peers_on(_store)),
        partial(run_all, _store),
        tuple(
            Bar(f"{_store}, members: {metric} at least 0.9 x plain", metric, 0.9, None, "members", "plain")
            for metric in ("added/s", "run/s")
        ),
        ratio=("both/s", "plain"),
        needs=PACKAGE_OF.get(_store),
        server=SERVER_OF.get(_store),
        among=PEERS,
    )
    CONTESTS[f"{_store}-callback"] = Contest(
        f"{_store}: from the end of the last of {MEMBERS} members to the start of the callback",
        ("neoq", *peers_on(_store)),
        partial(callback, _store),
        (
            Bar(f"{_store}, callback p50: less than 10 ms", "p50 ms", at_most=10),
            Bar(f"{_store}, callback p99: less than 50 ms", "p99 ms", at_most=50),
        ),
        ratio=("p50 ms", "neoq"),
        needs=PACKAGE_OF.get(_store),
        server=SERVER_OF.get(_store),
        among=PEERS,
    )
