"""What one job may say for itself: its own timeout, and the tick that it is for."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import InvalidJobError, Retry, Snooze
from neoq.job import DuplicateJobError, Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import Demand, Tick
from neoq.testing.cases.suite import (
    LATER,
    PATIENCE,
    Make,
    Seen,
    Suite,
    busy,
    ended,
    eventually,
    id_of,
    ignore,
    in_threads,
    needs,
    prepared,
)

SHORT = 0.05  # a timeout that is meant to run out
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


class OwnTimeoutCases(Suite):
    """A job's own timeout goes before its queue's."""

    def test_a_shorter_timeout_of_its_own(self, backend: Backend, gate: threading.Event) -> None:
        """A job runs no longer than its own timeout, and its error says that it was its own."""
        backend.listen("q", lambda _job: busy(gate), timeout=None, max_retries=0)
        dead = ended(backend, backend.enqueue("q", timeout=timedelta(seconds=SHORT)))
        assert (dead.status, dead.timeout) == (Status.DEAD, SHORT)
        assert dead.error == "JobTimeout: ran longer than its timeout of 0.05 s"

    def test_a_longer_timeout_of_its_own(self, backend: Backend, gate: threading.Event) -> None:
        """A job's own timeout may be longer than its queue's; other jobs keep the queue's."""

        def handler(job: Job) -> bool:
            if not job.payload["long"]:
                busy(gate)
            return 1e6 > job.remaining() > 60

        backend.listen("q", handler, timeout=SHORT, max_retries=0)
        long, short = backend.enqueue_many(
            [Job("q", {"long": True}, timeout=LATER), Job("q", {"long": False})]
        )
        assert ended(backend, long).result is True
        assert ended(backend, short).error == "JobTimeout: ran longer than the queue's timeout of 0.05 s"
        assert (long.timeout, short.timeout) == (LATER, None)

    def test_a_timeout_is_kept_until_the_end(self, backend: Backend) -> None:
        """A job keeps its timeout and its meta through a retry and a snooze."""
        met = Seen()

        def handler(job: Job) -> None:
            met((job.timeout, dict(job.meta), 0 < job.remaining() <= 30))
            if len(met.items) == 1:
                raise Retry(after=0)
            if len(met.items) == 2:
                raise Snooze(0)

        backend.listen("q", handler, retry=RetryPolicy(delay=0))
        job = backend.enqueue("q", {"a": 1}, timeout=30, meta={"a": "b"})
        done = ended(backend, job)
        assert met.items == [(30.0, {"a": "b"}, True)] * 3
        assert (job.timeout, done.timeout, dict(done.meta)) == (30.0, 30.0, {"a": "b"})

    def test_a_replacement_brings_its_timeout(self, waiting: Backend) -> None:
        """A job that replaces a waiting one brings its own timeout, or none."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", timeout=30, fingerprint="f", run_after=LATER)
        for timeout in (40.0, None):
            waiting.enqueue(
                "q",
                timeout=timeout,
                fingerprint="f",
                run_after=LATER,
                on_duplicate="replace",
                meta={"a": "b"},
            )
            found = waiting.get(id_of(job))
            assert found is not None
            assert (found.timeout, dict(found.meta)) == (timeout, {"a": "b"})

    @pytest.mark.parametrize("timeout", [0, -1, True, "5", float("nan"), timedelta(0), 1e300], ids=repr)
    def test_a_bad_timeout_is_named(self, waiting: Backend, timeout: Any) -> None:
        """A timeout that is no span above zero is refused at enqueue."""
        waiting.listen("q", ignore)
        with pytest.raises(InvalidJobError, match="timeout is"):
            waiting.enqueue("q", timeout=timeout)
        assert waiting.jobs() == []

    @needs("durable")
    def test_a_timeout_outlives_the_process(self, make: Make, again: Make) -> None:
        """The next process finds a job with its timeout, also where it has no meta."""
        first = make()
        job = first.enqueue("q", timeout=30)
        first.shutdown(timeout=1)
        second = again(first)
        found = second.get(id_of(job))
        assert found is not None
        assert (found.timeout, dict(found.meta)) == (30.0, {})
        second.listen("q", lambda job: job.timeout)
        assert ended(second, job).result == 30.0


class ScheduledAtCases(Suite):
    """A job of a cron says for which tick it is."""

    def test_the_tick_of_a_job(self, waiting: Backend) -> None:
        """scheduled_at is the tick, as an aware datetime, for who runs the job and for who looks at it."""
        waiting.listen_cron("@every 1s", ignore)
        queue = next(iter(waiting.engine.listeners))
        waiting.start()

        def of_tick() -> Job | None:
            return next(iter(waiting.jobs(queue)), None)

        job = eventually(of_tick, "a tick")
        assert job is not None
        assert job.scheduled_at == datetime.fromisoformat(job.payload["scheduled_at"])

    def test_other_jobs_have_no_tick(self, waiting: Backend) -> None:
        """scheduled_at is None for a job that no cron has made, and for a new job like one of a cron."""
        waiting.listen("q", ignore)
        assert waiting.queues() == []
        tick = prepared("q", {"n": 1}, fingerprint="cron")
        tick.scheduled = NOON.timestamp()
        assert waiting.store.add_tick("cron", NOON, tick) is Tick.NEW
        [of_cron] = waiting.store.claim([Demand("q", 1)]).jobs
        assert of_cron.scheduled_at == NOON
        assert waiting.enqueue("q", {"n": 2}).scheduled_at is None
        again = waiting.enqueue(of_cron)
        assert (again.duplicate, again.scheduled_at) == (True, NOON)
        assert waiting.delete(id_of(of_cron)) is False


class UidCases(Suite):
    """A job may be given a name of one's own, by which it is found; one job at a time has it."""

    def test_a_job_is_found_by_its_uid(self, backend: Backend) -> None:
        """get(uid=...) finds a job as it waits, after it has ended, and no other."""
        backend.listen("q", lambda job: job.uid)
        backend.pause("q")
        uid = "a" * 254 + "\N{SNOWMAN}"
        job = backend.enqueue("q", {"n": 1}, uid=uid)
        assert (job.uid, job.duplicate, id_of(found(backend, uid))) == (uid, False, job.id)
        backend.resume("q")
        done = ended(backend, job)
        assert (done.result, done.uid) == (uid, uid)
        assert id_of(found(backend, uid)) == job.id
        assert backend.get(uid="b") is None
        assert backend.enqueue("q", {"n": 2}).uid is None

    def test_an_equal_uid_is_a_duplicate(self, backend: Backend) -> None:
        """An enqueue with a uid that a job has returns that job, whatever it is, and adds nothing."""
        backend.listen("q", ignore)
        done = ended(backend, backend.enqueue("q", {"n": 1}, uid="a"))
        again = backend.enqueue("q", {"n": 2}, uid="a", unique=False)
        assert (again.id, again.duplicate, again.payload, again.status) == (
            done.id,
            True,
            {"n": 1},
            Status.SUCCEEDED,
        )
        with pytest.raises(DuplicateJobError, match="uid 'a'") as refused:
            backend.enqueue("q", {"n": 3}, uid="a", on_duplicate="raise")
        assert refused.value.job.id == done.id
        assert len(backend.jobs()) == 1
        assert backend.stats().duplicates == 1

    def test_a_uid_tells_equal_jobs_apart(self, waiting: Backend) -> None:
        """Equal jobs with uids of their own are two jobs, whatever the queue says, and each is found."""
        waiting.listen("q", ignore, unique="until_started")
        waiting.enqueue("q", {"n": 1}, unique=True)
        added = [waiting.enqueue("q", {"n": 1}, uid=uid) for uid in ("a", "b")]
        added += waiting.enqueue_many([Job("q", {"n": 1}, uid=uid) for uid in ("c", "d")])
        assert [job.duplicate for job in added] == [False] * 4
        assert [id_of(found(waiting, uid)) for uid in "abcd"] == [job.id for job in added]
        assert waiting.count(queue="q") == 5

    @pytest.mark.parametrize("asked", [{"unique": True}, {"fingerprint": "f"}], ids=str)
    def test_a_uid_that_is_not_used(self, waiting: Backend, asked: dict[str, Any]) -> None:
        """A uid names nothing where its job asks to be unique too, and meets an unfinished equal one."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", {"n": 1}, uid="a", **asked)
        met = waiting.enqueue("q", {"n": 1}, uid="b", **asked)
        assert (met.id, met.duplicate, met.uid) == (job.id, True, "a")
        assert waiting.get(uid="b") is None
        assert waiting.delete(id_of(job))
        assert not waiting.enqueue("q", {"n": 1}, uid="b", **asked).duplicate

    def test_a_uid_of_another_queue(self, waiting: Backend) -> None:
        """A uid that a job of another queue has is refused, and the error names that job."""
        for queue in ("p", "q"):
            waiting.listen(queue, ignore)
        job = waiting.enqueue("p", uid="a")
        for jobs in ([Job("q", uid="a")], [Job("q", {"n": 1}), Job("q", uid="a")]):
            with pytest.raises(DuplicateJobError, match=f"job {job.id} of 'p' .* uid 'a'"):
                waiting.enqueue_many(jobs)
        assert waiting.jobs("q") == []

    def test_uids_in_one_call(self, waiting: Backend) -> None:
        """Of equal uids in one call the later are duplicates of the first; the others are added."""
        waiting.listen("q", ignore)
        first = waiting.enqueue("q", {"n": 0}, uid="u0")
        added = waiting.enqueue_many([Job("q", {"n": n}, uid=f"u{n % 60}") for n in range(1, 121)])
        assert [job.duplicate for job in added] == [n % 60 == 0 or n > 60 for n in range(1, 121)]
        assert {added[59].id, added[119].id} == {first.id}
        assert added[60].id == added[0].id
        assert waiting.count(queue="q") == 60
        assert id_of(found(waiting, "u7")) == added[6].id

    def test_a_uid_beside_a_fingerprint(self, waiting: Backend) -> None:
        """A duplicate by its fingerprint brings no uid; a replacement leaves the uid that is there."""
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", {"n": 1}, fingerprint="f", uid='a"\\b', meta={"m": "1"}, run_after=LATER)
        met = waiting.enqueue("q", {"n": 1}, fingerprint="f", uid="b")
        assert (met.id, met.duplicate, met.uid) == (job.id, True, job.uid)
        assert waiting.get(uid="b") is None
        changes: list[dict[str, Any]] = [{}, {"meta": {"m": "2"}, "deadline": 2 * LATER}]
        for options in changes:
            waiting.enqueue(
                "q", {"n": 2}, fingerprint="f", on_duplicate="replace", run_after=LATER, **options
            )
            replaced = found(waiting, 'a"\\b')
            assert (replaced.id, replaced.payload, replaced.uid) == (job.id, {"n": 2}, job.uid)
            assert dict(replaced.meta) == options.get("meta", {})
            assert (replaced.deadline is None) == (not options)

    def test_a_uid_is_free_when_its_job_is_gone(self, backend: Backend) -> None:
        """A uid is free again when its job is deleted."""
        backend.listen("q", ignore)
        for _ in range(2):
            job = backend.enqueue("q", uid="a")
            assert not job.duplicate
            assert ended(backend, job).uid == "a"
            assert backend.delete(id_of(job))
            assert backend.get(uid="a") is None

    @pytest.mark.parametrize("options", [{"retention": 0.0}, {"max_finished": 1}], ids=str)
    def test_a_uid_is_free_when_its_job_is_pruned(self, make: Make, options: dict[str, Any]) -> None:
        """A uid is free again when its job is beyond what is kept, or is not kept at all."""
        backend = make(autostart=True, **options)
        backend.listen("q", ignore)
        backend.enqueue("q", uid="a")
        assert backend.drain(PATIENCE)
        backend.enqueue("q", {"n": 1}, uid="b")
        assert backend.drain(PATIENCE)

        def is_gone() -> bool:
            backend.prune()
            return backend.get(uid="a") is None

        assert eventually(is_gone, "the end of the first job")
        assert not backend.enqueue("q", uid="a").duplicate

    def test_a_dead_job_keeps_its_uid(self, backend: Backend) -> None:
        """A dead job has its uid, and keeps it as it is retried."""
        fails = [True]

        def handler(_job: Job) -> None:
            if fails.pop():
                raise ValueError("not yet")

        backend.listen("q", handler, max_retries=0)
        dead = ended(backend, backend.enqueue("q", uid="a"))
        assert (dead.status, found(backend, "a").id) == (Status.DEAD, dead.id)
        assert backend.enqueue("q", {"n": 2}, uid="a").duplicate
        fails.append(False)
        assert backend.retry(id_of(dead))
        assert eventually(lambda: found(backend, "a").status is Status.SUCCEEDED, "its success")
        assert backend.get(uid="a") is not None

    @pytest.mark.parametrize("uid", ["", "a" * 256, 5, b"a", "a\nb", "\ud800"], ids=repr)
    def test_a_bad_uid_is_named(self, waiting: Backend, uid: Any) -> None:
        """A uid that is no text of 1 to 255 printable characters is refused, at enqueue and at get."""
        waiting.listen("q", ignore)
        with pytest.raises(InvalidJobError, match="uid is"):
            waiting.enqueue("q", uid=uid)
        with pytest.raises(InvalidJobError, match="uid is"):
            waiting.get(uid=uid)

    def test_what_goes_without_a_uid(self, waiting: Backend) -> None:
        """A replacement has no uid, a new job like another has none, and get() takes an id or a uid."""
        waiting.listen("q", ignore)
        with pytest.raises(InvalidJobError, match="uid"):
            waiting.enqueue("q", uid="a", on_duplicate="replace")
        job = waiting.enqueue("q", {"n": 1}, uid="a", unique=False)
        like = waiting.enqueue(job)
        assert (like.duplicate, like.uid, like.payload) == (False, None, {"n": 1})
        with pytest.raises(InvalidJobError, match="uid"):
            waiting.get()  # type: ignore[call-overload]
        with pytest.raises(InvalidJobError, match="uid"):
            waiting.get(id_of(job), uid="a")  # type: ignore[call-overload]

    def test_one_of_many_threads_has_it(self, waiting: Backend) -> None:
        """Of many threads that enqueue the same uid one adds a job, and the others are told which."""
        waiting.listen("q", ignore)
        added = in_threads(8, lambda n: waiting.enqueue("q", {"n": n}, uid="a"))
        assert len({job.id for job in added}) == 1
        assert sum(not job.duplicate for job in added) == 1

    @needs("transactions")
    def test_a_uid_in_a_transaction(self, waiting: Backend) -> None:
        """A uid that was enqueued in a transaction is free after its rollback, and taken after its commit."""
        waiting.listen("q", ignore)
        connection = self.connection(waiting)  # type: ignore[attr-defined]
        waiting.enqueue("q", {"n": 1}, uid="a", transaction=connection)
        connection.rollback()
        assert waiting.get(uid="a") is None
        job = waiting.enqueue("q", {"n": 2}, uid="a", transaction=connection)
        with pytest.raises(DuplicateJobError, match="uid 'a'"):
            waiting.enqueue("p", uid="a", transaction=connection)
        connection.commit()
        connection.close()
        assert id_of(found(waiting, "a")) == job.id
        assert waiting.enqueue("q", {"n": 3}, uid="a").duplicate

    @needs("durable")
    def test_a_uid_outlives_the_process(self, make: Make, again: Make) -> None:
        """The next process finds a job by its uid, and a claimed job has it."""
        first = make()
        job = first.enqueue("q", uid="a")
        first.shutdown(timeout=1)
        second = again(first)
        assert id_of(found(second, "a")) == job.id
        second.listen("q", lambda job: job.uid)
        assert ended(second, job).result == "a"


def found(backend: Backend, uid: str) -> Job:
    """The job of a uid."""
    job = backend.get(uid=uid)
    assert job is not None
    return job
