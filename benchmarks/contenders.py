"""neoq and its peers behind one small interface, each set up as its own documentation recommends.

A contender is made with a handler of payloads and a number of runners, and starts at once. ``put``
enqueues one job, ``put_all`` many in the fastest way that the library has, ``put_at`` one for later.
``stop`` ends it when all its jobs have run. Packages are imported where they are used, so that each
process loads only what it measures.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from typing import Any

Handler = Callable[[dict[str, Any]], None]


class Contender:
    package: str | None = None

    def __init__(self, handler: Handler, runners: int) -> None: ...

    def put(self, payload: dict[str, Any]) -> None: ...

    def put_all(self, payloads: Iterable[dict[str, Any]]) -> None:
        for payload in payloads:
            self.put(payload)

    def put_at(self, payload: dict[str, Any], due: datetime) -> None: ...

    def stop(self) -> None: ...


class Neoq(Contender):
    """With all features: unique jobs, retries, timeouts, checked payloads."""

    def __init__(self, handler: Handler, runners: int, **settings: Any) -> None:
        import neoq

        self.backend = neoq.MemBackend(**settings)
        self.backend.listen("work", lambda job: handler(job.payload), concurrency=runners)

    def put(self, payload: dict[str, Any]) -> None:
        self.backend.enqueue("work", payload)

    def put_at(self, payload: dict[str, Any], due: datetime) -> None:
        self.backend.enqueue("work", payload, run_after=due)

    def stop(self) -> None:
        self.backend.shutdown()


class NeoqInThousands(Neoq):
    def put_all(self, payloads: Iterable[dict[str, Any]]) -> None:
        from neoq import Job

        jobs = (Job("work", payload) for payload in payloads)
        while batch := list(islice(jobs, 1_000)):
            self.backend.enqueue_many(batch)


class Executor(Contender):
    def __init__(self, handler: Handler, runners: int) -> None:
        self.pool = ThreadPoolExecutor(runners)
        self.handler = handler

    def put(self, payload: dict[str, Any]) -> None:
        self.pool.submit(self.handler, payload)

    def stop(self) -> None:
        self.pool.shutdown()


class BareQueue(Contender):
    """queue.Queue and threads: nothing but the queue."""

    def __init__(self, handler: Handler, runners: int) -> None:
        self.queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.put = self.queue.put
        self.threads = [threading.Thread(target=self.run, args=(handler,)) for _ in range(runners)]
        for thread in self.threads:
            thread.start()

    def run(self, handler: Handler) -> None:
        while (payload := self.queue.get()) is not None:
            handler(payload)

    def stop(self) -> None:
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            thread.join()


class Huey(Contender):
    """Without results, and polling every millisecond rather than every tenth of a second."""

    package = "huey"

    def __init__(self, handler: Handler, runners: int) -> None:
        from huey import MemoryHuey

        huey = MemoryHuey(results=False)
        self.put = self.task = huey.task()(handler)
        self.consumer = huey.create_consumer(
            workers=runners, periodic=False, initial_delay=0.001, max_delay=0.001
        )
        self.consumer.start()

    def put_at(self, payload: dict[str, Any], due: datetime) -> None:
        self.task.schedule((payload,), eta=due)

    def stop(self) -> None:
        self.consumer.stop(graceful=True)


class Dramatiq(Contender):
    """With its default middleware: retries, time limits, age limits."""

    package = "dramatiq"

    def __init__(self, handler: Handler, runners: int) -> None:
        import dramatiq
        from dramatiq.brokers.stub import StubBroker

        self.broker = StubBroker()
        self.put = dramatiq.actor(handler, broker=self.broker, actor_name="work").send
        self.worker = dramatiq.Worker(self.broker, worker_threads=runners, worker_timeout=100)
        self.worker.start()

    def stop(self) -> None:
        self.worker.stop()
        self.broker.close()


class APScheduler(Contender):
    """Without its grace time of one second, after which it drops late jobs."""

    package = "apscheduler"

    def __init__(self, handler: Handler, runners: int) -> None:
        from apscheduler.executors.pool import ThreadPoolExecutor
        from apscheduler.schedulers.background import BackgroundScheduler

        self.handler = handler
        self.scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(runners)},
            job_defaults={"misfire_grace_time": None},
            timezone=UTC,
        )
        self.scheduler.start()

    def put(self, payload: dict[str, Any]) -> None:
        self.scheduler.add_job(self.handler, args=[payload])

    def put_at(self, payload: dict[str, Any], due: datetime) -> None:
        self.scheduler.add_job(self.handler, "date", run_date=due, args=[payload])

    def stop(self) -> None:
        self.scheduler.shutdown()


class Timers(Contender):
    """A threading.Timer for each job, which is a thread for each job."""

    def __init__(self, handler: Handler, runners: int) -> None:
        self.handler = handler

    def put_at(self, payload: dict[str, Any], due: datetime) -> None:
        timer = threading.Timer(due.timestamp() - time.time(), self.handler, [payload])
        timer.daemon = True
        timer.start()


CONTENDERS: dict[str, type[Contender]] = {
    "neoq": Neoq,
    "neoq enqueue_many": NeoqInThousands,
    "ThreadPoolExecutor": Executor,
    "queue.Queue": BareQueue,
    "huey": Huey,
    "dramatiq": Dramatiq,
    "APScheduler": APScheduler,
    "threading.Timer": Timers,
}
