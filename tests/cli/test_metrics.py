"""/metrics of a worker: the sum of what its processes have done, whatever becomes of them."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from neoq.cli.counting import Counting
from neoq.cli.metrics import Metrics
from neoq.cli.wire import Wire
from tests.cli.scraping import samples, scrape
from tests.cli.workers import APP, Shop, Worker, until

QUICK = APP.replace("lease=2, heartbeat=0.5, concurrency=4", "lease=2, heartbeat=0.5, concurrency=2")

LAST = 3.0  # seconds: a process tells each second, and on a busy machine later


def succeeded(worker: Worker) -> float:
    """How many attempts have succeeded, as a scrape says."""
    return samples(worker).get(("neoq_jobs_finished_total", "succeeded", "work"), 0)


def test_the_sum_is_what_was_done_while_processes_are_replaced(shop: Shop) -> None:
    """Over four processes, --max-jobs and a reload one scrape counts the jobs that were done, to the unit."""
    shop.write(QUICK)
    shop.add(2000)
    with shop.worker("--port", "0", "--processes", "4", "--max-jobs", "250") as worker:
        worker.says(r"is to be replaced: it has run \d+ jobs \(--max-jobs\)", 2)
        worker.signal(signal.SIGHUP)
        shop.until(set(range(2000)))
        until(lambda: succeeded(worker) >= 2000, "all is counted")
        until(lambda: samples(worker)["neoq_child_exits_total", "replaced"] >= 2, "ends are counted")
        found = samples(worker)
        assert found["neoq_jobs_finished_total", "succeeded", "work"] == len(shop.ledger()) == 2000
        assert found["neoq_job_run_seconds_count", "ok", "work"] == 2000
        assert found["neoq_job_wait_seconds_count", "work"] == 2000
        assert found["neoq_child_exits_total", "signal"] == 0
        assert found["neoq_store_up",] == 1
        assert found["neoq_jobs", "work", "succeeded"] > 0
        assert found["neoq_store_seconds_count", "settle"] > 0


def test_a_killed_process_takes_at_most_its_last_second_with_it(shop: Shop) -> None:
    """After kill -9 of a process the sum lacks at most what that did in its last moments."""
    shop.write(QUICK)
    shop.add(800, seconds=0.005)
    with shop.worker("--port", "0", "--processes", "4") as worker:
        victim = worker.claims(4)[0]
        until(lambda: len(shop.ledger()) > 200, "a part is done")
        os.kill(victim, signal.SIGKILL)
        killed_at = time.time()
        shop.until(set(range(800)))
        until(lambda: shop.backend.stats().succeeded == 800, "all are settled")
        late = [one for one in shop.ledger() if int(one[1]) == victim and float(one[2]) > killed_at - LAST]
        until(lambda: succeeded(worker) >= 800 - len(late), "all is counted")
        found = samples(worker)
        assert found["neoq_jobs_finished_total", "succeeded", "work"] <= 800
        assert found["neoq_child_exits_total", "signal"] == 1
        assert found["neoq_reclaimed_total",] == found["neoq_jobs_finished_total", "lost", "work"]


def test_scrapes_of_a_worker(shop: Shop) -> None:
    """/metrics answers GET and HEAD, and needs no prometheus-client."""
    (shop.folder / "prometheus_client.py").write_text(
        "raise ModuleNotFoundError('none', name='prometheus_client')", encoding="utf-8"
    )
    with shop.worker("--port", "0") as worker:
        worker.claims()
        until(lambda: ("neoq_leases_lost_total",) in samples(worker), "the process has told its counts")
        assert samples(worker)["neoq_leases_lost_total",] == 0
        code, head, body = scrape(worker, method="HEAD")
        assert (code, body) == (200, "")
        assert "Content-Type: text/plain; version=" in head
        assert scrape(worker, method="POST")[0] == 405
        assert "/status and /metrics" in scrape(worker, "/metric")[2]


def served(metrics: Metrics) -> str:
    """What a scrape gets."""
    ours, theirs = socket.socketpair()
    with ours:
        metrics.serve(theirs, "GET")
        return b"".join(iter(lambda: ours.recv(65536), b"")).decode()


def test_levels_are_asked_of_one_process_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh levels are not asked for again; a process that does not answer means that the store is away."""
    asked: list[int] = []
    answers = [True, True, False]
    made = Metrics(lambda: [asked.append(1), answers[len(asked) - 1]][1])
    made.note_levels([[["neoq_workers"], [3]]])
    assert "neoq_workers 3" in served(made)
    assert asked == []
    monkeypatch.setattr("neoq.cli.metrics.KEPT", 0.0)
    monkeypatch.setattr("neoq.cli.metrics.LIMIT", 0.01)
    said = served(made)
    assert ("neoq_store_up 0" in said, "neoq_workers" in said, len(asked)) == (True, False, 1)
    said = served(made)
    assert ("neoq_store_up 0" in said, len(asked)) == (True, 2)
    made.note_levels([])
    said = served(made)
    assert ("neoq_store_up" in said, "neoq_workers" in said, len(asked)) == (False, False, 3)
    assert 'neoq_child_exits_total{reason="signal"} 0' in said


def test_an_idle_process_does_not_wake_its_supervisor(shop: Shop) -> None:
    """What an idle process counts of its store is told every five seconds, and at its end."""
    ours, theirs = (Wire(end) for end in socket.socketpair())
    with ours.socket, theirs.socket:
        ours.socket.setblocking(False)
        counting = Counting(theirs, shop.backend.engine)
        counting.tell()
        assert len(ours.receive() or ()) == 1
        shop.backend.queues()
        counting.tell()
        assert ours.receive() == []
        counting.tell(at_once=True)
        assert len(ours.receive() or ()) == 1
        shop.add(1)
        counting.tell()
        assert len(ours.receive() or ()) == 1
