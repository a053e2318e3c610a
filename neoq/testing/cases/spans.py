"""Spans: jobs that are unique for a time, whatever became of them, and replacements that are put off."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import timedelta

import pytest

from neoq.backend import Backend
from neoq.job import DuplicateJobError, Job
from neoq.record import Status
from neoq.testing.cases.durable import TransactionCases
from neoq.testing.cases.holding import HeldSuite, add, come, nothing_comes, settle
from neoq.testing.cases.seam import look
from neoq.testing.cases.suite import (
    LATER,
    Background,
    ended,
    eventually,
    id_of,
    ignore,
    in_threads,
    needs,
    prepared,
)

HOUR = timedelta(hours=1)


def unique_for(seconds: float, **keywords: object) -> Job:
    """Make a job that is unique for so long after it was accepted."""
    job = prepared("q", {"a": 1}, **keywords)
    job.unique_for, job.special = seconds, True
    return job


def debounced(n: int, run_after: float, seconds: float) -> Job:
    """Make a job that replaces another, and is put off so long at most."""
    job = prepared("q", {"n": n}, fingerprint="doc", on_duplicate="replace", run_after=run_after)
    job.max_delay, job.special = seconds, True
    return job


class UniqueForCases(HeldSuite):
    """unique_for."""

    @needs("limits")
    @pytest.mark.parametrize("status", [Status.SUCCEEDED, Status.DEAD, Status.CANCELLED])
    def test_unique_for_a_time(self, idle: Backend, status: Status) -> None:
        """A job that is unique for a time meets its duplicates in it, however it has ended."""
        [first] = add(idle, unique_for(LATER))
        [met] = add(idle, unique_for(LATER))
        assert (met.id, met.duplicate) == (first.id, True)
        settle(idle, come(idle), status)
        [met] = add(idle, unique_for(LATER))
        assert (met.id, met.duplicate, met.status) == (first.id, True, status)
        with pytest.raises(DuplicateJobError):
            add(idle, unique_for(LATER, on_duplicate="raise"))
        assert nothing_comes(idle)

    @needs("limits")
    def test_a_time_that_is_over(self, idle: Backend) -> None:
        """After its time, and its end, a job meets no duplicates any more."""
        [first] = add(idle, unique_for(0.1))
        settle(idle, come(idle))
        again = [job for job in add(idle, unique_for(0.1)) if not job.duplicate]
        assert not again or time.time() > (first.created or 0.0) + 0.1
        again = again or eventually(
            lambda: [job for job in add(idle, unique_for(0.1)) if not job.duplicate], "its time is over"
        )
        assert again[0].id != first.id
        assert len(come(idle)) == 1

    @needs("limits")
    def test_unfinished_after_its_time(self, idle: Backend) -> None:
        """A job that is unfinished when its time is over meets its duplicates until it has ended."""
        [first] = add(idle, unique_for(0.01))
        eventually(lambda: time.time() > (first.created or 0.0) + 0.02, "its time is over")
        [met] = add(idle, unique_for(0.01))
        assert (met.id, met.duplicate) == (first.id, True)
        settle(idle, come(idle))
        assert not add(idle, unique_for(0.01))[0].duplicate

    @needs("limits")
    def test_a_duplicate_of_what_was_deleted(self, idle: Backend) -> None:
        """A duplicate of a job that is known no more is a cancelled job with its id."""
        [first] = add(idle, unique_for(LATER))
        idle.store.change([id_of(first)], "delete")
        [met] = add(idle, unique_for(LATER))
        assert (met.id, met.duplicate, met.status) == (first.id, True, Status.CANCELLED)
        assert nothing_comes(idle)

    @needs("limits")
    def test_two_at_once(self, idle: Backend) -> None:
        """Of many that are added at the same instant one is stored."""
        added = in_threads(4, lambda _number: add(idle, unique_for(LATER)))
        assert sorted(job.duplicate for [job] in added) == [False, True, True, True]
        assert len({job.id for [job] in added}) == 1

    @needs("limits")
    def test_a_time_of_its_own_queue(self, idle: Backend) -> None:
        """The time is of a queue and a fingerprint: others are not refused."""
        add(idle, unique_for(LATER))
        other, elsewhere = prepared("q", {"a": 2}), prepared("p", {"a": 1})
        for job in (other, elsewhere):
            job.unique_for, job.special = LATER, True
        assert [job.duplicate for job in add(idle, other, elsewhere)] == [False, False]


class SpanTransactionCases(TransactionCases):
    """unique=timedelta in a transaction of the caller's own."""

    @needs("transactions", "limits")
    def test_a_span_goes_with_its_transaction(self, backend: Backend) -> None:
        """A span whose transaction is rolled back never was; with the commit it holds, after the end, too."""
        backend.listen("q", ignore)
        for end in ("rollback", "commit"):
            with closing(self.connection(backend)) as connection:
                job = backend.enqueue("q", {"n": 1}, unique=HOUR, transaction=connection)
                assert not job.duplicate
                assert backend.enqueue("q", {"n": 1}, unique=HOUR, transaction=connection).id == job.id
                getattr(connection, end)()
        assert ended(backend, job).status is Status.SUCCEEDED
        met = backend.enqueue("q", {"n": 1}, unique=HOUR)
        assert (met.id, met.duplicate) == (job.id, True)
        with closing(self.connection(backend)) as connection:
            assert backend.enqueue("q", {"n": 1}, unique=HOUR, transaction=connection).duplicate
            connection.rollback()

    @needs("transactions", "limits")
    @pytest.mark.parametrize("end", ["rollback", "commit"])
    def test_one_waits_for_the_transaction_of_another(self, waiting: Backend, end: str) -> None:
        """Of two at once the second waits for the first one's transaction; one of them is stored."""
        with closing(self.connection(waiting)) as connection:
            first = waiting.enqueue("q", {"n": 1}, unique=HOUR, transaction=connection)
            second = Background(lambda: waiting.enqueue("q", {"n": 1}, unique=HOUR))
            assert second.blocks()
            getattr(connection, end)()
        met = second.result()
        assert met.duplicate is (end == "commit")
        assert met.id == first.id or not met.duplicate
        assert [job.id for job in waiting.jobs("q")] == [met.id]


class DebounceCases(HeldSuite):
    """max_delay."""

    @needs("limits")
    def test_put_off_so_long_at_most(self, idle: Backend) -> None:
        """A job that is replaced again and again is due at most max_delay after the first was accepted."""
        [first] = add(idle, debounced(0, 30.0, 60.0))
        accepted = first.created or 0.0
        [second] = add(idle, debounced(1, 50.0, 60.0))
        found = look(idle, second)
        assert found.payload == {"n": 1}
        assert found.due == pytest.approx(accepted + 50.0, abs=5.0)
        for n in (2, 3):
            [job] = add(idle, debounced(n, LATER, 60.0))
            found = look(idle, job)
            assert found.payload == {"n": n}
            assert found.due == pytest.approx(accepted + 60.0, abs=2.0)

    @needs("limits")
    def test_a_delay_that_is_over(self, idle: Backend) -> None:
        """A replacement that comes after the longest delay is due at once."""
        [first] = add(idle, debounced(0, LATER, 0.05))
        eventually(lambda: time.time() > (first.created or 0.0) + 0.06, "the delay is over")
        add(idle, debounced(1, LATER, 0.05))
        [job] = come(idle)
        assert job.payload["n"] in {0, 1}
