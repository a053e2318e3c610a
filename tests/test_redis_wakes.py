"""Workers on Redis are called when there is work, from the moment they can be."""

from __future__ import annotations

import threading
from collections.abc import Callable

import neoq

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
