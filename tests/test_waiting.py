"""How the end and the progress of a job reach another process: what is sent, what it costs, what may fail."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import neoq
from neoq.engine import lookout
from neoq.testing.cases.suite import Background, eventually, in_threads
from tests.faults.servers import SERVERS, FaultyServer
from tests.processes import Child, running

PATIENCE = 20.0
NEVER = 3600.0  # seconds between polls, where these are not to help
HASTY = {"lease": "2", "heartbeat": "0.3"}
WORKER = """
import neoq, os, sys, time
backend = neoq.connect(sys.argv[1], autostart=False)

@backend.listen("q", concurrency=1, timeout=None)
def work(job):
    print("began", flush=True)
    while job.payload and not os.path.exists(job.payload["until"]):
        time.sleep(0.01)
    return os.getpid()

backend.start()
print("ready", flush=True)
backend.run()
"""


@pytest.fixture(scope="module", params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[FaultyServer]:
    """A server that the tests share, each with a queue of its own."""
    with SERVERS[request.param]() as server:
        yield server


@pytest.fixture
def without_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing help who waits but what is announced."""
    monkeypatch.setattr(lookout, "POLL_HEARING", NEVER)
    monkeypatch.setattr(lookout, "POLL_FIRST", NEVER)


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue that no other test uses."""
    return str(request.node.name.partition("[")[0])


def counted(monkeypatch: pytest.MonkeyPatch, store: Any, name: str) -> list[Any]:
    """The calls of one of a store's methods from here on."""
    calls: list[Any] = []
    method = getattr(store, name)

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        return method(*arguments, **options)

    monkeypatch.setattr(store, name, call)
    return calls


def held(began: threading.Event, gate: threading.Event) -> Callable[[neoq.Job], str]:
    def handler(_job: neoq.Job) -> str:
        began.set()
        gate.wait(PATIENCE)
        return "done"

    return handler


@pytest.mark.usefixtures("without_polls")
def test_the_end_is_announced(server: FaultyServer, queue: str) -> None:
    """A worker announces the end of a job that another process waits for."""
    began, gate = threading.Event(), threading.Event()
    with neoq.connect(server.url()) as worker, neoq.connect(server.url(), autostart=False) as other:
        worker.listen(queue, held(began, gate))
        job = other.enqueue(queue)
        waiter = Background(lambda: other.wait(job.id, PATIENCE))
        assert began.wait(PATIENCE)
        assert waiter.blocks()
        gate.set()
        assert waiter.result().result == "done"


@pytest.mark.usefixtures("without_polls")
def test_a_worker_that_begins_later(server: FaultyServer, queue: str) -> None:
    """A worker that begins while somebody waits learns what is waited for."""
    with neoq.connect(server.url(), autostart=False) as other:
        job = other.enqueue(queue)
        waiter = Background(lambda: other.wait(job.id, PATIENCE))
        assert waiter.blocks()
        gate = threading.Event()
        with neoq.connect(server.url(), heartbeat=0.1) as worker:
            worker.listen(queue, held(threading.Event(), gate))
            announcer = worker.engine.announcer
            assert announcer is not None
            eventually(lambda: announcer.was_asked, "the worker is asked")
            gate.set()
            assert waiter.result().result == "done"


@pytest.mark.usefixtures("without_polls")
@pytest.mark.parametrize("server", ["postgres"], indirect=True)
def test_the_end_is_announced_by_its_commit(
    server: FaultyServer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Postgres the end of a job is announced by the commit that records it."""
    began, gate = threading.Event(), threading.Event()
    with neoq.connect(server.url()) as worker, neoq.connect(server.url(), autostart=False) as other:
        worker.listen(queue, held(began, gate))
        job = other.enqueue(queue)
        announced = counted(monkeypatch, worker.store, "announce")
        waiter = Background(lambda: other.wait(job.id, PATIENCE))
        assert began.wait(PATIENCE)
        announcer = worker.engine.announcer
        assert announcer is not None
        eventually(lambda: announcer.was_asked, "the worker is asked")
        gate.set()
        assert waiter.result().result == "done"
        eventually(lambda: not announcer.was_asked, "the ask is answered")
        assert announced == []


def test_nothing_is_announced_that_nobody_waits_for(
    server: FaultyServer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs that nobody waits for cost no message and no thread."""
    before = set(threading.enumerate())
    with neoq.connect(server.url()) as worker:
        worker.listen(queue, lambda _job: None)
        worker.enqueue(queue, {"n": -1})
        assert worker.drain(PATIENCE)
        announced = counted(monkeypatch, worker.store, "announce")
        worker.enqueue_many([neoq.Job(queue, {"n": n}) for n in range(100)])
        assert worker.drain(PATIENCE)
        assert announced == []
        names = {thread.name for thread in threading.enumerate() if thread not in before}
        assert not {"neoq-announcer", "neoq-lookout", "neoq-progress"} & names


def test_all_threads_share_one_connection(
    server: FaultyServer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """200 threads of a process wait at once on one connection, which is closed when the last has its job."""
    monkeypatch.setattr(lookout, "LINGER", 0.1)
    began, gate = threading.Event(), threading.Event()
    with neoq.connect(server.url()) as worker, neoq.connect(server.url(), autostart=False) as other:
        opened = counted(monkeypatch, other.store, "open_ear")
        worker.listen(queue, held(began, gate), concurrency=4)
        jobs = other.enqueue_many([neoq.Job(queue, {"n": n}) for n in range(200)])
        waiter = Background(lambda: in_threads(200, lambda n: other.wait(jobs[n].id, 2 * PATIENCE).result))
        eventually(lambda: len(other.engine.awaited.ids()) == 200, "all wait")
        gate.set()
        assert waiter.result() == ["done"] * 200
        assert len(opened) == 1
        eventually(lambda: not other.engine.awaited, "nothing is awaited")


def test_progress_is_written_twice_a_second(
    server: FaultyServer, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often a handler reports, its progress is written at most about twice a second."""
    went_on = threading.Event()

    def report(job: neoq.Job) -> float:
        began, number = time.monotonic(), 0
        while not went_on.is_set():
            number += 1
            job.progress(0.5, str(number))
            time.sleep(0.001)
        return time.monotonic() - began

    with neoq.connect(server.url(), heartbeat=NEVER / 2, lease=NEVER) as worker:
        written = counted(monkeypatch, worker.store, "extend")
        worker.listen(queue, report, timeout=None)
        job = worker.enqueue(queue)
        eventually(lambda: len(written) >= 7, "progress is written")
        went_on.set()
        seconds = worker.wait(job.id, PATIENCE).result
        assert len(written) <= 4 + seconds / 0.48  # the first heartbeats write, too


@pytest.mark.parametrize("store", ["sqlite", *sorted(SERVERS)])
def test_a_killed_worker(store: str, tmp_path: Any) -> None:
    """A wait goes on when the worker is killed with -9, and ends with the job, which another worker runs."""
    with ExitStack() as stack:
        if store == "sqlite":
            url = f"sqlite:///{tmp_path}/jobs.db?lease=2&heartbeat=0.3"
        else:
            url = stack.enter_context(SERVERS[store]()).url(**HASTY)

        def worker() -> Child:
            child = stack.enter_context(running([sys.executable, "-c", WORKER], url))
            child.until("ready")
            return child

        first = worker()
        backend = stack.enter_context(neoq.connect(url, autostart=False))
        job = backend.enqueue("q")
        assert backend.wait(job.id, PATIENCE).result == first.pid
        first.until("began")
        gate = tmp_path / "gate"
        job = backend.enqueue("q", {"until": str(gate)})
        waiter = Background(lambda: backend.wait(job.id, PATIENCE))
        first.until("began")
        assert waiter.blocks()
        second = worker()
        first.signal(signal.SIGKILL)
        second.until("began")
        gate.touch()
        assert waiter.result().result == second.pid


@pytest.mark.parametrize("name", sorted(SERVERS))
def test_the_server_is_restarted(name: str) -> None:
    """A wait goes on while the server is away, and ends with the job when it is back."""
    began, gate = threading.Event(), threading.Event()
    with (
        SERVERS[name]() as server,
        neoq.connect(server.url()) as worker,
        neoq.connect(server.url(), autostart=False) as other,
    ):
        worker.listen("q", held(began, gate))
        job = other.enqueue("q")
        waiter = Background(lambda: other.wait(job.id, 2 * PATIENCE))
        assert began.wait(PATIENCE)
        assert waiter.blocks()
        server.stop_at_once()
        gate.set()
        assert waiter.blocks()
        server.start()
        assert waiter.result().result == "done"


def test_a_store_that_tells_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Without an ear the store is polled, often at first: for an application's own store that has none."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with neoq.connect(url) as worker, neoq.connect(url, autostart=False) as other:
        monkeypatch.setattr(other.store, "open_ear", lambda: None)
        worker.listen("q", lambda _job: "done")
        assert other.wait(other.enqueue("q").id, PATIENCE).result == "done"
        assert [one.status.name for one in other.watch(other.enqueue("q").id, PATIENCE)][-1] == "SUCCEEDED"
