"""Batches, jobs of several steps and ordered lines while workers and servers die, or transactions stay open.

Each ends with a reckoning: no callback is lost, early or stuck, no step runs after its record, and no two
jobs of a key overlap. Short here; `make faults` has the long forms.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import neoq
from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.store import Demand
from tests.faults.flow import flow
from tests.faults.servers import SERVERS
from tests.sentinel import watched_servers

LONG = [pytest.mark.faults, pytest.mark.timeout(1200)]
HASTY = {"lease": "3", "heartbeat": "0.5", "max_crashes": "1000"}
AOF = ("--appendonly", "yes", "--appendfsync", "no")


@pytest.fixture(params=["postgres", "redis", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a store is that forgets nothing."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db?max_crashes=1000"
        return
    with SERVERS[request.param]() as server:
        yield server.url(**HASTY)


@pytest.mark.parametrize("rounds", [5, pytest.param(1000, marks=LONG)])
def test_workers_are_killed_at_random(url: str, tmp_path: Path, rounds: int) -> None:
    """Workers are killed at random: all that was accepted ends, in order, and no recorded step runs again."""
    with flow(tmp_path, url) as running:
        running.kill_at_random(rounds, random.Random(rounds))
        running.reckon(120.0).check()


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=LONG)])
def test_failovers_in_the_middle_of_batches(tmp_path: Path, times: int) -> None:
    """What was lost with a master runs again; no accepted job is lost, and no callback early or stuck."""
    with watched_servers(tmp_path, *AOF) as servers:
        settings = "&".join(f"{name}={value}" for name, value in HASTY.items())
        with flow(tmp_path, f"{servers.url}?wait_replicas=1&socket_timeout=1&{settings}") as running:
            for _ in range(2):
                running.worker()
            running.producer()
            for _ in range(times):
                running.await_rounds(running.rounds() + 5)
                servers.await_replica()
                servers.fail_over()
                servers.revive()
            running.await_rounds(running.rounds() + 2)
            running.reckon(120.0).check("twice", "repeated", "overlaps", "disorder")


# ---------------------------------------------------------------------------------------- open transactions


def cycle(backend: neoq.Backend) -> float:
    """Run a batch of one member and a job of a line by hand; return the seconds of their claims."""
    with backend.batch(neoq.Job("probe then")) as batch:
        batch.enqueue("probe member")
    line = backend.enqueue("probe line", key="k")
    waiting, seconds = {batch.id, line.id, None}, 0.0
    give_up = time.monotonic() + 30.0
    while waiting:
        began = time.perf_counter()
        jobs = backend.store.claim(
            [Demand(queue, 1) for queue in ("probe member", "probe then", "probe line")]
        ).jobs
        seconds += time.perf_counter() - began
        backend.store.settle(
            [Outcome(lease_of(job), Status.SUCCEEDED, finished_at=time.time()) for job in jobs]
        )
        waiting -= {None if job.queue == "probe member" else job.id for job in jobs}
        assert time.monotonic() < give_up, f"{waiting} do not come"
    return seconds


@pytest.mark.parametrize(("rounds", "seconds"), [(40, 0.0), pytest.param(500, 120.0, marks=LONG)])
def test_a_transaction_left_open(tmp_path: Path, rounds: int, seconds: float) -> None:
    """While another transaction is open batches, steps and lines go on, and claims take no longer."""
    import psycopg

    with SERVERS["postgres"]() as server, flow(tmp_path, server.url(**HASTY)) as running:
        with (
            psycopg.connect(server.driver_url) as other,
            neoq.connect(server.url(), autostart=False) as backend,
        ):
            backend.limit("probe line", ordered=True)
            other.execute("set transaction isolation level repeatable read")
            other.execute("select pg_current_xact_id()")
            running.worker(seconds=0.0)
            running.producer(pause=0.15 if seconds else 0.05)  # no more than one worker does
            began, times = time.monotonic(), []
            while running.rounds() < rounds or time.monotonic() - began < seconds:
                times.append(cycle(backend))
            other.execute("select pg_current_xact_id()")  # it was open all the time
            quarter = len(times) // 4
            first, last = statistics.median(times[:quarter]), statistics.median(times[-quarter:])
            print(
                f"claims of {len(times)} cycles: {first * 1000:.1f} ms at first, {last * 1000:.1f} ms at last"
            )
            assert not seconds or last < 4 * first + 0.1
        running.reckon(120.0).check()
