"""The ends of batches that two workers report at the same instant, a thousand times on each store.

Two workers are two threads, or two processes that are forked.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from neoq import MemBackend
from neoq.backend import Backend
from neoq.held.group import Batch
from neoq.job import Job
from neoq.testing.cases.batch_races import (
    Workers,
    end_children_and_their_parent_at_once,
    end_the_last_two_at_once,
)
from neoq.testing.cases.holding import come, nothing_comes, sealed, settle
from neoq.testing.cases.seam import claim
from neoq.testing.cases.suite import eventually, id_of
from tests.killing import Make

ROUNDS = 1000
PATIENCE = 20.0  # seconds until the other process has failed
LONG = {"lease": 60.0, "heartbeat": 20.0}  # no heartbeat comes between

long = pytest.mark.timeout(900)


@pytest.fixture
def two_on_a_server(durable: Make) -> Iterator[Workers]:
    """Two workers of one durable store, as of two processes."""
    with ExitStack() as stack:
        workers = [stack.enter_context(durable(**LONG)) for _ in range(2)]
        for worker in workers:
            worker.queues()
        yield workers


ENDS = pytest.mark.parametrize("end", [end_the_last_two_at_once, end_children_and_their_parent_at_once])


@pytest.mark.faults
@long
@ENDS
def test_ends_at_once_in_a_durable_store(two_on_a_server: Workers, end: Callable[[Workers], None]) -> None:
    """However the ends of two workers meet, each counts once, and the callback is due once."""
    for _ in range(ROUNDS):
        end(two_on_a_server)


@pytest.mark.faults
@long
@ENDS
def test_ends_at_once_in_memory(end: Callable[[Workers], None]) -> None:
    """However the ends of two threads meet, each counts once, and the callback is due once."""
    with MemBackend(autostart=False) as backend:
        for queue in ("p", "q", "then"):
            backend.listen(queue, lambda _job: None)
        backend.queues()
        for _ in range(ROUNDS):
            end([backend, backend])


# -- two processes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rounds", [20, pytest.param(ROUNDS, marks=[pytest.mark.faults, long])])
def test_two_processes_end_the_last_two_at_once(durable: Make, rounds: int) -> None:
    """However the ends of two processes meet, one of them gets the callback, once, with all counts."""
    fork = multiprocessing.get_context("fork")
    together, callbacks = fork.Barrier(2, timeout=PATIENCE), fork.Value("i", 0)
    pids = [_forked(durable, number, rounds, together, callbacks) for number in range(2)]
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    assert statuses == [0, 0], "a process has failed: see its traceback above"
    assert callbacks.value == rounds


def _forked(make: Make, number: int, rounds: int, together: Barrier, callbacks: Any) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the child uses nothing of the other threads
        pid = os.fork()
    if pid:
        return pid
    try:
        backend = make(**LONG)
        backend.queues()  # it opens the store
        for done in range(rounds):
            _end_one_of_two(backend, number, together, callbacks, done)
        assert nothing_comes(backend, "then")
    except BaseException:
        together.abort()
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _end_one_of_two(backend: Backend, number: int, together: Barrier, callbacks: Any, done: int) -> None:
    """End one of two members as another process ends the other one; whoever gets the callback ends it."""
    if number == 0:
        sealed(backend, 2)
    together.wait()
    [member] = come(backend)
    together.wait()
    settle(backend, [member])
    eventually(lambda: _end_callbacks(backend, callbacks) > done, "the callback comes")
    together.wait()
    assert callbacks.value == done + 1  # one that came twice is found here in the next round


def _end_callbacks(backend: Backend, callbacks: Any) -> int:
    """End the callbacks that are there, and count them; how many there were in all rounds."""
    backend.store.tend()
    found: list[Job] = claim(backend, queue="then")
    for callback in found:
        assert backend.store.group(id_of(callback)) == Batch(2, succeeded=2, open=False)
    settle(backend, found)
    with callbacks.get_lock():
        callbacks.value += len(found)
    return int(callbacks.value)
