"""Workers on Redis are called when there is work, from the moment they can be."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import pytest
import redis

import neoq
from neoq.engine import quiet
from neoq.engine.engine import Engine
from neoq.store import Claimed, Demand, QueueCounts
from tests.servers import running_server

pytestmark = pytest.mark.usefixtures("autostart")

PATIENCE = 15.0


def test_a_worker_that_has_just_begun_is_called(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """A job that arrives as a worker has begun to wait is run at once, not when it looks again."""
    seldom = {"job_check_interval": 60.0}  # nobody finds a job by looking
    for _ in range(5):
        prefix = redis_prefix()
        with (
            neoq.RedisBackend(redis_url, prefix=prefix, autostart=False, **seldom) as producer,
            neoq.RedisBackend(redis_url, prefix=prefix, **seldom) as worker,
        ):
            ran = threading.Event()
            worker.listen("q", lambda _job, ran=ran: ran.set())
            assert not ran.wait(0.1)
            producer.enqueue("q")
            assert ran.wait(PATIENCE)


SELDOM = {"job_check_interval": 60.0}  # nobody finds a job by looking


def await_closing(backend: neoq.Backend) -> None:
    """Wait until a backend is being shut down: it takes no jobs of others any more."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        try:
            backend.enqueue_many([])
        except neoq.BackendClosedError:
            return
        time.sleep(0.01)
    raise AssertionError("it is not shut down")


def test_a_call_is_answered_where_it_is_heard(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """The thread that hears the server's call claims the job itself: no other has to be woken first."""
    prefix = redis_prefix()
    with (
        neoq.RedisBackend(redis_url, prefix=prefix, autostart=False) as producer,
        neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM) as worker,
    ):
        claimed_in: list[str] = []
        plain, ran = worker.store.claim, threading.Event()

        def claim(demand: Sequence[Demand]) -> Claimed:
            claimed = plain(demand)
            if claimed.jobs:
                claimed_in.append(threading.current_thread().name)
            return claimed

        worker.store.claim = claim  # type: ignore[method-assign]
        worker.listen("q", lambda _job: ran.set())
        assert not ran.wait(0.2)
        producer.enqueue("q")
        assert ran.wait(PATIENCE)
        assert claimed_in == ["neoq-wakes"]


def test_a_call_for_a_later_job(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """Who hears of a job that is due in a while sees to it that somebody looks then."""
    prefix = redis_prefix()
    with (
        neoq.RedisBackend(redis_url, prefix=prefix, autostart=False) as producer,
        neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM) as worker,
    ):
        ran = threading.Event()
        worker.listen("q", lambda _job: ran.set())
        assert not ran.wait(0.2)
        producer.enqueue("q", run_after=0.3)
        assert ran.wait(PATIENCE)


@pytest.mark.parametrize("why", ["its runner is busy", "it shuts down"])
def test_a_call_that_comes_to_the_wrong_one(
    redis_url: str, redis_prefix: Callable[[], str], why: str
) -> None:
    """A worker that is called as it can take nothing lets another be called: no job waits for its look."""
    prefix = redis_prefix()
    ran, began, may_end = threading.Event(), threading.Event(), threading.Event()

    def hang(_job: neoq.Job) -> None:
        began.set()
        assert may_end.wait(3 * PATIENCE)

    with (
        redis.Redis.from_url(redis_url, protocol=2) as client,
        neoq.RedisBackend(redis_url, prefix=prefix, autostart=False) as producer,
        neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM) as busy,
        neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM) as free,
    ):
        idle = f"{{{prefix}:q}}:idle"
        busy.listen("q", hang, concurrency=1)
        producer.enqueue("q", {"hangs": True})
        assert began.wait(PATIENCE)
        shutdown = threading.Thread(target=busy.shutdown)
        if why == "it shuts down":
            shutdown.start()
            await_closing(busy)
        free.listen("q", lambda _job: ran.set(), concurrency=1)
        while client.zscore(idle, f"*:{free.store.context.worker_id}") is None:
            threading.Event().wait(0.01)
        client.delete(idle)  # so that nobody is called
        producer.enqueue("q")
        client.zadd(idle, {f"*:{free.store.context.worker_id}": 0})
        client.publish(f"{prefix}:wake:{busy.store.context.worker_id}", "q")
        try:
            assert ran.wait(PATIENCE)
        finally:
            may_end.set()
            if shutdown.ident:
                shutdown.join(PATIENCE)


@pytest.mark.parametrize("max_running", [None, 10])
def test_a_worker_of_the_kind_is_called(
    redis_url: str, redis_prefix: Callable[[], str], max_running: int | None
) -> None:
    """The call of a task wakes a worker that has the task, among others that serve the queue and have not."""
    prefix = redis_prefix()
    ran: SimpleQueue[int] = SimpleQueue()
    with ExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(redis_url, protocol=2))
        producer = stack.enter_context(neoq.RedisBackend(redis_url, prefix=prefix, autostart=False))
        if max_running is not None:
            producer.limit("q", max_running=max_running)
        wanted = producer.task(name="wanted", queue="q")(ran.put)
        for name in ("other", "other", "third", "wanted"):
            worker = stack.enter_context(neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM))
            worker.task(name=name, queue="q")(ran.put)
        for n in range(8):
            while client.zcard(f"{{{prefix}:q}}:idle") < 4:
                threading.Event().wait(0.01)
            wanted.enqueue(n)
            assert ran.get(timeout=PATIENCE) == n


def test_a_worker_that_may_not_be_called(caplog: pytest.LogCaptureFixture) -> None:
    """Where the server lets nobody subscribe that is said, and jobs are found all the same."""
    with running_server("--appendonly", "yes") as server:
        server.client().acl_setuser("u", enabled=True, nopass=True, keys="*", commands=["+@all"])
        server.client().execute_command("ACL", "SETUSER", "u", "resetchannels")
        url = f"redis://u:any@127.0.0.1:{server.port}"
        with neoq.connect(url, job_check_interval=0.1) as worker:
            ran = threading.Event()
            worker.listen("q", lambda _job: ran.set())
            while "grant this user the channels neoq:wake:*" not in caplog.text:
                threading.Event().wait(0.01)
            worker.enqueue("q")
            assert ran.wait(PATIENCE)


def test_an_error_that_is_none_of_the_stores(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """A claim that fails as no store should leaves neither the fetcher dead nor the worker deaf."""
    prefix = redis_prefix()
    with (
        redis.Redis.from_url(redis_url, protocol=2) as client,
        neoq.RedisBackend(redis_url, prefix=prefix, autostart=False) as producer,
        neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM) as worker,
    ):
        plain, failed, answered = worker.store.claim, set[str](), list[str]()

        def claim(demand: Sequence[Demand]) -> Claimed:
            name = threading.current_thread().name
            if name not in failed:
                failed.add(name)
                raise MemoryError
            claimed = plain(demand)
            answered.extend(name for _ in claimed.jobs)
            return claimed

        worker.store.claim = claim  # type: ignore[method-assign]
        ran: SimpleQueue[int] = SimpleQueue()
        worker.listen("q", lambda job: ran.put(job.payload["n"]))
        for n in range(3):
            while client.zscore(f"{{{prefix}:q}}:idle", f"*:{worker.store.context.worker_id}") is None:
                threading.Event().wait(0.01)
            producer.enqueue("q", {"n": n})
            assert ran.get(timeout=PATIENCE) == n
        assert failed == {"neoq-fetcher", "neoq-wakes"}
        assert answered[-1] == "neoq-wakes"


def test_a_shutdown_waits_for_a_claim_in_that_thread(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """Jobs that the hearing thread claims as the shutdown begins are run, or given back uncharged."""
    prefix = redis_prefix()
    with neoq.RedisBackend(redis_url, prefix=prefix, autostart=False) as producer:
        worker = neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM)
        plain, begun, may_end = worker.store.claim, threading.Event(), threading.Event()

        def claim(demand: Sequence[Demand]) -> Claimed:
            claimed = plain(demand)
            if claimed.jobs:
                begun.set()
                assert may_end.wait(PATIENCE)
            return claimed

        worker.store.claim = claim  # type: ignore[method-assign]
        ran = threading.Event()
        worker.listen("q", lambda _job: ran.set())
        assert not ran.wait(0.2)
        job = producer.enqueue("q")
        assert begun.wait(PATIENCE)
        shutdown = threading.Thread(target=worker.shutdown)
        shutdown.start()
        await_closing(worker)
        may_end.set()
        shutdown.join(PATIENCE)
        found = producer.get(job.id)
        assert found is not None
        expected = neoq.Status.SUCCEEDED if ran.is_set() else neoq.Status.PENDING
        assert (found.status, found.retries, found.crashes) == (expected, 0, 0)


def test_a_drain_during_a_shutdown(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """Who drains and looks just as a shutdown that has drained all closes the store is told that all ran."""
    backend = neoq.RedisBackend(redis_url, prefix=redis_prefix())
    backend.listen("q", lambda _job: None)
    backend.enqueue("q")
    looks, closed, drained = threading.Event(), threading.Event(), SimpleQueue[bool]()
    draining = threading.Thread(target=lambda: drained.put(backend.drain()))
    plain = backend.store.counts

    def counts() -> list[QueueCounts]:
        if threading.current_thread() is draining:
            looks.set()
            assert closed.wait(PATIENCE)
        return plain()

    backend.store.counts = counts  # type: ignore[method-assign]
    draining.start()
    assert looks.wait(PATIENCE)
    backend.shutdown(drain=True)
    closed.set()
    assert drained.get(timeout=PATIENCE) is True
    draining.join(PATIENCE)


@pytest.mark.parametrize("late", ["is_quiet", "settled"])
def test_a_drain_misses_no_change(
    redis_url: str, redis_prefix: Callable[[], str], monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    """A drain looks again at once if the last job is settled just as it looks, or as that is announced."""
    owner: Any = Engine if late == "settled" else quiet
    plain, may_end, looked = getattr(owner, late), threading.Event(), threading.Event()

    def settled(engine: Engine, *arguments: Any) -> None:
        plain(engine, *arguments)
        looked.wait(0.2)

    def is_quiet(engine: Engine) -> bool:
        is_now: bool = plain(engine)
        if not may_end.is_set():
            may_end.set()
            while not plain(engine):
                threading.Event().wait(0.01)
        return is_now

    monkeypatch.setattr(owner, late, {"settled": settled, "is_quiet": is_quiet}[late])
    with neoq.RedisBackend(redis_url, prefix=redis_prefix(), **SELDOM) as backend:
        backend.listen("q", lambda _job: may_end.wait(PATIENCE))
        backend.enqueue("q")
        if late == "settled":
            threading.Timer(0.1, may_end.set).start()
        drained = threading.Event()
        waiting = threading.Thread(target=lambda: backend.drain() and drained.set())
        waiting.start()
        assert drained.wait(PATIENCE)
        waiting.join(PATIENCE)
