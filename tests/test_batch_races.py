"""The ends of batches that two workers report at the same instant, a thousand times on each store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from neoq import MemBackend
from neoq.testing.cases.batch_races import (
    Workers,
    end_children_and_their_parent_at_once,
    end_the_last_two_at_once,
)
from tests.killing import Make

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

ROUNDS = 1000


@pytest.fixture
def two_on_a_server(durable: Make) -> Iterator[Workers]:
    """Two workers of one durable store, as of two processes."""
    with ExitStack() as stack:
        workers = [stack.enter_context(durable(lease=60.0, heartbeat=20.0)) for _ in range(2)]
        for worker in workers:
            worker.queues()
        yield workers


ENDS = pytest.mark.parametrize("end", [end_the_last_two_at_once, end_children_and_their_parent_at_once])


@ENDS
def test_ends_at_once_in_a_durable_store(two_on_a_server: Workers, end: Callable[[Workers], None]) -> None:
    """However the ends of two workers meet, each counts once, and the callback is due once."""
    for _ in range(ROUNDS):
        end(two_on_a_server)


@ENDS
def test_ends_at_once_in_memory(end: Callable[[Workers], None]) -> None:
    """However the ends of two threads meet, each counts once, and the callback is due once."""
    with MemBackend(autostart=False) as backend:
        for queue in ("p", "q", "then"):
            backend.listen(queue, lambda _job: None)
        backend.queues()
        for _ in range(ROUNDS):
            end([backend, backend])
