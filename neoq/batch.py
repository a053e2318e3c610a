"""Batch: the jobs of one call of ``enqueue`` or ``enqueue_many``, as middleware around the call sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neoq.job import Job


@dataclass(slots=True)
class Batch:
    """What one call is about to store.

    ``jobs`` are not stored yet: ``meta``, ``priority``, ``timeout`` and ``max_retries`` may be assigned.
    ``many`` tells ``enqueue_many`` from ``enqueue``, whose batch has one job. ``transaction`` is the
    caller's connection, or None.
    """

    jobs: list[Job]
    many: bool
    transaction: Any = None

    def through(self, middleware: Sequence[BatchMiddleware], last: Callable[[Batch], list[Job]]) -> list[Job]:
        """Call middleware around each other, the first outermost, and ``last`` inside."""

        def store() -> list[Job]:
            for job in self.jobs:
                job.described()
            return last(self)

        call = store
        for layer in reversed(middleware):
            call = _around(layer, self, call)
        return call()


BatchMiddleware = Callable[[Batch, Callable[[], list[Job]]], list[Job]]


def _around(
    middleware: BatchMiddleware, batch: Batch, inner: Callable[[], list[Job]]
) -> Callable[[], list[Job]]:
    return lambda: middleware(batch, inner)
