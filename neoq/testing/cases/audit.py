"""Who did what, which threads run what, and what became of the ticks of a schedule."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.audit import AuditEntry, acting_as, note, recorded
from neoq.backend import Backend
from neoq.errors import InvalidJobError
from neoq.job import Job
from neoq.store import ThreadInfo, Tick
from neoq.testing.cases.suite import (
    LATER,
    Make,
    Seen,
    Suite,
    busy,
    eventually,
    ignore,
    needs,
    prepared,
)

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def told(entry: AuditEntry) -> tuple[str, int, str | None, str]:
    """What an entry says, without who and when."""
    return entry.action, entry.count, entry.queue, entry.what


class AuditCases(Suite):
    """audit()."""

    def test_nobody_acts(self, waiting: Backend) -> None:
        """An operation of nobody in particular leaves no entry."""
        waiting.listen("q", ignore)
        assert waiting.cancel(waiting.enqueue("q").id)
        assert waiting.audit() == []

    def test_each_operation_leaves_one_entry(self, waiting: Backend) -> None:
        """Each operation in a block of acting_as() leaves one entry, which says who did what to how many."""
        waiting.listen("q", ignore)
        job, *others = (waiting.enqueue("q", {"n": n}, run_after=LATER).id for n in range(4))
        before = datetime.now(UTC) - timedelta(seconds=5)
        with acting_as("ada", via="dashboard"):
            assert waiting.retry(job)
            assert waiting.delete(job)
            assert waiting.cancel([*others[:1], job]) == {others[0]}
            assert waiting.run_all(queue="q", status="pending") == 2
            waiting.pause("q")
            waiting.resume("q")
            waiting.prune()
        waiting.cancel(others)
        entries = waiting.audit()
        assert [told(entry) for entry in reversed(entries)] == [
            ("retry", 1, None, f"ids {job}"),
            ("delete", 1, None, f"ids {job}"),
            ("cancel", 1, None, f"ids {others[0]}, {job}"),
            ("run", 2, "q", "status=pending queue=q"),
            ("pause", 1, "q", ""),
            ("resume", 1, "q", ""),
            ("prune", 0, None, ""),
        ]
        assert {(entry.user, entry.via) for entry in entries} == {("ada", "dashboard")}
        assert before <= entries[-1].at <= entries[0].at <= datetime.now(UTC) + timedelta(seconds=5)

    def test_entries_are_paged_newest_first(self, waiting: Backend) -> None:
        """audit() returns the newest entries, and those before the id of another one."""
        with acting_as("Ada Łovelace 🙂", via="a test"):
            for n in range(5):
                note(waiting.store, "reveal", count=n) if n else waiting.pause("q")
        first = waiting.audit(limit=2)
        rest = waiting.audit(before=first[-1].id)
        assert [entry.count for entry in [*first, *rest]] == [4, 3, 2, 1, 1]
        assert [entry.action for entry in rest] == ["reveal", "reveal", "pause"]
        assert {entry.user for entry in rest} == {"Ada Łovelace 🙂"}
        assert waiting.audit(before=rest[-1].id) == []
        assert len(waiting.audit(limit=2**70, before=2**70)) == 5

    def test_what_went_through_is_recorded(self, waiting: Backend) -> None:
        """An operation that is broken off leaves an entry with what it has done so far."""
        waiting.queues()

        def retry() -> None:
            with recorded(waiting.store, "retry") as deed:
                deed.count += 500
                waiting.pause("inside")  # which is a part of it
                raise KeyboardInterrupt

        with acting_as("ada"), pytest.raises(KeyboardInterrupt):
            retry()
        assert [told(entry) for entry in waiting.audit()] == [("retry", 500, None, "")]

    def test_hostile_texts(self, waiting: Backend) -> None:
        """A name that no store could hold is made one that it can, on one line and of bounded length."""
        waiting.queues()
        with acting_as("ada\n\0\ud800" + "x" * 10_000, via="\x1b[31m"):
            note(waiting.store, "reveal\n", what="ids " * 10_000)
        [entry] = waiting.audit()
        assert entry.user.startswith("ada  ?xxx")
        assert (len(entry.user), entry.via, entry.action, len(entry.what)) == (200, " [31m", "reveal ", 1000)

    @pytest.mark.parametrize("look", [lambda b: b.audit(limit=0), lambda b: b.audit(before="x")])
    def test_bad_arguments_of_audit(self, waiting: Backend, look: Callable[[Backend], Any]) -> None:
        """audit() refuses what is no limit and no id."""
        with pytest.raises(InvalidJobError):
            look(waiting)

    @needs("shared")
    def test_entries_are_seen_elsewhere(self, make: Make, join: Make) -> None:
        """Another process sees the entries, and the ids of its own go on after them."""
        first = make(autostart=False)
        second = join(first, autostart=False)
        with acting_as("ada"):
            first.pause("q")
            second.resume("q")
        assert [entry.action for entry in first.audit()] == ["resume", "pause"]


class WorkerCases(Suite):
    """workers(), threads and all."""

    def test_a_worker_tells_what_its_threads_run(self, make: Make, seen: Seen, gate: threading.Event) -> None:
        """workers() tells what each thread runs since when, those that wait last, and the memory."""
        backend = make()

        def handler(job: Job) -> None:
            seen(job.id)
            busy(gate)

        backend.listen("q", handler, concurrency=2)
        quick = backend.enqueue("q", {"n": 0})
        seen.wait(1)
        job = backend.enqueue("q", {"n": 1}, kind="letter")
        seen.wait(2)
        now = datetime.now(UTC)

        def threads() -> list[ThreadInfo]:
            return [one for worker in backend.workers() for one in worker.threads if one.job_id]

        eventually(lambda: len(threads()) == 2, "both are told")
        first, second = threads()
        assert (first.queue, first.job_id, first.kind) == ("q", quick.id, None)
        assert (second.job_id, second.kind, second.abandoned) == (job.id, "letter", False)
        assert first.since is not None
        assert second.since is not None
        assert first.since <= second.since <= now
        [worker] = backend.workers()
        assert worker.abandoned == 0
        assert worker.memory is None or worker.memory > 2**20

    def test_the_first_call(self, waiting: Backend) -> None:
        """workers() works as the first call of a process."""
        assert waiting.workers() == []


class PastTickCases(Suite):
    """What schedules() tells of the ticks that have been."""

    def test_the_job_of_the_last_tick(self, waiting: Backend) -> None:
        """schedules() tells the job of the last tick, and counts those that enqueued none."""
        waiting.listen_cron("@hourly", ignore, queue="hourly")
        waiting.queues()
        waiting.store.list_schedules({"hourly": b"1", "never": b"2"})
        tick = prepared("hourly", fingerprint="hourly")
        assert waiting.store.add_tick("hourly", NOON, tick) is Tick.NEW
        [job] = waiting.jobs("hourly")
        for hours in (1, 2, 2):
            again = prepared("hourly", fingerprint="hourly")
            waiting.store.add_tick("hourly", NOON + timedelta(hours=hours), again)
        hourly, never = waiting.store.schedules()
        assert hourly == ("hourly", b"1", NOON + timedelta(hours=2), job.id, 2)
        assert never == ("never", b"2", None, None, 0)
