"""Workers on Redis are called when there is work, from the moment they can be."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import neoq
from neoq.store import Claimed, Demand

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


def test_a_call_is_answered_where_it_is_heard(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """The thread that hears the server's call claims the job itself: no other has to be woken first."""
    prefix = redis_prefix()
    with (
        neoq.RedisBackend(redis_url, prefix=prefix, autostart=False) as producer,
        neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM) as worker,
    ):
        claimed_in: list[str] = []
        plain, ran = worker.claim, threading.Event()

        def claim(demand: Sequence[Demand]) -> Claimed:
            claimed = plain(demand)
            if claimed.jobs:
                claimed_in.append(threading.current_thread().name)
            return claimed

        worker.claim = claim  # type: ignore[method-assign]
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


def test_a_shutdown_waits_for_a_claim_in_that_thread(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """Jobs that the hearing thread claims as the shutdown begins are run, or given back uncharged."""
    prefix = redis_prefix()
    with neoq.RedisBackend(redis_url, prefix=prefix, autostart=False) as producer:
        worker = neoq.RedisBackend(redis_url, prefix=prefix, **SELDOM)
        plain, begun, may_end = worker.claim, threading.Event(), threading.Event()

        def claim(demand: Sequence[Demand]) -> Claimed:
            claimed = plain(demand)
            if claimed.jobs:
                begun.set()
                assert may_end.wait(PATIENCE)
            return claimed

        worker.claim = claim  # type: ignore[method-assign]
        ran = threading.Event()
        worker.listen("q", lambda _job: ran.set())
        assert not ran.wait(0.2)
        job = producer.enqueue("q")
        assert begun.wait(PATIENCE)
        shutdown = threading.Thread(target=worker.shutdown)
        shutdown.start()
        while worker.engine.fetcher is None or not worker.engine.fetcher._stopping.is_set():
            threading.Event().wait(0.01)
        may_end.set()
        shutdown.join(PATIENCE)
        found = producer.get(job.id)
        assert found is not None
        expected = neoq.Status.SUCCEEDED if ran.is_set() else neoq.Status.PENDING
        assert (found.status, found.retries, found.crashes) == (expected, 0, 0)
