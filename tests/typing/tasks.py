"""Tasks as a type checker sees them: checked by mypy and pyright in `make type`, never run.

A line that must be refused carries a `type: ignore`; both complain where such a line is accepted after all.
"""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import date, datetime, timedelta
from typing import Any, assert_type

import neoq
from neoq.tasks import AsyncTask

tasks = neoq.Tasks(queue="emails")


@tasks.task
def plain(to: str, subject: str = "hi", *, at: datetime | None = None) -> int:
    return len(to + subject + str(at))


@tasks.task(max_retries=5, timeout=timedelta(seconds=10), unique="until_started", aliases=("old.name",))
def with_options(day: date) -> date:
    return day


@tasks.task
def with_job(job: neoq.Job, n: int) -> str:
    return f"{job.id} {n}"


@tasks.task(queue="slow")
async def coroutine(url: str) -> bytes:
    return url.encode()


@tasks.task
async def coroutine_with_job(job: neoq.Job, url: str) -> None: ...


@tasks.task(cron=["0 3 * * *", "@hourly"], timezone="Europe/Paris", kwargs={"what": "all"}, catch_up=True)
def sweep(what: str) -> None: ...


def what_they_are() -> None:
    assert_type(plain("ada", at=None), int)
    assert_type(plain.enqueue("ada", subject="x"), neoq.TaskJob[int])
    assert_type(plain.enqueue("ada").get(timeout=10), int)
    assert_type(with_options.enqueue(date(2030, 1, 1)).get(), date)
    assert_type(with_job.enqueue(5).get(), str)
    assert_type(with_job.enqueue(n=5).id, int)
    assert_type(coroutine.enqueue("https://example.com").get(), bytes)
    call: Coroutine[Any, Any, bytes] = coroutine("https://example.com")
    assert_type(coroutine_with_job.enqueue("https://example.com"), neoq.TaskJob[None])
    assert_type(plain.job("ada"), neoq.Job)
    assert_type(plain.enqueue_many([("ada",), {"to": "bob"}]), list[neoq.TaskJob[int]])
    assert_type(plain.using(run_after=60, priority=5, transaction=object()).enqueue("ada").get(), int)
    typed: AsyncTask[[str], bytes] = coroutine
    sweep.enqueue("some")
    del typed, call


def what_is_refused() -> None:
    plain.enqueue()  # type: ignore[call-arg]
    plain.enqueue(5)  # type: ignore[arg-type]
    plain.enqueue("ada", subjct="x")  # type: ignore[call-arg]
    plain.enqueue("ada", "x", None)  # type: ignore[call-arg]
    plain.using(priority="high")  # type: ignore[arg-type]
    plain.using(prio=5)  # type: ignore[call-arg]
    plain.job(5)  # type: ignore[arg-type]
    with_job.enqueue("5")  # type: ignore[arg-type]
    coroutine.enqueue(b"x")  # type: ignore[arg-type]
    with_options.using(key="k").enqueue("2030-01-01")  # type: ignore[arg-type]


def of_a_backend(backend: neoq.Backend) -> None:
    @backend.task
    def bare(n: int) -> str:
        return str(n)

    @backend.task(name="named", queue="q")
    def named(n: int) -> list[str]:
        return [str(n)]

    assert_type(bare.enqueue(5).get(), str)
    assert_type(named.enqueue(5).get(), list[str])
    backend.include(tasks, neoq.Tasks())
    backend.queue("emails", concurrency=4, capacity=None)
    backend.include(bare)  # type: ignore[arg-type]


def of_failures(job: neoq.TaskJob[int]) -> None:
    try:
        job.get()
    except neoq.JobFailed as error:
        assert_type(error.job, neoq.Job)
        assert_type(error.error, str | None)
        assert_type(error.traceback, str | None)
