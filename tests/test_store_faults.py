"""neoq.testing.Faults over each store, and over one that is none of ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.memory.store import MemStore
from neoq.testing import Faults
from neoq.testing.cases.suite import PATIENCE, Background, ended
from tests.postgres_server import fresh_schema

pytestmark = pytest.mark.usefixtures("autostart")

STORES = ["memory", "sqlite", "postgres", "redis"]


@pytest.fixture(params=STORES)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[neoq.Backend]:
    """A backend on an empty store of each kind."""
    options: dict[str, Any] = {"job_check_interval": 0.05, "heartbeat": 0.1}
    if request.param == "memory":
        url = "memory://"
    elif request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/jobs.db"
    elif request.param == "postgres":
        url, options["schema"] = request.getfixturevalue("postgres_url"), fresh_schema()
    else:
        url, options["prefix"] = (
            request.getfixturevalue("redis_url"),
            request.getfixturevalue("redis_prefix")(),
        )
    with neoq.connect(url, **options) as backend:
        yield backend


def test_calls_fail_as_often_as_asked(backend: neoq.Backend) -> None:
    """An enqueue fails as often as asked, adds nothing then, and works after that."""
    backend.listen("q", lambda job: job.payload["n"])
    with Faults(backend).failing("add", error=OSError("no"), times=2) as fault:
        for _ in range(2):
            with pytest.raises(OSError, match="no"):
                backend.enqueue("q", {"n": 1})
        assert ended(backend, backend.enqueue("q", {"n": 2})).result == 2
    assert fault.count == 2
    assert [job.payload for job in backend.jobs()] == [{"n": 2}]


def test_a_lost_reply_to_an_enqueue(backend: neoq.Backend) -> None:
    """The job whose reply is lost is stored, and the caller does not know."""
    backend.listen("other", lambda _job: None)
    backend.listen("q", lambda _job: None)
    backend.pause("q")
    with (
        Faults(backend).lost_reply("add"),
        pytest.raises(neoq.BackendUnavailable, match="lost") as caught,
    ):
        backend.enqueue("q", {"n": 1})
    assert caught.value.outcome_unknown
    assert [job.payload for job in backend.jobs()] == [{"n": 1}]
    assert backend.enqueue("q", {"n": 1}).duplicate


def test_a_lost_reply_to_a_settle(backend: neoq.Backend) -> None:
    """A job whose outcome was recorded unheard ran once, and succeeded."""
    ran: list[int] = []
    with Faults(backend).lost_reply("settle", times=1) as fault:
        backend.listen("q", lambda _job: ran.append(1))
        job = ended(backend, backend.enqueue("q"))
        fault.wait()
    assert backend.drain(PATIENCE)
    assert (job.status, ran) == (neoq.Status.SUCCEEDED, [1])


def test_calls_wait(backend: neoq.Backend) -> None:
    """An outcome that is paused is recorded at the end of the block."""
    backend.listen("q", lambda _job: 1)
    with Faults(backend).paused("settle") as fault:
        job = backend.enqueue("q")
        fault.wait()
        assert backend.get(job.id or 0).status is neoq.Status.RUNNING  # type: ignore[union-attr]
    assert ended(backend, job).result == 1


def test_an_outage(backend: neoq.Backend) -> None:
    """While the store is away nothing can be asked; jobs that were accepted run once it is back."""
    go_on = threading.Event()
    backend.listen("q", lambda _job: go_on.wait(PATIENCE))
    jobs = [backend.enqueue("q", {"n": n}) for n in range(3)]
    with Faults(backend).outage() as fault:
        go_on.set()
        for call in (lambda: backend.enqueue("q", {"n": 9}), backend.jobs, backend.queues):
            with pytest.raises(neoq.BackendUnavailable, match="the store is away"):
                call()
        fault.wait(3)
    assert all(ended(backend, job).status is neoq.Status.SUCCEEDED for job in jobs)


def test_faults_may_be_nested(backend: neoq.Backend) -> None:
    """Of two faults on one call the inner one comes first, and the outer is there again after it."""
    faults = Faults(backend)
    with faults.failing("find", error=KeyError):
        with faults.failing("find", error=IndexError), pytest.raises(IndexError):
            backend.jobs()
        with pytest.raises(KeyError):
            backend.jobs()
    assert backend.jobs() == []


def test_broken_connections(backend: neoq.Backend) -> None:
    """Jobs are enqueued and run after all connections broke; memory has none."""
    backend.listen("q", lambda job: job.payload["n"])
    faults = Faults(backend)
    if isinstance(backend, neoq.MemBackend):
        with pytest.raises(neoq.UnsupportedError, match="has no break_connections"):
            faults.break_connections()
        return
    for n in range(3):
        assert ended(backend, backend.enqueue("q", {"n": n})).result == n
        faults.break_connections()
    assert len(backend.jobs("q")) == 3


def test_a_call_that_no_store_has() -> None:
    """A name that is no call of a store is refused with those that are."""
    with (
        neoq.MemBackend() as backend,
        pytest.raises(ValueError, match=r"no call 'setle'; it is one of .*settle"),
        Faults(backend).failing("setle"),
    ):
        pass


def test_a_fault_that_is_not_met() -> None:
    """To wait for a fault that no call meets ends with an error."""
    with (
        neoq.MemBackend() as backend,
        Faults(backend).failing("prune") as fault,
        pytest.raises(TimeoutError, match=r"met 0 calls in 0\.01 s, not 1"),
    ):
        fault.wait(timeout=0.01)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_paused_commits(backend: neoq.Backend) -> None:
    """Enqueues gather while commits are paused."""
    assert backend.queues() == []
    with Faults(backend).paused_commits() as gathered:
        calls = [Background(lambda n=n: backend.enqueue("q", {"n": n})) for n in range(4)]  # type: ignore[misc]
        gathered(4)
    assert sorted(call.result().id for call in calls) == [1, 2, 3, 4]


def test_a_store_of_somebody_else() -> None:
    """Faults of calls work over a store that is none of ours."""

    class TheirStore(MemStore):
        """A store that adds in a way of its own."""

        def add(self, *arguments: Any, **options: Any) -> Any:
            return super().add(*arguments, **options)

    class TheirBackend(neoq.MemBackend):
        store_class = TheirStore

    with TheirBackend() as backend:
        backend.listen("q", lambda _job: None)
        with Faults(backend).failing("add"), pytest.raises(neoq.BackendUnavailable):
            backend.enqueue("q")
        assert ended(backend, backend.enqueue("q"))
