"""Jobs chosen by what they are: looked at, counted and changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import InvalidJobError
from neoq.filter import Filter, Time
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.suite import LATER, Suite, ended, id_of, ignore, reached


def fails(job: Job) -> None:
    """Fail with the text in the payload, if there is one."""
    if "error" in job.payload:
        raise RuntimeError(job.payload["error"])


def numbers(jobs: list[Job]) -> list[Any]:
    """What is called n in each payload."""
    return [job.payload.get("n") for job in jobs]


FILTERS: list[tuple[dict[str, Any], list[int]]] = [  # which of the six jobs below pass, newest first
    ({}, [5, 4, 3, 2, 1, 0]),
    ({"queue": "p"}, [4, 2, 0]),
    ({"status": Status.DEAD}, [4, 1]),
    ({"status": "succeeded"}, [5, 3, 2, 0]),
    ({"queue": "q", "status": Status.DEAD}, [1]),
    ({"status": Status.CANCELLED}, []),
    ({"key": "k1"}, [3, 1]),
    ({"key": "k"}, []),
    ({"kind": "unknown"}, []),
    ({"error": "bad 1\nli"}, [1]),
    ({"error": "RuntimeError: w"}, [4]),
    ({"error": "%"}, []),
    ({"payload": {"n": 3}}, [3]),
    ({"payload": {"user.id": 1}}, [4, 1]),
    ({"payload": {"user.id": 1.0, "n": 4}}, [4]),
    ({"payload": {"user.name": "xx"}}, [5, 2]),
    ({"payload": {"user.name": ""}}, [3, 0]),
    ({"payload": {"tags.0": 5}}, [5]),
    ({"payload": {"tags.1": "t"}, "queue": "q"}, [5, 3, 1]),
    ({"payload": {"n": True}}, []),
    ({"payload": {"n": None}}, []),
    ({"payload": {"absent": None}}, []),
    ({"payload": {"n.m": 3}}, []),
    ({"since": timedelta(hours=1), "key": "k0"}, [2, 0]),
    ({"until": timedelta(hours=1)}, []),
    ({"until": datetime(2100, 1, 1, tzinfo=UTC), "queue": "q"}, [5, 3, 1]),
]


class FilterCases(Suite):
    """jobs(), count() and the changes of all jobs that a filter takes."""

    @pytest.fixture
    def ended_jobs(self, backend: Backend) -> list[Job]:
        """Six jobs of two queues that have ended, of which two are dead."""
        for queue in ("p", "q"):
            backend.listen(queue, fails, max_retries=0)
        jobs = []
        for n in range(6):
            error = {"error": f"bad {n}\nline" if n == 1 else f"worse {n}"} if n in {1, 4} else {}
            options: dict[str, Any] = {"key": f"k{n % 2}"} if n < 4 else {}
            payload = {"n": n, "user": {"id": n % 3, "name": "x" * (n % 3)}, "tags": [n, "t"], **error}
            jobs.append(ended(backend, backend.enqueue("pq"[n % 2], payload, **options)))
        return jobs

    def test_each_filter(self, backend: Backend, ended_jobs: list[Job]) -> None:
        """jobs() returns the jobs for which all conditions hold, newest first; count() their number."""
        newest, oldest = id_of(ended_jobs[5]), id_of(ended_jobs[0])
        for filters, expected in FILTERS:
            assert numbers(backend.jobs(**filters)) == expected, filters
            assert numbers(backend.jobs(limit=1, **filters)) == expected[:1], filters
            assert backend.count(**filters) == len(expected), filters
            assert backend.count(at_most=1, **filters) == min(1, len(expected)), filters
            assert numbers(backend.jobs(after=newest, **filters)) == [n for n in expected if n < 5], filters
            assert numbers(backend.jobs(before=oldest, **filters)) == [n for n in expected if n > 0], filters

    def test_pages_in_both_directions(self, backend: Backend, ended_jobs: list[Job]) -> None:
        """Before turns back to the page that after has left."""
        ids = [id_of(job) for job in reversed(ended_jobs)]
        first = backend.jobs(limit=2)
        second = backend.jobs(limit=2, after=id_of(first[-1]))
        assert [job.id for job in (*first, *second)] == ids[:4]
        assert [job.id for job in backend.jobs(limit=2, before=id_of(second[0]))] == ids[:2]
        assert [job.id for job in backend.jobs(limit=2, before=ids[5], queue="q")] == [ids[2], ids[4]]
        assert [job.id for job in backend.jobs(limit=9, before=ids[2], status=Status.DEAD)] == [ids[1]]
        assert backend.jobs(before=ids[0]) == []
        with pytest.raises(InvalidJobError, match="after and before"):
            backend.jobs(before=ids[0], after=ids[0])

    def test_oldest_first(self, backend: Backend, ended_jobs: list[Job]) -> None:
        """In the other order after goes on to newer jobs, and before turns back to older ones."""
        ids = [id_of(job) for job in ended_jobs]
        first = backend.jobs(limit=2, order="oldest")
        second = backend.jobs(limit=2, order="oldest", after=id_of(first[-1]))
        assert [job.id for job in (*first, *second)] == ids[:4]
        assert [job.id for job in backend.jobs(limit=2, order="oldest", before=ids[4])] == ids[2:4]
        assert numbers(backend.jobs("q", order="oldest", after=ids[1])) == [3, 5]
        assert numbers(backend.jobs(status=Status.DEAD, order="oldest")) == [1, 4]
        with pytest.raises(InvalidJobError, match="order is 'up'"):
            backend.jobs(order="up")  # type: ignore[call-overload]

    def test_brief(self, backend: Backend) -> None:
        """A line of a list has the beginning of the payload, and what else a job has that is not large."""
        backend.listen("q", fails, max_retries=0)
        job = ended(backend, backend.enqueue("q", {"n": 1, "error": "bad"}, key="k", uid="u"))
        large = ended(backend, backend.enqueue("q", {"text": "ä" * 100_000}))
        waits = backend.enqueue("q", {"n": 2}, run_after=LATER, priority=3, max_retries=4)
        lines = backend.jobs("q", brief=True, order="oldest")
        assert [line.id for line in lines] == [job.id, large.id, waits.id]
        for line, known in zip(lines, (job, large, waits), strict=True):
            shared = {field.name for field in fields(line)} - {"preview"}
            assert {name: getattr(line, name) for name in shared} == {
                name: getattr(known, name) for name in shared
            }
            assert line.finished == known.finished
        assert [lines[0].preview, lines[2].preview] == ['{"error":"bad","n":1}', '{"n":2}']
        assert lines[1].preview.startswith('{"text":"ää')
        assert lines[1].preview.endswith("ä…")
        assert 1020 <= len(lines[1].preview.encode()) <= 1024
        [line] = backend.jobs(payload={"n": 1}, status=Status.DEAD, brief=True)
        assert (line.uid, line.error) == ("u", "RuntimeError: bad")
        assert [line.id for line in backend.jobs(limit=1, after=waits.id, brief=True)] == [large.id]

    def test_all_that_match(self, waiting: Backend) -> None:
        """iter_jobs() yields every job that the filters take, in both orders, also more than a page."""
        waiting.listen("q", ignore)
        waiting.enqueue_many([Job("q", {"n": n, "odd": n % 2 == 1}) for n in range(1100)])
        odd = list(range(1, 1100, 2))
        assert numbers(list(waiting.iter_jobs("q", payload={"odd": True}, order="oldest"))) == odd
        newest_first = waiting.iter_jobs(status="pending", payload={"odd": True})
        newest = next(newest_first)
        waiting.enqueue("q", {"n": 1100, "odd": True})
        assert numbers([newest, *newest_first]) == odd[::-1]
        with pytest.raises(InvalidJobError, match="status is 'done'"):
            waiting.iter_jobs(status="done")

    def test_times_are_of_the_end(self, backend: Backend) -> None:
        """Since and until are about the end of a job, and about its creation where it waits."""
        backend.listen("q", ignore)
        waits = backend.enqueue("q", {"n": 0}, run_after=LATER)
        late = backend.enqueue("q", {"n": 1}, run_after=0.3)
        done = ended(backend, late)
        between = done.created_at + (done.finished_at - done.created_at) / 2  # type: ignore[operator]
        assert numbers(backend.jobs("q", since=between)) == [1]
        assert numbers(backend.jobs("q", until=between)) == [0]
        before = waits.created_at - timedelta(milliseconds=1)  # type: ignore[operator]
        assert numbers(backend.jobs("q", until=before)) == []

    def test_which_time(self, backend: Backend) -> None:
        """Time says whether since and until mean the creation, the due time or the end of a job."""
        backend.listen("q", ignore)
        waits = backend.enqueue("q", {"n": 0}, run_after=LATER)
        done = ended(backend, backend.enqueue("q", {"n": 1}, run_after=0.3))
        assert done.created_at is not None
        assert done.run_after is not None
        assert done.finished_at is not None
        moment = timedelta(milliseconds=10)
        while_it_waited = done.created_at + (done.run_after - done.created_at) / 2
        times: dict[Time, datetime] = {
            "created": done.created_at,
            "due": done.run_after,
            "finished": done.finished_at,
        }
        for time, at in times.items():
            assert 1 in numbers(backend.jobs("q", since=at - moment, until=at + moment, time=time))
        assert numbers(backend.jobs("q", since=while_it_waited, time="created")) == []
        assert numbers(backend.jobs("q", until=while_it_waited, time="created")) == [1, 0]
        assert numbers(backend.jobs("q", since=while_it_waited, time="due")) == [1, 0]
        assert numbers(backend.jobs("q", since=while_it_waited, until=done.finished_at, time="due")) == [1]
        assert numbers(backend.jobs("q", until=while_it_waited, time="due")) == []
        assert numbers(backend.jobs("q", since=while_it_waited, time="finished")) == [1]
        assert numbers(backend.jobs("q", time="finished")) == [1]
        assert backend.count(queue="q", until=while_it_waited, time="finished") == 0
        assert backend.cancel_all(queue="q", time="finished") == 0
        assert backend.cancel_all(until=while_it_waited, time="created") == 1
        assert backend.get(id_of(waits)).status is Status.CANCELLED  # type: ignore[union-attr]

    def test_a_large_payload_is_searched(self, waiting: Backend) -> None:
        """A job is found by a value in its payload, however large that is and whatever stands around it."""
        waiting.listen("q", ignore)
        payloads = [{"text": "x" * size, "n": {"\u00e9 /": "\u2603 /"}, "m": size} for size in (1, 200_000)]
        waiting.enqueue_many([Job("q", payload) for payload in payloads] + [Job("q", {"n": 1})])
        found = waiting.jobs("q", payload={"n.\u00e9 /": "\u2603 /"})
        assert [job.payload["m"] for job in found] == [200_000, 1]
        assert [job.payload["m"] for job in waiting.jobs("q", payload={"m": 200_000})] == [200_000]

    def test_a_rare_job_among_many(self, waiting: Backend) -> None:
        """Jobs are found though a store looks at fewer than all of them in a call."""
        waiting.listen("q", ignore, capacity=None)
        number = 10_500
        for start in range(0, number, 500):
            waiting.enqueue_many([Job("q", {"n": n}, unique=False) for n in range(start, start + 500)])
        assert numbers(waiting.jobs(payload={"n": 7})) == [7]
        assert numbers(waiting.jobs(payload={"n": number - 7})) == [number - 7]
        page = waiting.store.find(Filter(payload=((("n",), 7),)), limit=10)
        assert numbers(page.jobs) == [7] or page.rest is not None
        assert waiting.count(queue="q") == number
        assert waiting.count(queue="q", at_most=700) == 700

    @pytest.mark.parametrize(
        ("filters", "named"),
        [
            ({"status": "done"}, "status is 'done'"),
            ({"queue": ""}, "queue is ''"),
            ({"kind": 5}, "kind is 5"),
            ({"key": ""}, "key is ''"),
            ({"error": "a\0b"}, "error is"),
            ({"since": datetime(2026, 1, 1)}, "since is the naive datetime"),  # noqa: DTZ001
            ({"until": -5}, "until is -5, in the future"),
            ({"since": 5, "until": 60}, "since is not before until"),
            ({"time": "later"}, "time is 'later'"),
            ({"time": "finished", "status": "running"}, "has not ended"),
            ({"payload": {}}, "payload is {}"),
            ({"payload": "x"}, "payload is 'x'"),
            ({"payload": {"a..b": 1}}, r"path 'a\.\.b'"),
            ({"payload": {"a": [1]}}, r"payload\['a'\] is \[1\]"),
            ({"payload": {"a": float("nan")}}, r"payload\['a'\] is nan"),
        ],
        ids=str,
    )
    def test_a_bad_filter_is_named(self, waiting: Backend, filters: dict[str, Any], named: str) -> None:
        """A filter that means nothing is refused wherever it is given."""
        calls: list[Callable[..., Any]] = [waiting.jobs, waiting.count, waiting.retry_all]
        for call in calls:
            with pytest.raises(InvalidJobError, match=named):
                call(**filters)
        with pytest.raises(TypeError, match="colour"):
            waiting.count(colour="red")  # type: ignore[call-arg]

    @pytest.mark.parametrize("action", ["retry_all", "cancel_all", "delete_all", "run_all"])
    def test_a_change_without_a_filter(self, waiting: Backend, action: str) -> None:
        """A change of all jobs there are is refused: it is seldom meant."""
        waiting.listen("q", ignore)
        waiting.enqueue("q")
        with pytest.raises(InvalidJobError, match="needs a filter"):
            getattr(waiting, action)()
        with pytest.raises(InvalidJobError, match="needs a filter"):
            getattr(waiting, action)(queue=None)
        assert len(waiting.jobs(status=Status.PENDING)) == 1

    def test_cancel_all(self, waiting: Backend) -> None:
        """cancel_all() cancels the unfinished jobs that the filters take, also more than a page of them."""
        waiting.listen("q", ignore)
        waiting.enqueue_many([Job("q", {"n": n, "odd": n % 2 == 1}) for n in range(1100)])
        assert waiting.cancel_all(queue="q", payload={"odd": True}) == 550
        assert waiting.cancel_all(queue="q", payload={"odd": True}) == 0
        assert waiting.count(status="pending") == 550
        assert waiting.count(status="cancelled") == 550

    @pytest.mark.usefixtures("ended_jobs")
    def test_retry_all(self, backend: Backend) -> None:
        """retry_all() runs the dead jobs that the filters take again, and no waiting one before its time."""
        waits = backend.enqueue("q", {"n": 7, "user": {"id": 1}}, run_after=LATER)
        for queue in ("p", "q"):
            backend.pause(queue)
        assert backend.retry_all(payload={"user.id": 1}) == 2
        assert numbers(backend.jobs(status=Status.DEAD)) == []
        assert numbers(backend.jobs(status=Status.PENDING)) == [7, 4, 1]
        again = backend.get(id_of(waits))
        assert again is not None
        assert again.run_after == waits.run_after
        assert backend.retry_all(error="worse") == 0

    def test_retry_all_leaves_what_is_taken(self, backend: Backend) -> None:
        """A dead job whose fingerprint is taken is left as it is, and not counted."""
        backend.listen("q", fails, max_retries=0)
        dead = [ended(backend, backend.enqueue("q", {"n": n, "error": "x"})) for n in range(3)]
        backend.pause("q")
        backend.enqueue("q", dead[1].payload)
        assert backend.retry_all(status=Status.DEAD) == 2
        assert numbers(backend.jobs(status=Status.DEAD)) == [1]

    @pytest.mark.usefixtures("ended_jobs")
    def test_delete_all(self, backend: Backend) -> None:
        """delete_all() forgets the jobs that the filters take."""
        assert backend.delete_all(queue="p", status=Status.SUCCEEDED) == 2
        assert numbers(backend.jobs()) == [5, 4, 3, 1]
        assert backend.delete_all(since=timedelta(hours=1)) == 4
        assert backend.jobs() == []

    @pytest.mark.usefixtures("ended_jobs")
    def test_run_all(self, backend: Backend) -> None:
        """run_all() runs now what waits for a later time, a retry too, and leaves other jobs as they are."""
        backend.listen("r", fails, max_retries=1, retry=RetryPolicy(delay=3600.0))
        retries = reached(backend, backend.enqueue("r", {"n": 8, "error": "x"}), Status.RETRYING)
        backend.pause("q")
        backend.pause("r")
        options: dict[str, Any] = {"unique": False}
        later = [backend.enqueue("q", {"n": n}, run_after=LATER, **options) for n in (6, 7)]
        due = backend.enqueue("q", {"n": 9})
        assert backend.run_all(payload={"n": 7}) == 1
        assert backend.run_all(since=timedelta(hours=1)) == 2
        assert backend.run_all(since=timedelta(hours=1)) == 0
        assert backend.run_all(status=Status.DEAD) == 0
        assert numbers(backend.jobs(status=Status.DEAD)) == [4, 1]
        backend.resume("q")
        assert {ended(backend, job).status for job in (*later, due)} == {Status.SUCCEEDED}
        backend.resume("r")
        assert ended(backend, retries).status is Status.DEAD

    def test_jobs_that_run_are_cancelled_and_kept(self, backend: Backend, gate: Any) -> None:
        """cancel_all() interrupts the jobs that run; delete_all() leaves them."""

        def hold(_job: Job) -> None:
            while not gate.wait(0.005):
                pass

        backend.listen("q", hold, max_retries=0)
        job = reached(backend, backend.enqueue("q"), Status.RUNNING)
        assert backend.delete_all(queue="q") == 0
        assert backend.cancel_all(queue="q") == 1
        assert ended(backend, job).status is Status.CANCELLED
