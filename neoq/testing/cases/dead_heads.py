"""Dead heads of lines as operators see them: in the log, once, and in `backend.lines`."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import Discard
from neoq.held.limits import Line
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.durable import SHORT_LEASE, LeaseCases
from neoq.testing.cases.holding import add, come
from neoq.testing.cases.lines import ORDERED, keyed, limit
from neoq.testing.cases.suite import Make, Seen, Suite, busy, ended, eventually, hang, id_of, needs


def told(caplog: pytest.LogCaptureFixture, job: Job) -> int:
    """How often the log has said that a job holds its line."""
    return sum(
        record.levelno == logging.CRITICAL and f"job {job.id} of q is dead and holds" in record.getMessage()
        for record in caplog.records
    )


class DeadHeadCases(Suite):
    """Heads that die in a worker."""

    @needs("limits")
    @pytest.mark.parametrize("how", ["attempt", "deadline", "late", "hangs"])
    def test_a_dead_head_is_told_of_once(
        self, make: Make, how: str, gate: threading.Event, seen: Seen, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A head that fails, meets its deadline as it runs or waits, or hangs is shown, and logged once."""
        backend = make(max_abandoned=100)

        def handler(job: Job) -> None:
            if job.payload["n"]:
                seen(job.payload["n"])
            elif how == "attempt":
                raise Discard("no")
            elif how == "late":
                raise ValueError
            else:
                (hang if how == "hangs" else busy)(gate)

        options: dict[str, Any] = {"deadline": 0.2} if how in {"deadline", "late"} else {}
        delay = RetryPolicy(delay=0.3)
        backend.listen("q", handler, ordered=True, max_retries=int(how == "late"), timeout=0.2, retry=delay)
        head = backend.enqueue("q", {"n": 0}, key="a", **options)
        backend.enqueue("q", {"n": 1}, key="a")
        assert ended(backend, head).status is Status.DEAD
        eventually(lambda: told(caplog, head), "it is logged")
        line = eventually(lambda: backend.lines("q"), "it is shown")
        assert line == [Line("q", "a", "dead", head.id, 1)]
        seen.stays(0)
        assert told(caplog, head) == 1
        gate.set()
        backend.delete(id_of(head))
        assert seen.wait() == [1]

    @needs("limits")
    def test_a_deadline_that_passes_in_line(
        self, backend: Backend, gate: threading.Event, seen: Seen, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A job whose deadline passes in an ordered line holds what is behind it, as any other dead one."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            if not job.payload["n"]:
                gate.wait()

        backend.listen("q", handler, ordered=True, concurrency=2)
        backend.enqueue("q", {"n": 0}, key="a")
        seen.wait()
        late = backend.enqueue("q", {"n": 1}, key="a", deadline=0.05)
        backend.enqueue("q", {"n": 2}, key="a")
        assert late.deadline is not None
        eventually(lambda: datetime.now(UTC) > late.deadline, "the deadline passes")  # type: ignore[operator]
        seen.stays(1)
        gate.set()
        assert ended(backend, late).status is Status.DEAD
        assert eventually(lambda: backend.lines("q"), "it is shown") == [Line("q", "a", "dead", late.id, 1)]
        seen.stays(1)
        assert told(caplog, late) == 1
        backend.retry(id_of(late))
        assert seen.wait(3) == [0, 1, 2]

    @needs("limits")
    def test_whose_limits_say_what_a_dead_head_means(
        self, backend: Backend, seen: Seen, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With on_dead="go on" a line goes on, and nothing is logged; an operator's limits override that."""

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            if job.payload["n"] in {0, 2}:
                raise Discard("no")

        backend.listen("q", handler, ordered=True, on_dead="go on")
        first = backend.enqueue("q", {"n": 0}, key="a")
        backend.enqueue("q", {"n": 1}, key="a")
        assert seen.wait(2) == [0, 1]
        assert ended(backend, first).status is Status.DEAD
        assert (backend.lines("q"), told(caplog, first)) == ([], 0)
        backend.limit("q", on_dead="hold")
        second = backend.enqueue("q", {"n": 2}, key="a")
        backend.enqueue("q", {"n": 3}, key="a")
        assert ended(backend, second).status is Status.DEAD
        assert backend.lines("q") == [Line("q", "a", "dead", second.id, 1)]
        assert told(caplog, second) == 1
        backend.limit("q", None)
        assert seen.wait(4) == [0, 1, 2, 3]


class DeadHeadLeaseCases(LeaseCases):
    """Heads whose workers die."""

    @needs("shared", "limits")
    def test_a_head_that_kills_its_workers(
        self, make: Make, join: Make, seen: Seen, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A head whose worker died once too often is shown and logged once, and holds its line."""
        settings = {"max_crashes": 1, **SHORT_LEASE}
        worker = self._open(make(autostart=False, **settings))
        limit(worker, ORDERED)
        add(worker, *(keyed("a", n) for n in range(2)))
        [head] = come(worker)
        self.die(worker)
        other = join(worker, **settings)
        other.listen("q", lambda job: seen(job.payload["n"]), ordered=True)
        eventually(lambda: told(caplog, head), "it is logged")
        assert ended(other, head).status is Status.DEAD
        assert other.lines("q") == [Line("q", "a", "dead", head.id, 1)]
        seen.stays(0)
        assert told(caplog, head) == 1
        other.retry(id_of(head))
        assert seen.wait(2) == [0, 1]
