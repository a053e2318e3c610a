"""Calls that come in the middle of another one, from signal handlers and finalizers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.store import QueueCounts, Store
from tests.processes import running


class OthersStore(Store):
    """A store that was written elsewhere, whose `find` calls its `counts` in many ways."""

    def find(self, between: Callable[[], Any] = bool, **_: Any) -> list[Any]:
        """Call `counts` from what is written inside this method, and then what is given."""
        between()
        count = lambda: self.counts()  # noqa: E731, PLW0108  # a frame of its own
        return [*(self.counts() for _ in "a"), *[self.counts() for _ in "b"], count()]

    def counts(self) -> list[QueueCounts]:
        """Count nothing."""
        return []


OthersStore.__abstractmethods__ = frozenset()  # what it lacks is not called


class OthersBackend(neoq.Backend):
    """Its backend."""

    store_class = OthersStore


def test_a_store_may_call_its_own_methods() -> None:
    """A store of another package may call its own methods, also inside a comprehension or a lambda."""
    store: Any = OthersBackend().store
    assert store.find() == [[], [], []]


def test_a_call_in_the_middle_of_a_method_of_the_store_is_refused() -> None:
    """What Python runs in the middle of a method of such a store, as a signal handler, is refused."""
    store: Any = OthersBackend().store

    def handler() -> None:
        store.counts()

    with pytest.raises(neoq.NeoqError, match="in the middle of another call"):
        store.find(handler)


@pytest.mark.parametrize("store", ["memory", "sqlite", "postgres", "redis"])
def test_a_signal_handler_that_enqueues(store: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A signal handler and a finalizer that enqueue in the middle of an enqueue are served or refused."""
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/jobs.db"}.get(store)
    if url is None:
        url = str(request.getfixturevalue({"postgres": "postgres_url", "redis": "redis_url"}[store]))
    if store == "redis":
        url += "?prefix=" + request.getfixturevalue("redis_prefix")()
    with running("reenters", url) as child:
        assert child.ends_well(50)[-1].startswith("heard")


def test_shutdown_again_in_a_signal_handler() -> None:
    """A signal handler that shuts down what its own thread shuts down already does not wait for itself."""
    gate = threading.Event()
    backend = neoq.MemBackend(shutdown_timeout=20.0)
    backend.listen("q", lambda _job: gate.wait(20.0))
    backend.enqueue("q")
    heard: list[neoq.ShutdownReport] = []

    def again(*_: object) -> None:
        heard.append(backend.shutdown())
        gate.set()

    before = signal.signal(signal.SIGALRM, again)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        report = backend.shutdown()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard == [report]
    assert len(report.finished) == 1
