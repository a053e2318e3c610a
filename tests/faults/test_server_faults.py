"""Postgres and Redis under load, while workers die, servers go away, sessions are cut and networks fail.

Each test ends with the accounting of every job: none that was accepted is lost, and none runs twice but
those that a killed worker had in its hands. Short here; `make faults` has the long forms.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import neoq
from tests.faults.accounting import Accounting, eventually, load
from tests.faults.proxy import Proxy
from tests.faults.servers import SERVERS, FaultyServer, Redis
from tests.processes import running

pytestmark = pytest.mark.usefixtures("autostart")

MINUTES = [pytest.mark.faults, pytest.mark.timeout(600)]
HASTY = {"lease": "3", "heartbeat": "0.5", "max_crashes": "1000"}


@pytest.fixture(params=sorted(SERVERS))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FaultyServer]:
    """A server of the test's own, that forgets nothing when it is killed."""
    with SERVERS[request.param]() as server:
        yield server


# ----------------------------------------------------------------------------------------- workers that die


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=MINUTES)])
def test_workers_killed_under_load(server: FaultyServer, tmp_path: Path, seconds: int) -> None:
    """With a kill -9 each second no accepted job is lost, and only what the killed held runs twice."""
    with load(tmp_path, server.url(**HASTY)) as jobs:
        jobs.kill_each_second(seconds)
        jobs.account().check()


@pytest.mark.faults
@pytest.mark.timeout(120)
def test_recovery_with_the_usual_settings(server: FaultyServer, tmp_path: Path) -> None:
    """Without any setting, the job of a killed worker is run by another within its bound."""
    url = server.url()
    with load(tmp_path, url) as jobs:
        first = jobs.worker(seconds=3600)
        with neoq.connect(url, autostart=False) as producer:
            producer.enqueue("q", {"n": 1})
            eventually(jobs.attempts, lambda: "it never started")
            jobs.worker(seconds=0)
            time.sleep(6)  # a heartbeat has passed
            began = time.monotonic()
            jobs.kill(first)
            eventually(
                lambda: any(attempt.ended for attempt in jobs.attempts()[1]),
                jobs.complaints,
                server.recovery,
            )
            print(f"recovered in {time.monotonic() - began:.1f} s")
        jobs.stop()


def test_a_stopped_worker_loses_its_lease(server: FaultyServer) -> None:
    """What a worker settles that was stopped past its lease is refused; another has run the job."""
    url = server.url(lease="1", heartbeat="0.2")
    program = (
        "import neoq, sys, time\n"
        "backend = neoq.connect(sys.argv[1])\n"
        "def work(job):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    return 'zombie'\n"
        "backend.listen('q', work, concurrency=1)\n"
        "backend.run()\n"
    )
    with running([sys.executable, "-c", program], url) as zombie, neoq.connect(url) as backend:
        job = backend.enqueue("q")
        assert job.id is not None
        zombie.until("running")
        zombie.signal(signal.SIGSTOP)
        backend.listen("q", lambda _job: "second")
        assert backend.wait(job.id, timeout=server.recovery + 10).result == "second"
        zombie.signal(signal.SIGCONT)
        eventually(
            lambda: (
                "settled elsewhere" in zombie.errors
                or "lost" in zombie.errors
                or "no heartbeat" in zombie.errors
            ),
            lambda: f"it was not told: {zombie.errors}",
        )
        found = backend.get(job.id)
        assert found is not None
        assert (found.result, found.crashes) == ("second", 1)


# ------------------------------------------------------------------------------------------ servers that go


@pytest.mark.parametrize("times", [1, pytest.param(5, marks=MINUTES)])
def test_the_server_is_killed_and_started_under_load(
    server: FaultyServer, tmp_path: Path, times: int
) -> None:
    """Handlers go on while the server is away, and their outcomes are settled when it is back."""
    with load(tmp_path, server.url()) as jobs:
        jobs.worker()
        jobs.worker()
        jobs.producer()
        for _ in range(times):
            time.sleep(1.0)
            server.stop_at_once()
            time.sleep(0.5)
            server.start()
            time.sleep(1.0)
        jobs.account().check()


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=MINUTES)])
def test_sessions_are_cut_at_random(server: FaultyServer, tmp_path: Path, seconds: int) -> None:
    """Whatever a session was at when the server ended it, its jobs are neither lost nor doubled."""
    chance = random.Random(7)
    with load(tmp_path, server.url()) as jobs:
        jobs.worker()
        jobs.worker()
        jobs.producer()
        until = time.monotonic() + seconds
        cut = 0
        while time.monotonic() < until:
            time.sleep(chance.uniform(0.05, 0.4))
            cut += server.cut_session(chance)
        assert cut > 0
        jobs.account().check()


# ------------------------------------------------------------------------------------- networks that do not


@pytest.fixture
def proxy(server: FaultyServer) -> Iterator[Proxy]:
    with Proxy(server.host, server.port).running() as proxy:
        yield proxy


def through(
    server: FaultyServer,
    proxy: Proxy,
    directory: Path,
    fault: str,
    seconds: float,
    times: int,
    **settings: str,
) -> Accounting:
    """Load over a network that has a fault now and then."""
    with load(directory, server.url(**settings)) as jobs:
        through_it = server.url(proxy.port, **settings)
        cut = jobs.worker(through_it)
        jobs.worker()
        jobs.producer(through_it)
        for _ in range(times):
            time.sleep(0.7)
            getattr(proxy, fault)()
            time.sleep(seconds)
            proxy.heal()
        if settings:  # a lease may run out meanwhile, and then another runs the job rightly
            jobs.killed.add(cut.pid)
        return jobs.account()


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=MINUTES)])
def test_connections_are_reset(server: FaultyServer, proxy: Proxy, tmp_path: Path, times: int) -> None:
    """A connection that is reset in the middle of anything costs nothing but time."""
    through(server, proxy, tmp_path, "reset", 0.3, times).check()


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=MINUTES)])
def test_the_network_stalls(server: FaultyServer, proxy: Proxy, tmp_path: Path, times: int) -> None:
    """A network that stands still for less than a lease costs nothing but time."""
    through(server, proxy, tmp_path, "stall", 1.5, times).check()


def test_a_worker_that_hears_nothing_stops(server: FaultyServer, proxy: Proxy) -> None:
    """Where the server neither answers nor refuses, jobs stop when their lease is over, and run again."""
    settings = {"lease": "1", "heartbeat": "0.2", "concurrency": "2"}
    if isinstance(server, Redis):
        settings["socket_timeout"] = "60"
    tries: list[int] = []
    running, stopped = threading.Event(), threading.Event()

    def work(job: neoq.Job) -> str:
        tries.append(job.attempt)
        if len(tries) > 1:
            return "again"
        running.set()
        try:
            while True:
                time.sleep(0.01)
        except neoq.JobInterrupted:
            stopped.set()
            raise

    with neoq.connect(server.url(proxy.port, **settings)) as backend:
        backend.listen("q", work)
        job = backend.enqueue("q")
        assert running.wait(20)
        proxy.stall()
        try:
            assert stopped.wait(10)
        finally:
            proxy.heal()
        done = backend.wait(job.id or 0, timeout=30)
        assert (done.result, tries) == ("again", [1, 1])


@pytest.mark.parametrize("busy", [False, True])
def test_a_shutdown_ends_while_the_network_stands_still(
    server: FaultyServer, proxy: Proxy, busy: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that neither answers nor refuses holds no shutdown up; the report has what is not known."""
    settings = {"socket_timeout": "60"} if isinstance(server, Redis) else {}
    backend = neoq.connect(server.url(proxy.port, **settings))
    running = threading.Event()
    reports: list[neoq.ShutdownReport] = []

    def work(_: neoq.Job) -> None:
        running.set()
        while busy:
            time.sleep(0.01)

    backend.listen("q", work)
    job = backend.enqueue("q")
    assert running.wait(20)
    if not busy:
        backend.wait(job.id or 0, timeout=20)
    proxy.stall()
    ending = threading.Thread(target=lambda: reports.append(backend.shutdown(timeout=1)), daemon=True)
    try:
        ending.start()
        ending.join(15)
        assert not ending.is_alive()
    finally:
        proxy.heal()
    [report] = reports
    unknown = [job.id] if busy else []
    assert [lost.id for lost in report.lost] == unknown
    assert [stopped.id for stopped in report.interrupted] == unknown
    assert "the store does not answer" in caplog.text


def test_a_program_ends_while_the_network_stands_still(server: FaultyServer, proxy: Proxy) -> None:
    """Nor is the end of a program held up, where no thread can be started any more."""
    settings = {"shutdown_timeout": "1"} | ({"socket_timeout": "60"} if isinstance(server, Redis) else {})
    program = """if True:
        import sys, threading, neoq
        running = threading.Event()
        backend = neoq.connect(sys.argv[1])
        backend.listen("q", lambda job: running.set())
        backend.enqueue("q")
        running.wait()
        print("running", flush=True)
        sys.stdin.readline()
    """
    child = subprocess.Popen(
        [sys.executable, "-c", program, server.url(proxy.port, **settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "running\n"
        proxy.stall()
        _, said = child.communicate("end\n", timeout=30)
    finally:
        child.kill()
        proxy.heal()
    assert child.returncode == 0
    assert "the store does not answer" in said


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_the_network_stalls_past_the_lease(server: FaultyServer, proxy: Proxy, tmp_path: Path) -> None:
    """A worker that is cut off for longer than its lease stops; others run its jobs; none is lost."""
    through(server, proxy, tmp_path, "stall", 8.0, 3, **HASTY).check()


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=MINUTES)])
def test_replies_are_lost(server: FaultyServer, proxy: Proxy, tmp_path: Path, times: int) -> None:
    """What the server has done unheard is found out: no claimed job is forgotten, none is added twice."""
    accounting = through(server, proxy, tmp_path, "drop_replies", 0.4, times, **HASTY)
    accounting.check()
    assert proxy.lost > 0


def test_a_reply_is_lost_and_the_server_with_it(server: FaultyServer) -> None:
    """An enqueue that may have happened is never said to have failed."""
    failed: list[neoq.BackendUnavailable] = []

    def enqueue(backend: neoq.Backend) -> None:
        with pytest.raises(neoq.BackendUnavailable) as caught:
            backend.enqueue("q", {"n": 5})
        failed.append(caught.value)

    with neoq.connect(server.url(), autostart=False) as other:
        with Proxy(server.host, server.port).running() as proxy:
            backend = neoq.connect(server.url(proxy.port), autostart=False)
            for n in range(5):  # by then the statement is prepared
                backend.enqueue("q", {"n": n})
            proxy.drop_replies()
            thread = threading.Thread(target=enqueue, args=(backend,))
            thread.start()
            # What is lost first may be a late notice of another job.
            eventually(lambda: other.count(queue="q") == 6, lambda: "nothing was stored")
            eventually(lambda: proxy.lost, lambda: "nothing was lost")
        thread.join()
        backend.shutdown(timeout=0)
        assert sorted(job.payload["n"] for job in other.jobs("q")) == [0, 1, 2, 3, 4, 5]
    assert failed[0].outcome_unknown


# --------------------------------------------------------------------------------------------- wrong clocks


@pytest.mark.parametrize("wrong_by", [3600.0, -3600.0], ids=["fast", "slow"])
def test_one_of_two_workers_has_a_wrong_clock(server: FaultyServer, tmp_path: Path, wrong_by: float) -> None:
    """The server's clock judges: nothing runs early, no lease is lost, and nothing runs twice."""
    url = server.url(lease="3", heartbeat="0.5")
    with load(tmp_path, url) as jobs, neoq.connect(url, autostart=False) as producer:
        jobs.worker(wrong_by=wrong_by, seconds=0.05)
        jobs.worker(seconds=0.05)
        due: dict[int, float] = {}
        lines = []
        for n in range(40):
            job = producer.enqueue("q", {"n": n}, run_after=timedelta(seconds=n % 4 * 0.6))
            assert job.run_after is not None
            due[n] = job.run_after.timestamp()
            lines.append(f"accepted {n} {job.id}\n")
        jobs.accepted.write_text("".join(lines))
        accounting = jobs.account()
        accounting.check()
        assert accounting.doubled == 0
        early = {
            n: due[n] - tries[0].began for n, tries in jobs.attempts().items() if tries[0].began < due[n]
        }
        assert not early, early


# ---------------------------------------------------------------------------------------- open transactions


def test_a_transaction_held_open(tmp_path: Path) -> None:
    """While another session's transaction is open jobs flow, and those it enqueued wait for its commit."""
    import psycopg

    with SERVERS["postgres"]() as server, load(tmp_path, server.url()) as jobs:
        with (
            psycopg.connect(server.driver_url) as other,
            neoq.connect(server.url(), autostart=False) as backend,
        ):
            backend.queues()
            other.execute("set transaction isolation level repeatable read")
            other.execute("select pg_current_xact_id()")
            held = backend.enqueue("q", {"n": 10**9}, transaction=other)
            assert held.id is not None
            jobs.worker()
            jobs.producer()
            eventually(lambda: len(jobs.attempts()) > 300, jobs.complaints)
            assert backend.get(held.id) is None
            assert 10**9 not in jobs.attempts()
            with jobs.accepted.open("a") as lines:
                lines.write(f"accepted {10**9} {held.id}\n")
            other.commit()
            eventually(lambda: 10**9 in jobs.attempts(), jobs.complaints)
        jobs.account().check()
