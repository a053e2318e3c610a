"""What a store keeps beside the jobs, so that any process can tell: which kinds of job its workers run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.engine.listener import Listener
from neoq.job import Job
from neoq.store import QueueCounts, WorkerInfo
from neoq.testing.cases.suite import LATER, Make, Suite, ended, eventually, ignore, prepared
from neoq.version import __version__


def of_kind(kind: str | None, n: int, **options: Any) -> Job:
    """Make a job of a kind, ready for a store."""
    job = prepared("q", {"n": n}, **options)
    if kind is not None:
        job.kind, job.special = kind, True
    return job


def counts_of(backend: Backend) -> QueueCounts:
    """The counts of the queue of these cases."""
    [counts] = [counts for counts in backend.queues() if counts.queue == "q"]
    return counts


class KindCases(Suite):
    """Which kinds of job the workers run, and which nobody does."""

    @staticmethod
    def _worker(backend: Backend) -> WorkerInfo:
        [worker] = eventually(backend.workers, "it is known")
        return worker

    @pytest.fixture
    def two_kinds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every listener runs jobs of two kinds, and no others."""
        monkeypatch.setattr(Listener, "kinds", frozenset({"b", "a"}))

    def _with_jobs(self, waiting: Backend, *jobs: Job) -> Backend:
        """A backend that listens on a queue which is paused, with these jobs in it."""
        waiting.pause("q")
        waiting.store.add(list(jobs), token=b"")
        waiting.listen("q", ignore)
        waiting.start()
        return waiting

    def test_a_worker_tells_its_version_and_that_it_runs_any_kind(self, backend: Backend) -> None:
        """workers() has None as the kinds of a queue whose handler runs every job, and neoq's version."""
        backend.listen("q", ignore)
        ended(backend, backend.enqueue("q"))
        worker = self._worker(backend)
        assert worker.kinds == {"q": None}
        assert worker.version == __version__

    @pytest.mark.usefixtures("two_kinds")
    def test_a_worker_tells_the_kinds_that_it_runs(self, backend: Backend) -> None:
        """workers() has the kinds of job that a process runs, for each of its queues."""
        backend.listen("q", ignore)
        backend.start()
        assert self._worker(backend).kinds == {"q": ("a", "b")}

    @pytest.mark.usefixtures("two_kinds")
    def test_kinds_that_nobody_knows_are_counted(self, waiting: Backend) -> None:
        """queues() has the waiting jobs of each kind that no live worker of their queue runs."""
        jobs = [
            of_kind("a", 0),
            of_kind("new", 1),
            of_kind("new", 2, run_after=LATER),
            of_kind("new", 3, priority=1),
            of_kind(None, 4),
        ]
        backend = self._with_jobs(waiting, *jobs)
        expected: Mapping[str, int] = {"new": 3, "(none)": 1}
        eventually(lambda: counts_of(backend).unknown == expected, "they are counted")

    def test_where_any_kind_is_run_none_is_unknown(
        self, waiting: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The kinds of waiting jobs are not looked at where a worker runs jobs of every kind."""
        backend = self._with_jobs(waiting, of_kind("new", 0), of_kind(None, 1))
        self._worker(backend)
        monkeypatch.setattr(type(backend.store), "waiting_kinds", None)
        assert counts_of(backend).unknown == {}

    @pytest.mark.usefixtures("two_kinds")
    def test_a_kind_that_nobody_knows_is_logged_once(
        self, make: Make, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker logs each kind of waiting jobs that no live worker knows, once."""
        monkeypatch.setattr("neoq.engine.unknown.LOOK_EVERY", 0.01)
        backend = make(autostart=False)
        with caplog.at_level(logging.WARNING, "neoq"):
            self._with_jobs(backend, of_kind("old", 0), of_kind("old", 1), of_kind("a", 2))
            eventually(lambda: "no live worker knows it" in caplog.text, "it is logged")
            backend.store.add([of_kind("older", 3)], token=b"")
            eventually(lambda: "'older'" in caplog.text, "another kind is logged, too")
        told = [record.getMessage() for record in caplog.records if "no live" in record.getMessage()]
        assert told == [
            "2 jobs of kind 'old' wait in 'q': no live worker knows it",
            "1 jobs of kind 'older' wait in 'q': no live worker knows it",
        ]
