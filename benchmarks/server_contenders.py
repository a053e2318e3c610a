"""The interface of all contenders on a server: neoq, its peers, and the raw floor.

A contender is made with the server's URL. ``put_each`` enqueues one job after the other, each accepted
before the next, and ``put_all`` thousands in the fastest way that the library has. ``work`` begins to run
them, ``settled`` waits until all jobs that ran are recorded as done, and ``stop`` ends everything.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
Payload = dict[str, Any]
Handler = Callable[[Payload], None]

QUEUE = "work"
BULK = 1_000


class OnServer:
    package: str | None = None
    driver: str | None = None

    def __init__(self, url: str) -> None:
        self.url = url

    def prepare(self) -> None:
        """Make its tables on an empty server."""

    def put_each(self, payloads: Iterable[Payload]) -> None: ...

    def put_all(self, payloads: Iterable[Payload]) -> None:
        self.put_each(payloads)

    def work(self, handler: Handler, runners: int) -> None: ...

    def settled(self) -> None: ...

    def stop(self) -> None: ...


class Neoq(OnServer):
    """With all features: unique jobs, retries, timeouts, checked payloads, leases."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url)
        import neoq

        self.backend = neoq.connect(url, autostart=False, **settings)

    def prepare(self) -> None:
        self.backend.queues()

    def put_each(self, payloads: Iterable[Payload]) -> None:
        enqueue = self.backend.enqueue
        for payload in payloads:
            enqueue(QUEUE, payload)

    def put_all(self, payloads: Iterable[Payload]) -> None:
        from neoq import Job

        for batch in batches(payloads, BULK):
            self.backend.enqueue_many([Job(QUEUE, payload) for payload in batch])

    def work(self, handler: Handler, runners: int) -> None:
        self.backend.listen(QUEUE, lambda job: handler(job.payload), concurrency=runners)
        self.backend.start()

    def settled(self) -> None:
        self.backend.drain()

    def stop(self) -> None:
        self.backend.shutdown()


class OnLoop(OnServer):
    """A peer that uses asyncio: its loop has a thread of its own."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.loop = new_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.tasks: list[Any] = []

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run it in the background; it ends with the loop."""
        self.tasks.append(asyncio.run_coroutine_threadsafe(work, self.loop))

    def stop(self) -> None:
        for task in self.tasks:
            task.cancel()


def new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def batches(payloads: Iterable[Payload], size: int) -> Iterator[list[Payload]]:
    rest = iter(payloads)
    while batch := list(islice(rest, size)):
        yield batch
