"""Runners: how many of them share what there is to do."""

from __future__ import annotations

import threading

import pytest

import neoq
from neoq.worker import Runner, current_slot

PATIENCE = 10.0


def test_the_last_of_what_a_runner_took_alone_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Among very short jobs a runner calls nobody to help; when one of them is long, others are called."""
    monkeypatch.setattr("neoq.worker.BRIEF", PATIENCE)  # whatever else this machine does
    met, later = threading.Event(), threading.Event()
    waits: list[Runner] = []
    with neoq.MemBackend(queue_capacity=None, autostart=False) as backend:

        @backend.listen("q", concurrency=2)
        def handler(job: neoq.Job) -> None:
            mine = next(
                runner for runner in backend.engine.lanes["q"].runners if runner.slot is current_slot()
            )
            if waits and waits[0] is not mine:
                met.set()
            elif not waits and backend.engine.lanes["q"].alone is mine and not mine.ahead:
                waits.append(mine)
                if met.wait(PATIENCE):
                    later.set()

        backend.start()
        backend.enqueue("q")
        assert backend.drain(
            PATIENCE
        )  # one runner knows by now how short they are; the other is not there yet
        backend.enqueue_many(neoq.Job("q", {"n": n}) for n in range(5_000))
        assert later.wait(2 * PATIENCE), "nobody took what was behind it"


def test_claims_ahead_go_by_jobs_and_not_by_chunks() -> None:
    """One job that waited for the interpreter says little about how many can be claimed ahead."""
    with neoq.MemBackend(autostart=False) as backend:
        backend.listen("q", lambda _job: None, concurrency=8)
        lane = backend.engine.lanes["q"]
        assert lane.fits_ahead() == 0  # nothing is known yet
        lane.learn(1, 0.005)
        assert lane.fits_ahead() == 1
        for _ in range(20):
            lane.learn(64, 64 * 20e-6)
        assert 200 <= lane.fits_ahead() <= 250  # of 20 microseconds each, 5 ms hold 250
