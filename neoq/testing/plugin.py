"""The pytest plugin: its fixture ``neoq_testing`` offers the helpers of `neoq.testing`, and undoes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.job import Job
    from neoq.mem_backend import MemBackend
    from neoq.testing.virtual_clock import VirtualClock


class Helpers:
    """What the fixture ``neoq_testing`` is: each helper holds to the end of the test.

    A backend that keeps its jobs in memory, such as one of a module, begins and ends each test empty.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def backend(self, **options: Any) -> MemBackend:
        """A new memory backend, shut down at the end of the test; takes its settings as keywords."""
        from neoq.mem_backend import MemBackend

        backend = MemBackend(**options)
        self._stack.callback(backend.shutdown, 1.0)
        return backend

    def inline(self, backend: Backend) -> None:
        """From here on jobs run at once, in the thread that enqueues them."""
        from neoq.testing.manual import inline

        self._stack.enter_context(inline(backend))
        self._empty(backend)

    def enqueued(self, backend: Backend) -> list[Job]:
        """A list that grows with every job enqueued from here on; none of them runs."""
        from neoq.testing.recording import enqueued

        jobs = self._stack.enter_context(enqueued(backend))
        self._empty(backend)
        return jobs

    def clock(self, backend: Backend, start: datetime | None = None) -> VirtualClock:
        """From here on time stands still for a memory backend, until ``advance``."""
        from neoq.testing.virtual_clock import clock

        virtual = self._stack.enter_context(clock(backend, start))
        self._empty(backend)
        return virtual

    def _empty(self, backend: Backend) -> None:
        """Let a test begin and end without jobs of others, where the backend keeps them in memory."""
        if "durable" not in backend.features:
            _forget_all(backend)
            self._stack.callback(_forget_all, backend)


def _forget_all(backend: Backend) -> None:
    while jobs := backend.jobs(limit=1000):
        if not backend.delete(job.id for job in jobs):
            return


@pytest.fixture
def neoq_testing() -> Iterator[Helpers]:
    """Helpers of neoq for one test: ``backend()``, ``inline(b)``, ``enqueued(b)``, ``clock(b)``."""
    with ExitStack() as stack:
        yield Helpers(stack)
