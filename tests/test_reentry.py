"""Calls that come in the middle of another one, from signal handlers and finalizers."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

import neoq
from tests.processes import running


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
