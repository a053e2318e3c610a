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
    """What the fixture ``neoq_testing`` is: each helper holds to the end of the test."""

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
        from neoq.testing.by_hand import inline

        self._stack.enter_context(inline(backend))

    def enqueued(self, backend: Backend) -> list[Job]:
        """A list that grows with every job enqueued from here on; none of them runs."""
        from neoq.testing.recording import enqueued

        return self._stack.enter_context(enqueued(backend))

    def clock(self, backend: Backend, start: datetime | None = None) -> VirtualClock:
        """From here on time stands still for a memory backend, until ``advance``."""
        from neoq.testing.virtual_clock import clock

        return self._stack.enter_context(clock(backend, start))


@pytest.fixture
def neoq_testing() -> Iterator[Helpers]:
    """Helpers of neoq for one test: ``backend()``, ``inline(b)``, ``enqueued(b)``, ``clock(b)``."""
    with ExitStack() as stack:
        yield Helpers(stack)
