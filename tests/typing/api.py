"""The public names as a user's type checker sees them: checked by mypy and pyright in `make type`, never run.

A line that must be refused carries a `type: ignore`; both complain where such a line is accepted after all.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

import neoq
from neoq.cron import Schedule


def send_email(job: neoq.Job) -> None:
    job.payload["to"]


def double(job: neoq.Job) -> int:
    return 2 * int(job.payload["n"])


def making_a_backend() -> None:
    assert_type(neoq.connect(), neoq.Backend)
    assert_type(neoq.connect("memory://?job_check_interval=0.5"), neoq.Backend)
    with neoq.MemBackend(job_check_interval=1.0, future_job_window=30.0) as backend:
        assert_type(backend, neoq.MemBackend)
    neoq.MemBackend(timeout=None, autostart=False, concurrency=4, timezone="Europe/Vienna")
    neoq.SqliteBackend("jobs.db", synchronous="normal", lease=timedelta(minutes=1))
    neoq.PostgresBackend("postgresql://host/db", schema="jobs", retention=None)
    neoq.RedisBackend("redis://host", prefix="jobs")
    neoq.MemBackend(concurency=4)  # type: ignore[call-arg]
    neoq.SqliteBackend("jobs.db", synchronous="often")  # type: ignore[arg-type]


def listening(backend: neoq.Backend) -> None:
    backend.listen("emails", send_email, concurrency=4, timeout=timedelta(minutes=5), max_retries=3)
    backend.listen("emails", double, timeout=None, capacity=100, retry=neoq.RetryPolicy())
    backend.listen("emails", send_email, on_error=report)
    backend.listen_cron("*/5 * * * *", send_email, catch_up=True)
    backend.listen_cron("@hourly", send_email, queue="sweep", timezone="Europe/Vienna")
    backend.listen("emails", "send_email")  # type: ignore[call-overload]


def decorating(backend: neoq.Backend) -> None:
    @backend.listen("numbers", concurrency=2)
    def triple(job: neoq.Job) -> int:
        return 3 * int(job.payload["n"])

    @backend.listen_cron("@every 90s")
    def sweep(job: neoq.Job) -> None: ...

    a_function: Callable[[neoq.Job], int] = triple
    another: Callable[[neoq.Job], None] = sweep
    del a_function, another


def report(job: neoq.Job, error: BaseException) -> None:
    assert_type(job.error, str | None)


def enqueueing(backend: neoq.Backend, connection: object) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert_type(backend.enqueue("emails", {"to": "a@example.com"}), neoq.Job)
    assert_type(backend.enqueue("emails"), neoq.Job)
    backend.enqueue("emails", {"to": "b"}, run_after=timedelta(minutes=5), deadline=at, priority=10)
    backend.enqueue("emails", {"to": "b"}, run_after=60, unique="until_started", on_duplicate="replace")
    backend.enqueue("emails", {"to": "b"}, fingerprint="b", max_retries=0, key="b", meta={"trace": "1"})
    backend.enqueue("emails", {"to": "b"}, transaction=connection)
    assert_type(backend.enqueue(neoq.Job("emails", {"to": "c"}, unique=False)), neoq.Job)
    assert_type(backend.enqueue_many([neoq.Job("emails", {"to": "d"})]), list[neoq.Job])
    assert_type(backend.wait(backend.enqueue("emails").id), neoq.Job)
    neoq.Job("emails", on_duplicate="explode")  # type: ignore[arg-type]
    neoq.Job("emails", ["not", "an", "object"])  # type: ignore[arg-type]


def a_job(job: neoq.Job) -> None:
    assert_type(job.queue, str)
    assert_type(job.payload, dict[str, Any])
    assert_type(job.fingerprint, str)
    assert_type(job.status, neoq.Status)
    assert_type(job.run_after, datetime | None)
    assert_type(job.deadline, datetime | None)
    assert_type(job.finished_at, datetime | None)
    assert_type(job.priority, int)
    assert_type(job.max_retries, int | None)
    assert_type(job.duplicate, bool)


def inside_a_handler(job: neoq.Job) -> None:
    assert_type(job.attempt, int)
    assert_type(job.remaining(), float)
    assert_type(job.cancelled, bool)
    job.progress(0.4, "resizing")
    with job.shield():
        pass
    current = neoq.current_job()
    del current
    if job.attempt == 1:
        raise neoq.Retry(after=60)
    if job.attempt == 2:
        raise neoq.Snooze(60)
    raise neoq.Discard("why")


def looking(backend: neoq.Backend, job_id: int) -> None:
    assert_type(backend.get(job_id), neoq.Job | None)
    assert_type(backend.jobs("emails", status=neoq.Status.DEAD, limit=10), list[neoq.Job])
    assert_type(backend.wait(job_id, timeout=1.0), neoq.Job)
    backend.stats()
    backend.queues()
    backend.workers()


def operating(backend: neoq.Backend, job_id: int) -> None:
    assert_type(backend.cancel(job_id), bool)
    assert_type(backend.retry(job_id), bool)
    assert_type(backend.retry([job_id]), set[int])
    assert_type(backend.cancel(one.id for one in backend.jobs()), set[int])
    assert_type(backend.delete(job_id), bool)
    backend.pause("emails")
    backend.resume("emails")


def timed(job: neoq.Job, call_next: Callable[[neoq.Job], Any]) -> Any:
    return call_next(job)


def ending(backend: neoq.Backend) -> None:
    backend.use(timed)
    backend.start()
    assert_type(backend.drain(timeout=10), bool)
    ended = backend.shutdown(timeout=5, drain=True)
    assert_type(ended, neoq.ShutdownReport)
    assert_type(ended.finished, list[neoq.Job])
    assert_type(ended.interrupted, list[neoq.Job])
    assert_type(ended.given_back, list[neoq.Job])
    assert_type(ended.lost, list[neoq.Job])


def failing(backend: neoq.Backend) -> None:
    try:
        backend.enqueue("emails", {}, on_duplicate="raise")
    except neoq.DuplicateJobError as error:
        assert_type(error.job, neoq.Job)
    except neoq.BackendUnavailable as error:
        assert_type(error.outcome_unknown, bool)
    except neoq.NeoqError as error:
        assert_type(error.queue, str | None)
        assert_type(error.job_id, int | None)


def scheduling() -> None:
    schedule = Schedule("*/5 * * * *", "Europe/Vienna")
    assert_type(schedule.next_after(datetime.now(UTC)), datetime | None)
    assert_type(schedule.description, str)
    assert_type(schedule.queue_name, str)
