"""RedisBackend's own: addresses, servers that may not keep jobs, servers that fail, many and large jobs."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

import neoq
from neoq.clock import SystemClock
from neoq.engine.shutdown import CLOSING_GRACE
from neoq.job import Job
from neoq.outcome import Outcome, lease_of, succeeded
from neoq.record import Status
from neoq.redis import exchange as redis_exchange
from neoq.redis import outbox
from neoq.redis.add import Adder
from neoq.redis.backend import RedisBackend
from neoq.redis.connection import RedisConnection
from neoq.redis.find import Finder
from neoq.redis.leases import Leased
from neoq.redis.mending import Mender
from neoq.redis.scripts import Script
from neoq.store import Demand
from neoq.testing import Faults
from neoq.testing.cases.seam import prepared
from neoq.testing.cases.suite import Background
from tests.redis_ledger import check_ledger
from tests.sentinel import watched_servers
from tests.servers import (
    cluster_client,
    cluster_url,
    free_port,
    running_cluster,
    running_server,
)

pytestmark = pytest.mark.usefixtures("autostart")

PATIENCE = 20.0
AOF = ("--appendonly", "yes")


@pytest.fixture
def backend(redis_url: str, redis_prefix: Callable[[], str]) -> Iterator[RedisBackend]:
    """A backend that runs nothing, with keys of its own."""
    with RedisBackend(redis_url, prefix=redis_prefix(), autostart=False) as backend:
        yield backend


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the test's own."""
    with redis.Redis.from_url(redis_url, protocol=2) as client:
        yield client


def eventually(holds: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < give_up, what
        time.sleep(0.01)


def id_of(job: Job) -> int:
    assert job.id is not None
    return job.id


# -------------------------------------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis://localhost/one", "a database is a number"),
        ("redis://localhost:port", "url does not say"),
        ("redis://a,b", "several hosts need"),
        ("redis://localhost/0/1", "number of a database"),
        ("redis://:s3cret#x@localhost", "%23"),
        ("redis+unix://", "redis+unix:///run/redis.sock"),
        ("redis+sentinel://localhost:26379", "redis+sentinel://host:26379/mymaster"),
        ("redis+cluster://localhost/1", "none in a cluster"),
        ("redis://localhost?prefix={a}", "printable characters without { } :"),
        ("redis://localhost?path=x", "path is not a setting"),
    ],
)
def test_a_bad_url(url: str, advice: str) -> None:
    """A URL that does not say where the server is names what it should be, and no password."""
    with pytest.raises(neoq.ConfigError) as caught:
        neoq.connect(url)
    assert advice in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_password_is_shown_nowhere() -> None:
    """Neither a backend nor its settings show the password of their URL."""
    backend = neoq.connect("redis://me:s3cret@localhost:6380/1", autostart=False)
    assert "s3cret" not in repr(backend) + repr(backend.config)
    assert "localhost:6380/1" in repr(backend)


def test_nothing_is_connected_before_it_is_used() -> None:
    """A backend is made without a look at its server."""
    neoq.RedisBackend(f"redis://127.0.0.1:{free_port()}")


def test_nobody_listens_there() -> None:
    """A server that is not there is a BackendUnavailable that names its address, and nothing has happened."""
    port = free_port()
    backend = neoq.RedisBackend(f"redis://127.0.0.1:{port}", autostart=False)
    with pytest.raises(neoq.BackendUnavailable, match=f"127.0.0.1:{port}") as caught:
        backend.enqueue("q")
    assert isinstance(caught.value.__cause__, redis.RedisError)
    assert not caught.value.outcome_unknown


def test_no_cluster_is_there() -> None:
    """So is a cluster that is not there, for which the driver has an exception of another kind."""
    port = free_port()
    backend = neoq.connect(f"redis+cluster://127.0.0.1:{port}", autostart=False)
    with pytest.raises(neoq.BackendUnavailable, match=f"127.0.0.1:{port}") as caught:
        backend.enqueue("q")
    assert not caught.value.outcome_unknown


def test_a_host_without_a_name() -> None:
    """A host that nobody knows is a BackendUnavailable."""
    backend = neoq.RedisBackend("redis://nobody.invalid", autostart=False)
    with pytest.raises(neoq.BackendUnavailable, match=r"nobody\.invalid"):
        backend.enqueue("q")


def test_a_wrong_password() -> None:
    """A server that refuses us says so, and where user and password belong."""
    with running_server(*AOF, "--requirepass", "right") as server:
        for credentials in ("", ":wrong@"):
            backend = neoq.connect(f"redis://{credentials}127.0.0.1:{server.port}", autostart=False)
            with pytest.raises(neoq.BackendUnavailable, match="user and password") as caught:
                backend.enqueue("q")
            assert "wrong@" not in str(caught.value)
        with neoq.connect(f"redis://:right@127.0.0.1:{server.port}", autostart=False) as backend:
            assert backend.enqueue("q").id


def test_a_socket_and_a_database() -> None:
    """A server is reached by its socket, and jobs are kept in the database of the URL."""
    with running_server(*AOF) as server:
        with neoq.connect(f"redis+unix://{server.socket_path}?db=3", autostart=False) as backend:
            job = backend.enqueue("q")
        with neoq.connect(f"redis://127.0.0.1:{server.port}/3", autostart=False) as backend:
            assert backend.get(id_of(job)) is not None
        with neoq.connect(f"redis://127.0.0.1:{server.port}/0", autostart=False) as backend:
            assert backend.get(id_of(job)) is None


# ------------------------------------------------------------------------------------------- what is promised


@pytest.mark.parametrize(("policy", "fits"), [("allkeys-lru", False), ("volatile-lru", True)])
def test_a_server_that_evicts(policy: str, fits: bool) -> None:
    """A server that would evict jobs is refused at the first call, not one that evicts only what expires."""
    with running_server(*AOF, "--maxmemory-policy", policy) as server:
        backend = neoq.connect(server.url, autostart=False)
        if fits:
            assert backend.enqueue("q").id
            backend.shutdown()
        else:
            with pytest.raises(neoq.ConfigError, match="maxmemory-policy noeviction"):
                backend.enqueue("q")


def test_a_server_that_forgets(caplog: pytest.LogCaptureFixture) -> None:
    """A server without an append-only file is used, with a warning of what may be lost."""
    with running_server() as server, neoq.connect(server.url, autostart=False) as backend:
        backend.enqueue("q")
    assert "appendonly yes" in caplog.text


def test_a_server_that_keeps_is_no_warning(backend: RedisBackend, caplog: pytest.LogCaptureFixture) -> None:
    """With an append-only file there is nothing to warn of."""
    backend.enqueue("q")
    assert caplog.text == ""


def test_replicas_that_are_not_there() -> None:
    """wait_replicas without replicas: the job is stored, and the error says that its safety is not known."""
    with running_server(*AOF) as server:
        with neoq.connect(server.url, autostart=False, wait_replicas=1, socket_timeout=2) as backend:
            with pytest.raises(neoq.BackendUnavailable, match="0 replicas have confirmed") as caught:
                backend.enqueue("q")
            assert caught.value.outcome_unknown
            assert len(backend.jobs()) == 1
            with pytest.raises(neoq.BackendUnavailable, match="0 replicas have confirmed") as caught:
                backend.signal(id_of(backend.jobs()[0]), "go")
            assert caught.value.outcome_unknown
            assert [step.name for step in backend.steps(backend.jobs()[0])] == ["signal:go"]
        with running_server("--replicaof", f"127.0.0.1 {server.port}") as replica:
            client = replica.client()
            eventually(lambda: client.info("replication")["master_link_status"] == "up", "it follows")
            with neoq.connect(server.url, autostart=False, wait_replicas=1) as backend:
                assert backend.enqueue("q", {"n": 1}).id
                assert len(backend.jobs()) == 2
                opened = backend.batch(Job("then"))
                opened.__enter__()
                replica.kill()
                with pytest.raises(neoq.BackendUnavailable, match="0 replicas have confirmed"):
                    opened.__exit__(None, None, None)
                assert backend.store.claim([Demand("then", 1)]).jobs


def test_a_user_who_may_not_wait() -> None:
    """wait_replicas where the user may not ask for it: the job is stored, and the error says what lacks."""
    with running_server(*AOF) as server:
        server.client().acl_setuser("u", enabled=True, nopass=True, keys="*", commands=["+@all", "-wait"])
        url = f"redis://u:any@127.0.0.1:{server.port}"
        with neoq.connect(url, autostart=False, wait_replicas=1) as backend:
            with pytest.raises(neoq.BackendUnavailable, match=r"wait_replicas.*'wait'") as caught:
                backend.enqueue("q")
            assert caught.value.outcome_unknown
            assert len(backend.jobs()) == 1


@pytest.mark.parametrize("ask", ["enqueue", "enqueue_many"])
def test_no_transactions(backend: RedisBackend, ask: str) -> None:
    """A transaction is refused with what to use instead."""
    what = "q" if ask == "enqueue" else [Job("q")]
    with pytest.raises(neoq.UnsupportedError, match="after the commit"):
        getattr(backend, ask)(what, transaction=object())


# ------------------------------------------------------------------------------------------ servers that fail


def test_scripts_are_forgotten(backend: RedisBackend, client: redis.Redis) -> None:
    """SCRIPT FLUSH between any two calls costs nothing: single calls and several in one round trip."""
    ran: list[int] = []
    for n in range(3):
        client.script_flush()
        backend.enqueue("q", {"n": n})
        client.script_flush()
        backend.enqueue_many([Job("p", {"n": n}), Job("q", {"n": n + 10})])
    client.script_flush()
    jobs = backend.store.claim([Demand("p", 10), Demand("q", 10)]).jobs
    ran += [job.payload["n"] for job in jobs]
    client.script_flush()
    assert backend.store.settle([done(job) for job in jobs]) == set()
    assert sorted(ran) == [0, 0, 1, 1, 2, 2, 10, 11, 12]


def done(job: Job, **fields: Any) -> Outcome:
    now = time.time()
    return Outcome(lease_of(job), Status.SUCCEEDED, started_at=now, finished_at=now, **fields)


def test_connections_are_killed(redis_url: str, redis_prefix: Callable[[], str], client: redis.Redis) -> None:
    """With every connection killed again and again each accepted job runs, once."""
    ran: Counter[int] = Counter()
    prefix = redis_prefix()
    with RedisBackend(redis_url, prefix=prefix, heartbeat=0.2, lease=10.0) as backend:
        backend.listen("q", lambda job: ran.update([job.payload["n"]]), concurrency=4)
        stop = threading.Event()

        def cut() -> None:
            while not stop.wait(0.05):
                client.client_kill_filter(_type="normal", skipme=True)
                client.client_kill_filter(_type="pubsub", skipme=True)

        cutter = threading.Thread(target=cut)
        cutter.start()
        accepted, doubtful = [], 0
        try:
            for n in range(400):
                try:
                    backend.enqueue("q", {"n": n})
                except neoq.BackendUnavailable as error:
                    doubtful += not error.outcome_unknown
                else:
                    accepted.append(n)
        finally:
            stop.set()
            cutter.join()
        eventually(lambda: set(accepted) <= set(ran), "all that were accepted run")
        assert backend.drain(PATIENCE)
    assert (max(ran.values()), doubtful) == (1, 0)
    check_ledger(client, prefix)


def test_a_restart_under_load() -> None:
    """When a server is killed and started again all that was accepted runs, once."""
    ran: Counter[int] = Counter()
    with running_server(*AOF, "--appendfsync", "always") as server:
        with neoq.connect(server.url, heartbeat=0.5, socket_timeout=2.0, logger="t") as backend:
            backend.listen("q", lambda job: ran.update([job.payload["n"]]), concurrency=4)
            accepted: list[int] = []
            refused: list[int] = []
            stop = threading.Event()

            def produce() -> None:
                n = 0
                while not stop.is_set():
                    n += 1
                    try:
                        backend.enqueue("q", {"n": n})
                    except neoq.BackendUnavailable:
                        refused.append(n)
                        stop.wait(0.02)
                    else:
                        accepted.append(n)

            producer = threading.Thread(target=produce)
            producer.start()
            for _ in range(2):
                count = len(accepted)
                eventually(lambda count=count: len(accepted) > count + 100, "jobs are accepted")  # type: ignore[misc]
                server.kill()
                eventually(lambda: refused, "it is missed")
                refused.clear()
                server.start()
            stop.set()
            producer.join()
            eventually(lambda: set(accepted) <= set(ran), "all that were accepted run")
            assert backend.drain(PATIENCE)
            assert {number for number, times in ran.items() if times > 1} == set()
        check_ledger(server.client(), "neoq")


def test_an_outage_keeps_outcomes(caplog: pytest.LogCaptureFixture) -> None:
    """A handler that ends while the server is away has ended: its outcome is settled when that is back."""
    began, gate, runs = threading.Event(), threading.Event(), []

    def handler(job: Job) -> str:
        runs.append(job.id)
        began.set()
        gate.wait(PATIENCE)
        return "done"

    with (
        running_server(*AOF, "--appendfsync", "always") as server,
        neoq.connect(server.url, heartbeat=0.2) as backend,
    ):
        backend.listen("q", handler)
        job = backend.enqueue("q")
        assert began.wait(PATIENCE)
        server.kill()
        gate.set()
        eventually(lambda: "outcomes wait for the store" in caplog.text, "it is said")
        server.start()
        assert backend.wait(id_of(job), PATIENCE).result == "done"
        assert runs == [job.id]


def test_a_server_that_hangs() -> None:
    """A server that does not answer is away after socket_timeout; whether it has heard us is not known."""
    with (
        running_server(*AOF) as server,
        neoq.connect(server.url, socket_timeout=0.2, autostart=False) as backend,
    ):
        backend.enqueue("q", {"n": 0})
        server.signal(signal.SIGSTOP)
        try:
            with pytest.raises(neoq.BackendUnavailable) as caught:
                backend.enqueue("q", {"n": 1})
        finally:
            server.signal(signal.SIGCONT)
        assert caught.value.outcome_unknown
        backend.enqueue("q", {"n": 1})
        assert len(backend.jobs()) == 2  # heard or not, the same job is there once


def test_an_interrupt_between_the_first_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an interrupt breaks off a connection's first words, their answer is not taken for a later one."""

    class Interrupt(BaseException):
        pass

    plain = redis.Connection.send_packed_command

    def late(self: Any, *arguments: Any, **options: Any) -> None:
        plain(self, *arguments, **options)
        monkeypatch.undo()
        raise Interrupt

    with (
        running_server(*AOF) as server,
        neoq.connect(f"redis://127.0.0.1:{server.port}/3", autostart=False) as backend,
    ):
        assert isinstance(backend, RedisBackend)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(4)]
        Faults(backend).break_connections()
        server.signal(signal.SIGSTOP)
        go_on = threading.Timer(0.3, server.signal, [signal.SIGCONT])
        go_on.start()
        monkeypatch.setattr(redis.Connection, "send_packed_command", late)
        with pytest.raises(Interrupt):
            backend.get(id_of(jobs[0]))
        assert [look(backend, job).id for job in jobs[1:]] == [job.id for job in jobs[1:]]
        go_on.join()


def test_an_interrupt_in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection to a node is used again on which the answer to an interrupted call may still come."""

    class Interrupt(BaseException):
        pass

    with running_cluster(1, *AOF) as nodes, neoq.connect(cluster_url(nodes), autostart=False) as backend:
        assert isinstance(backend, RedisBackend)
        jobs = [backend.enqueue("q", {"n": n}) for n in range(4)]
        plain = redis.Connection.send_packed_command

        def late(self: Any, *arguments: Any, **options: Any) -> None:
            plain(self, *arguments, **options)
            monkeypatch.undo()
            raise Interrupt

        monkeypatch.setattr(redis.Connection, "send_packed_command", late)
        with pytest.raises(Interrupt):
            backend.get(id_of(jobs[0]))
        assert [look(backend, job).id for job in jobs[1:]] == [job.id for job in jobs[1:]]


def test_very_many_threads(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a hundred threads may ask at once."""
    assert backend.queues() == []
    plain, together = redis_exchange.exchange, threading.Barrier(150)
    failed: list[Exception] = []

    def meet(connection: Any, commands: Any) -> list[Any]:
        together.wait(PATIENCE)
        return plain(connection, commands)

    def ask() -> None:
        try:
            backend.jobs("q")
        except Exception as error:
            failed.append(error)
            together.abort()

    monkeypatch.setattr("neoq.redis.connection.exchange", meet)
    threads = [threading.Thread(target=ask) for _ in range(150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def look(backend: neoq.Backend, job: Job) -> Job:
    """A job as it is now."""
    found = backend.get(id_of(job))
    assert found is not None
    return found


def fill(backend: neoq.Backend, queue: str) -> int:
    """Enqueue until the server is full; return how many jobs it took."""
    for accepted in range(0, 20_000, 50):
        try:
            backend.enqueue_many([Job(queue, {"n": accepted + n, "x": "x" * 1000}) for n in range(50)])
        except neoq.BackendUnavailable as error:
            assert "full (maxmemory)" in str(error)  # noqa: PT017  # any other error fails the test as it is
            assert not error.outcome_unknown  # noqa: PT017
            return accepted
    return pytest.fail("the server was never full")


def test_a_full_server() -> None:
    """A full server takes no jobs and says why; what it has is run, and that makes room."""
    with (
        running_server(*AOF, "--maxmemory", "6mb") as server,
        neoq.connect(server.url, autostart=False, retention=0) as backend,
    ):
        accepted = fill(backend, "q")
        check_ledger(server.client(), "neoq")
        backend.listen("q", lambda _job: None)
        backend.start()
        assert backend.drain(PATIENCE)
        assert backend.stats().processed == accepted
        assert backend.enqueue("q", {"again": True}).id


def test_a_full_server_and_results() -> None:
    """Outcomes of a full server are settled all the same; what cannot be kept of them is not."""
    with (
        running_server(*AOF, "--maxmemory", "6mb") as server,
        neoq.connect(server.url, autostart=False) as backend,
    ):
        jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(10)])
        fill(backend, "p")
        claimed = backend.store.claim([Demand("q", 10)]).jobs
        assert backend.store.settle([done(job) for job in claimed]) == set()
        assert all(job is None or job.finished for job in map(backend.get, map(id_of, jobs)))
        check_ledger(server.client(), "neoq")


# -------------------------------------------------------------------------------------- replies that are lost


def name_of(connection: RedisConnection, command: Any) -> str:
    """The name of a command, or of the script that it runs."""
    if isinstance(command, bytes):
        return "add_one"
    scripts = vars(connection.scripts).items()
    names = {way: name for name, script in scripts for way in (script.digest, script.text)}
    return names[command[1]] if command[0].startswith("EVAL") else str(command[0])


class Deaf:
    """Loses the next reply of each connection, after the server has done what was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.to = ""  # what it loses the replies to: a command, or a script; "" for anything
        self.before: Callable[[str, Any], None] = lambda _name, _command: None
        plain = RedisConnection.exchange_once

        def exchange(connection: RedisConnection, commands: Any, near: Any) -> Any:
            name = name_of(connection, commands[0])
            self.before(name, commands[0])
            replies = plain(connection, commands, near)
            if self.left and name.startswith(self.to):
                self.left -= 1
                raise redis.ConnectionError("the reply was lost")
            return replies

        monkeypatch.setattr(RedisConnection, "exchange_once", exchange)


@pytest.fixture
def deaf(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> Deaf:
    backend.enqueue("q", {"first": True})
    return Deaf(monkeypatch)


@pytest.mark.parametrize("unique", [True, False])
def test_a_lost_reply_doubles_no_job(backend: RedisBackend, deaf: Deaf, unique: bool) -> None:
    """An enqueue whose reply is lost is asked again, and has added its jobs once, each new."""
    deaf.left = 1
    one = backend.enqueue("q", {"n": 1}, unique=unique)
    deaf.left = 1
    many = backend.enqueue_many([Job("q", {"n": n}, unique=unique) for n in (2, 3)])
    assert [job.duplicate for job in (one, *many)] == [False] * 3
    assert len(backend.jobs()) == 4
    deaf.left = 1
    assert backend.enqueue("q", {"n": 1}).duplicate is unique


@pytest.mark.parametrize("unique", [True, False])
def test_a_lost_reply_doubles_no_batch(backend: RedisBackend, deaf: Deaf, unique: bool) -> None:
    """A batch of several scripts whose reply is lost is asked again, and has added its jobs once."""
    for number, known in enumerate(([], [{"first": True}])):  # without a duplicate, and with one
        before = len(backend.jobs(limit=1000))
        payloads = [*known, *({"n": n, "batch": number} for n in range(120))]
        deaf.left = 1
        jobs = backend.enqueue_many([Job("q", payload, unique=unique) for payload in payloads])
        assert [job.payload for job in jobs] == payloads
        assert [job.duplicate for job in jobs] == [unique] * len(known) + [False] * 120
        assert len(backend.jobs(limit=1000)) == before + sum(not job.duplicate for job in jobs)


@pytest.mark.parametrize("number", [2, 200])  # a script for each queue, and several
def test_a_repeated_batch_of_several_queues(backend: RedisBackend, number: int) -> None:
    """A batch for several queues, said again with its token, meets no duplicates in its own jobs."""
    backend.enqueue("p", {"first": True})
    batch = [prepared("pq"[n % 2], {"n": n}, on_duplicate="raise") for n in range(number)]
    copies = [job.snapshot() for job in batch]
    added = backend.store.add(batch, token=b"said twice")
    again = backend.store.add(copies, token=b"said twice")
    assert [(job.id, job.duplicate) for job in again] == [(job.id, False) for job in added]
    assert len(backend.jobs(limit=1000)) == number + 1
    with pytest.raises(neoq.DuplicateJobError):
        backend.store.add([job.snapshot() for job in copies], token=b"said anew!")


def test_a_repeated_batch_that_fills_its_queues(backend: RedisBackend) -> None:
    """A batch for several queues that took their last room finds it again with its token."""
    backend.engine.config = backend.store.config = dataclasses.replace(
        backend.config, enqueue_timeout=0, queue_capacity=1
    )
    backend.enqueue("r")
    batch = [prepared(queue, {}) for queue in "pq"]
    copies = [job.snapshot() for job in batch]
    added = backend.store.add(batch, token=b"said twice")
    assert [job.id for job in backend.store.add(copies, token=b"said twice")] == [job.id for job in added]
    with pytest.raises(neoq.QueueFullError):
        backend.store.add([prepared(queue, {"n": 1}) for queue in "pq"], token=b"said anew!")


def test_a_lost_reply_to_a_settle(backend: RedisBackend, deaf: Deaf) -> None:
    """Outcomes that were recorded without our hearing of it are not stale when they are said again."""
    backend.enqueue_many([Job("q", {"n": n}) for n in range(3)])
    jobs = backend.store.claim([Demand("q", 10)]).jobs
    outcomes = [done(jobs[0]), done(jobs[1]), Outcome(lease_of(jobs[2]), Status.DEAD, finished_at=1.0)]
    deaf.left = 2
    with pytest.raises(neoq.BackendUnavailable):
        backend.store.settle(outcomes)
    assert backend.store.settle(outcomes) == set()
    assert backend.store.settle(outcomes) == {job.id for job in jobs[:3]}


def test_a_settle_that_is_said_again(
    backend: RedisBackend, deaf: Deaf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes whose reply is lost once are recorded, not stale, and what follows them is added."""
    backend.enqueue_many([Job("q", {"n": n}) for n in range(3)])
    jobs = backend.store.claim([Demand("q", 10)]).jobs
    deaf.left = 1
    follow = (prepared("p", {}),)
    outcomes = [done(jobs[0], follow=follow), Outcome(lease_of(jobs[1]), Status.DEAD, finished_at=1.0)]
    assert backend.store.settle(outcomes) == set()
    assert len(backend.jobs("p")) == 1
    deaf.left, deaf.to = 2, "add"
    outcomes = [done(jobs[2], follow=(prepared("p", {"n": 1}),)), done(jobs[3])]
    assert backend.store.settle(outcomes) == set()
    deaf.left = 0
    assert backend.store.settle(outcomes) == {job.id for job in jobs[2:4]}
    monkeypatch.setattr(outbox, "OVERDUE", 0.0)
    assert backend.store.tend() is False
    assert len(backend.jobs("p")) == 2


def test_a_lost_reply_about_payloads(backend: RedisBackend, deaf: Deaf) -> None:
    """Jobs whose large payloads could not be fetched are given back, uncharged, before the next claim."""
    backend.enqueue("q", {"x": "x" * 5000})
    deaf.left, deaf.to = 2, "HGET"
    with pytest.raises(neoq.BackendUnavailable):
        backend.store.claim([Demand("q", 10)])
    jobs = backend.store.claim([Demand("q", 10)]).jobs
    assert [(len(job.payload), job.crashes) for job in jobs] == [(1, 0)] * 2
    assert backend.store.settle([done(job) for job in jobs]) == set()


def test_a_lost_reply_about_dead_jobs(backend: RedisBackend, deaf: Deaf, client: redis.Redis) -> None:
    """No more dead jobs are dropped than are too many, also where it is not heard that they were."""
    backend.engine.config = backend.store.config = dataclasses.replace(
        backend.config, max_dead=6, retention=None
    )
    backend.enqueue_many([Job("q", {"n": n}) for n in range(9)])
    jobs = backend.store.claim([Demand("q", 10)]).jobs
    backend.store.settle([Outcome(lease_of(job), Status.DEAD, finished_at=1.0) for job in jobs])
    deaf.left, deaf.to = 1, "drop"
    with pytest.raises(neoq.BackendUnavailable):
        backend.prune()
    backend.prune()
    assert client.zcard(f"{{{backend.config.prefix}:q}}:dead") == 6


def test_a_queue_that_cannot_be_claimed_from(
    backend: RedisBackend,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    redis_url: str,
) -> None:
    """A queue whose keys somebody has spoiled, and that cannot be mended, holds up no other."""
    backend.enqueue("bad")
    demand = [Demand("bad", 1), Demand("good", 1)]
    monkeypatch.setattr(Mender, "mend", lambda _mender: None)
    client.set(f"{{{backend.config.prefix}:bad}}:wait", "spoiled")
    for n in range(3):
        job = backend.enqueue("good", {"n": n})
        claimed = backend.store.claim(demand)
        assert [found.id for found in claimed.jobs] == [job.id]
        assert claimed.next_due is not None
    assert caplog.text.count("no jobs of bad can be claimed") == 1
    with RedisBackend(redis_url, prefix=backend.config.prefix, autostart=False) as other:
        assert other.workers()
        with pytest.raises(neoq.BackendError):
            other.store.claim(demand[:1])


def test_a_lost_reply_to_a_claim_by_text(backend: RedisBackend, deaf: Deaf, client: redis.Redis) -> None:
    """A claim is not said twice either where the server has forgotten its script: who knows what it took."""
    client.script_flush()
    losses = iter([1])

    def by_text(name: str, command: Any) -> None:
        if name == "claim" and command[0] == "EVAL":
            deaf.left = next(losses, 0)

    deaf.before = by_text
    with pytest.raises(neoq.BackendUnavailable):
        backend.store.claim([Demand("q", 10)])
    assert [job.payload for job in backend.store.claim([Demand("q", 10)]).jobs] == [{"first": True}]


def test_a_lost_reply_to_a_claim(backend: RedisBackend, deaf: Deaf) -> None:
    """Jobs that were claimed without our hearing of it are given back, uncharged, before the next claim."""
    assert backend.store.claim([Demand("q", 0)]).jobs == []
    deaf.left, deaf.to = 1, "claim"
    with pytest.raises(neoq.BackendUnavailable):
        backend.store.claim([Demand("q", 10)])
    [job] = backend.store.claim([Demand("q", 10)]).jobs
    assert (job.payload, job.retries, job.crashes) == ({"first": True}, 0, 0)
    assert backend.store.settle([done(job)]) == set()


# ------------------------------------------------------------------------------------------ what scripts take


class Sent:
    """Notes what scripts are sent: the name of each, and its arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, list[Any]]] = []
        plain = RedisConnection.exchange_once

        def exchange(connection: RedisConnection, commands: Any, near: Any) -> Any:
            for command in commands:
                if command[0] in {"EVALSHA", "EVALSHA_RO"}:
                    self.calls.append((name_of(connection, command), list(command[3 + command[2] :])))
            return plain(connection, commands, near)

        monkeypatch.setattr(RedisConnection, "exchange_once", exchange)

    def of(self, *names: str) -> list[list[Any]]:
        found = [arguments for name, arguments in self.calls if name in names]
        self.calls = [(name, arguments) for name, arguments in self.calls if name not in names]
        return found


@pytest.fixture
def sent(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> Sent:
    assert backend.queues() == []
    return Sent(monkeypatch)


def test_no_script_takes_many_jobs(backend: RedisBackend, sent: Sent) -> None:
    """However many jobs are added, claimed, extended, settled or looked at, no script takes more than 50."""
    jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(1200)])
    calls = sent.of("add_new")
    assert (len(calls), max(call[4] for call in calls)) == (24, 50)
    assert max(len(call) - 5 for call in sent.of("gate")) <= 50
    backend.enqueue_many([Job("q", {"n": n}, on_duplicate="replace") for n in range(600)])
    assert {(len(call) - 15) // 7 for call in sent.of("add")} == {50}
    claimed = backend.store.claim([Demand("q", 1000)]).jobs
    assert (len(claimed), max(call[0] for call in sent.of("claim"))) == (1000, 50)
    backend.store.extend([lease_of(job) for job in claimed])
    assert max((len(call) - 1) // 3 for call in sent.of("extend")) == 50
    again = [Outcome(lease_of(job), Status.RETRYING, run_after=time.time() + 60) for job in claimed[:500]]
    backend.store.settle([*again, *map(done, claimed[500:])])
    assert max((len(call) - 4) // 4 for call in sent.of("settle")) == 50
    backend.store.settle([done(job) for job in claimed[500:]])
    assert max(call[2] for call in sent.of("finish")) == 50
    assert len(backend.store.of_ids([id_of(job) for job in jobs])) == 1200
    assert max(map(len, sent.of("look"))) == 50
    backend.store.change(map(id_of, jobs), "delete")
    assert max(len(call) - 4 for call in sent.of("change")) == 50


def test_no_script_takes_many_bytes(backend: RedisBackend, sent: Sent) -> None:
    """Large payloads and results are spread over scripts, and none goes through one that only reads."""
    text = "x" * 100_000
    backend.enqueue_many([Job("q", {"n": n, "x": text}) for n in range(20)])
    assert max(sum(map(_size, call)) for call in sent.of("add_new")) < 300_000
    claimed = backend.store.claim([Demand("q", 20)]).jobs
    assert [job.payload["n"] for job in claimed] == list(range(20))
    backend.store.settle([done(job, result=json.dumps(text).encode()) for job in claimed])
    assert max(sum(map(_size, call)) for call in sent.of("finish")) < 300_000
    found = backend.jobs()
    assert [(job.payload["n"], job.result) for job in found] == [(n, text) for n in reversed(range(20))]


def _size(argument: Any) -> int:
    return len(argument) if isinstance(argument, (bytes, str)) else 8


@pytest.mark.parametrize("problem", ["taken", "full"])
def test_several_scripts_are_all_or_none(backend: RedisBackend, problem: str) -> None:
    """Of 500 jobs that take several scripts none is added where the last one may not be."""
    batch = [Job("q", {"n": n}, on_duplicate="raise") for n in range(500)]
    if problem == "taken":
        holder = backend.enqueue("q", {"n": 499})
        with pytest.raises(neoq.DuplicateJobError) as caught:
            backend.enqueue_many(batch)
        assert caught.value.job is not None
        assert caught.value.job.id == holder.id
    else:
        backend.listen("q", lambda _job: None, capacity=500)
        backend.engine.config = backend.store.config = dataclasses.replace(backend.config, enqueue_timeout=0)
        backend.enqueue("q", {"n": -1})
        with pytest.raises(neoq.QueueFullError):
            backend.enqueue_many(batch)
    assert len(backend.jobs()) == 1


def test_nobody_comes_between_several_scripts(
    backend: RedisBackend, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch whose fingerprints another producer takes, just before it is added, doubles no job."""
    backend.enqueue("q", {"n": -1})
    exchange = RedisConnection.exchange_once
    with RedisBackend(redis_url, prefix=backend.config.prefix, autostart=False) as other:

        def late(connection: RedisConnection, commands: Any, near: Any) -> Any:
            if len(commands) > 2:
                monkeypatch.setattr(RedisConnection, "exchange_once", exchange)
                other.enqueue_many([Job("q", {"n": n}) for n in range(100, 200)])
            return exchange(connection, commands, near)

        monkeypatch.setattr(RedisConnection, "exchange_once", late)
        jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(300)])
    assert [job.payload["n"] for job in jobs if job.duplicate] == list(range(100, 200))
    assert [job.payload["n"] for job in jobs] == list(range(300))
    assert len(backend.jobs(limit=1000)) == 301


# --------------------------------------------------------------------------------------------------- clusters


@pytest.mark.parametrize("size", [1, 3])
def test_a_cluster(size: int) -> None:
    """All of it works where keys of different queues may not meet: in a cluster of one node or of several."""
    with running_cluster(size, *AOF) as nodes:
        ran: Counter[str] = Counter()
        with neoq.connect(cluster_url(nodes), heartbeat=0.2, lease=5.0) as backend:
            for queue in ("a", "b", "c"):
                backend.listen(queue, lambda job: ran.update([job.queue]), max_retries=0)
            last = [backend.enqueue(queue, {"last": True}, run_after=0.2) for queue in ("a", "b", "c")]
            backend.enqueue_many([Job("abc"[n % 3], {"n": n}) for n in range(900)])
            for job in last:
                assert backend.wait(id_of(job), PATIENCE).status is Status.SUCCEEDED
            assert backend.drain(PATIENCE)
            assert ran == dict.fromkeys("abc", 301)
            backend.pause("c")
            waiting = backend.enqueue("c", {"paused": True})
            assert backend.cancel(id_of(waiting))
            assert {counts.queue: counts.cancelled for counts in backend.queues()} == {"a": 0, "b": 0, "c": 1}
            assert len(backend.jobs(limit=2000)) == 904
            eventually(
                lambda: [worker.queues for worker in backend.workers()] == [("a", "b", "c")], "it is known"
            )
            backend.prune()
        with cluster_client(nodes) as client:
            check_ledger(client, "neoq")
            where = {client.get_node_from_key(f"{{neoq:{queue}}}:jobs").port for queue in ("a", "b", "c")}
        assert len(where) == size  # each has a queue of its own


def test_a_failover(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """When a sentinel makes the replica the master, jobs that it had are run, and new ones are taken."""
    caplog.set_level(logging.ERROR)
    with watched_servers(tmp_path, *AOF) as servers:
        with neoq.connect(servers.url, heartbeat=0.5, wait_replicas=1) as backend:
            backend.listen("q", lambda job: job.payload["n"])
            kept = backend.enqueue("q", {"n": 1}, run_after=3.0)
            done = backend.enqueue("q", {"n": 0})
            assert backend.wait(id_of(done), PATIENCE).result == 0
            servers.fail_over()
            with neoq.connect(servers.url, autostart=False) as producer:
                eventually(lambda: _enqueues(producer), "the replica takes jobs")
            assert backend.wait(id_of(kept), PATIENCE).result == 1
        check_ledger(servers.master().client(), "neoq")


def _enqueues(backend: neoq.Backend) -> bool:
    try:
        return bool(backend.enqueue("q", {"n": 2}).id)
    except neoq.BackendUnavailable:
        return False


# --------------------------------------------------------------------------------------------- many and large


def test_a_large_payload(backend: RedisBackend, client: redis.Redis) -> None:
    """A payload of 1 MiB comes back whole, and scripts do not carry it about."""
    text = "x" * (2**20 - 20)
    job = backend.enqueue("q", {"text": text})
    [found] = backend.store.claim([Demand("q", 1)]).jobs
    assert (found.payload, backend.get(id_of(job)).payload) == ({"text": text}, {"text": text})  # type: ignore[union-attr]
    record = client.hgetall(f"{{{backend.config.prefix}:q}}:jobs").popitem()[1]
    assert len(record) < 200
    backend.store.settle([done(found)])
    assert backend.delete(id_of(job))
    check_ledger(client, backend.config.prefix)


def test_many_jobs_of_one_fingerprint(backend: RedisBackend) -> None:
    """10,000 jobs that share a fingerprint are one job."""
    jobs = backend.enqueue_many([Job("q", {"n": n}, fingerprint="one") for n in range(10_000)])
    assert {job.id for job in jobs} == {jobs[0].id}
    assert sum(not job.duplicate for job in jobs) == 1


def test_very_many_running_jobs(backend: RedisBackend, client: redis.Redis) -> None:
    """However many jobs run, each is found with who runs it, and its worker is told when it is cancelled."""
    backend.enqueue_many([Job("q", {"n": n}) for n in range(6000)])
    jobs = [job for _ in range(6) for job in backend.store.claim([Demand("q", 1000)]).jobs]
    told = client.pubsub()
    told.psubscribe(f"{backend.config.prefix}:wake:*")
    assert told.get_message(timeout=PATIENCE)["type"] == "psubscribe"  # type: ignore[index]
    for job in (jobs[0], jobs[-1]):
        found = backend.get(id_of(job))
        assert found is not None
        assert (found.status, found.worker) == (Status.RUNNING, backend.store.context.worker_id)
        backend.cancel(id_of(job))
        message: Any = told.get_message(timeout=PATIENCE)
        while message["channel"].endswith(b":wake:changes"):  # for those who wait for a job
            message = told.get_message(timeout=PATIENCE)
        assert message["channel"].decode().endswith(f":wake:{found.worker}")
        assert message["data"] == b""
    told.close()
    assert backend.store.extend([lease_of(job) for job in jobs[-50:]]).cancelled == {jobs[-1].id}


def test_a_job_that_ends_as_it_is_looked_at(backend: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose lease is gone by the time it is looked for is looked at again: it has succeeded."""
    backend.enqueue("q")
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    plain = Finder.leases_of

    def late(*arguments: Any) -> Any:
        settling = threading.Thread(target=lambda: backend.store.settle([done(job)]))
        settling.start()
        settling.join()
        return plain(*arguments)

    monkeypatch.setattr(Finder, "leases_of", late)
    found = backend.get(id_of(job))
    assert found is not None
    assert found.status is Status.SUCCEEDED


def test_a_claim_that_is_not_remembered(
    backend: RedisBackend, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a job frees its fingerprint and keeps its past, also where its claim is not remembered."""
    backend.enqueue("q", max_retries=9)
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    again = Outcome(lease_of(job), Status.RETRYING, run_after=time.time() - 1, charged=True)
    assert backend.store.settle([again]) == set()
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    known = Leased.known

    def forgetful(leased: Leased, queue: str, outcomes: Any) -> Any:
        leased.of_queue(queue).clear()
        return known(leased, queue, outcomes)

    monkeypatch.setattr(Leased, "known", forgetful)
    assert backend.store.settle([done(job)]) == set()
    found = backend.get(id_of(job))
    assert found is not None
    assert (found.status, found.retries) == (Status.SUCCEEDED, 1)
    assert not backend.enqueue("q", max_retries=9).duplicate
    check_ledger(client, backend.config.prefix)


def test_a_producer_that_looks_for_room_as_all_is_closed(
    backend: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that looks for room just as the connections are closed is told of the shutdown."""
    backend.engine.config = backend.store.config = dataclasses.replace(
        backend.config, enqueue_timeout=None, queue_capacity=1
    )
    backend.enqueue("q")
    plain = Adder.add

    def late(*arguments: Any) -> Any:
        Background(backend.store.close_store).result()
        return plain(*arguments)

    monkeypatch.setattr(Adder, "add", late)
    with pytest.raises(neoq.BackendClosedError):
        backend.enqueue("q", {"n": 1})


def test_a_settle_of_an_older_claim(backend: RedisBackend, client: redis.Redis) -> None:
    """The outcome of a lease that was lost frees nothing that the job's new lease holds."""
    backend.enqueue("q")
    [old] = backend.store.claim([Demand("q", 1)]).jobs
    stale = done(old)
    backend.store.settle([Outcome(lease_of(old), Status.PENDING, run_after=time.time() - 1)])
    [new] = backend.store.claim([Demand("q", 1)]).jobs
    assert backend.store.settle([stale]) == {old.id}
    assert backend.enqueue("q").duplicate
    assert backend.store.settle([done(new)]) == set()
    assert not backend.enqueue("q").duplicate
    check_ledger(client, backend.config.prefix)


def test_a_duplicate_that_waits_for_a_retry(backend: RedisBackend) -> None:
    """A plain enqueue that meets a failed job brings it forward, and returns it."""
    job = backend.enqueue("q", {"n": 1})
    [claimed] = backend.store.claim([Demand("q", 1)]).jobs
    later = Outcome(lease_of(claimed), Status.RETRYING, run_after=time.time() + 3600, charged=True)
    backend.store.settle([later])
    met = backend.enqueue("q", {"n": 1})
    assert (met.id, met.duplicate, met.retries) == (job.id, True, 1)
    assert [found.id for found in backend.store.claim([Demand("q", 1)]).jobs] == [job.id]


@pytest.mark.parametrize("name", [0, -1, 1, 2**53, 2**64 + 1, 2**200])
def test_ids_that_no_job_has(backend: RedisBackend, name: int) -> None:
    """Ids of any size can be asked for, also such as a double cannot hold, and are told apart."""
    job = backend.enqueue("q")
    assert (backend.get(name), backend.cancel(name), backend.delete(name)) == (None, False, False)
    assert backend.get(id_of(job) + 2048) is None  # the next one of this queue
    assert [found.id for found in backend.jobs(after=2**200)] == [job.id]


def test_many_queues(backend: RedisBackend) -> None:
    """500 queues are told apart, and their jobs found by id."""
    jobs = backend.enqueue_many([Job(f"queue {n}", {"n": n}) for n in range(500)])
    assert len({job.id for job in jobs}) == 500
    assert [backend.get(id_of(jobs[n])).payload for n in (0, 250, 499)] == [{"n": 0}, {"n": 250}, {"n": 499}]  # type: ignore[union-attr]
    claimed = backend.store.claim([Demand(f"queue {n}", 1) for n in range(500)]).jobs
    assert sorted(job.payload["n"] for job in claimed) == list(range(500))


def test_strange_names(backend: RedisBackend, client: redis.Redis) -> None:
    """Names that look like parts of keys are names like others."""
    names = ("}", "{", "a}b", "q}:jobs", "%d", ":", "\N{SNOWMAN}")
    for name in names:
        backend.enqueue(name, {"n": name})
    claimed = backend.store.claim([Demand(name, 5) for name in names]).jobs
    assert [(job.queue, job.payload["n"]) for job in claimed] == [(name, name) for name in names]
    assert backend.store.settle([succeeded_now(job) for job in claimed]) == set()
    check_ledger(client, backend.config.prefix)


def succeeded_now(job: Job) -> Outcome:
    job.started = job.finished_on = time.time()
    return succeeded(job)


def test_batches_leave_nothing_behind(backend: RedisBackend, client: redis.Redis) -> None:
    """When all jobs of a batch are forgotten, prune forgets the batch."""
    jobs = backend.enqueue_many([Job("q", {"n": n}) for n in range(10)])
    for job in jobs[1:]:
        backend.delete(id_of(job))
    backend.prune()
    assert client.zcard(f"{{{backend.config.prefix}:q}}:ids") == 1
    backend.delete(id_of(jobs[0]))
    backend.prune()
    assert client.zcard(f"{{{backend.config.prefix}:q}}:ids") == 0
    assert backend.jobs() == []


def test_a_job_that_is_nowhere(
    backend: RedisBackend,
    client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job that somebody's hand took out of the lists is found by the sweep, and told of."""
    job = backend.enqueue("q")
    client.delete(f"{{{backend.config.prefix}:q}}:ready")
    assert backend.store.claim([Demand("q", 1)]).jobs == []
    monkeypatch.setattr("neoq.redis.reclaim.SWEEP_EVERY", 0.0)
    backend.store.reclaim()
    assert [found.id for found in backend.store.claim([Demand("q", 1)]).jobs] == [job.id]
    assert str(job.id) in caplog.text


def test_a_producer_whose_clock_is_behind(
    backend: RedisBackend, client: redis.Redis, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of a producer whose clock lags are numbered after those that were there, large ones too."""
    first = backend.enqueue("q", {"n": 0})
    large = {"x": "x" * 5000}
    with RedisBackend(redis_url, prefix=backend.config.prefix, autostart=False) as producer:
        producer.queues()
        slow = SimpleNamespace(time=lambda: time.time() - 3600)
        with monkeypatch.context() as patch:
            patch.setattr("neoq.redis.queues.machine", slow)
            later = producer.enqueue_many(
                [Job("q", {"n": 1}), Job("q", large), Job("q", {"n": 2}, run_after=7200, priority=5)]
            )
    ids = [id_of(job) for job in (first, *later)]
    assert ids == sorted(set(ids))
    assert [job.payload for job in backend.jobs()][::-1] == [{"n": 0}, {"n": 1}, large, {"n": 2}]
    assert [job.payload for job in backend.store.claim([Demand("q", 9)]).jobs] == [{"n": 0}, {"n": 1}, large]
    check_ledger(client, backend.config.prefix)


def test_a_span_counts_by_the_clock_of_the_server(
    redis_url: str, redis_prefix: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs of a producer whose clock is an hour fast run, and die, as soon as those of others."""

    class Fast(SystemClock):
        def time(self) -> float:
            return time.time() + 3600

    url = f"{redis_url}?prefix={redis_prefix()}"
    with neoq.connect(url) as worker, neoq.connect(url, autostart=False) as producer:
        producer.clock = Fast()
        monkeypatch.setattr("neoq.redis.queues.machine", SimpleNamespace(time=Fast().time))
        for module in ("store", "claim"):
            ahead = SimpleNamespace(time=Fast().time, monotonic=time.monotonic)
            monkeypatch.setattr(f"neoq.redis.{module}.machine", ahead)
        soon = producer.enqueue("q", {"n": 0}, run_after=0.1)
        late = producer.enqueue("q", {"n": 1}, run_after=0.2, deadline=0.1)
        monkeypatch.undo()
        worker.listen("q", lambda job: job.payload["n"])
        assert worker.wait(id_of(soon), timeout=30).result == 0
        assert worker.wait(id_of(late), timeout=30).status is Status.DEAD


def test_an_idle_worker_asks_little(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """While nothing happens a worker sends less than two commands a second, those in scripts included.

    What it does at times (heartbeats, looks) it does here five times as often.
    """
    with (
        running_server(*AOF) as server,
        neoq.connect(server.url, heartbeat=1.0, job_check_interval=0.2) as worker,
    ):
        worker.listen("q", lambda _job: None)
        client = server.client()
        assert worker.wait(id_of(worker.enqueue("q")), PATIENCE)
        before = client.info("stats")["total_commands_processed"]
        time.sleep(2.4)
        asked = client.info("stats")["total_commands_processed"] - before - 1
    assert asked < 2 * 5 * 2.4


def test_what_scripts_say_of_themselves() -> None:
    """Every script's header tells its keys, arguments, result and complexity."""
    folder = Path(neoq.__file__).parent / "redis" / "lua"
    scripts = [
        path
        for path in folder.glob("*.lua")
        if path.name not in {"job.lua", "step.lua", "line.lua", "group.lua"}
    ]
    assert len(scripts) > 10
    for path in scripts:
        header = path.read_text().partition("\n\n")[0]
        for word in ("-- keys: ", "-- arguments: ", "-- result: ", "-- complexity: "):
            assert word in header, f"{path.name} does not say its {word}"


def test_a_script_takes_its_arguments_by_name() -> None:
    """A script puts named arguments into its own order, and refuses missing and unknown ones."""
    beat = Script("beat", drains=False)
    assert beat.arguments(report=b"fine", worker="w") == ["w", b"fine"]
    with pytest.raises(TypeError, match=r"beat\.lua takes worker, report"):
        beat.arguments(worker="w")
    with pytest.raises(KeyError, match="report"):
        beat.arguments(worker="w", said=b"fine")


def test_retries_survive_the_json_of_lua(backend: RedisBackend) -> None:
    """Times and ids keep every digit through the server."""
    job = prepared("q", {"n": 2**63}, run_after=-1.123456)
    [added] = backend.store.add([job], token=b"") if backend.queues() is not None else []
    [claimed] = backend.store.claim([Demand("q", 1)]).jobs
    again = time.time() + 3600.123456
    backend.store.settle([Outcome(lease_of(claimed), Status.RETRYING, run_after=again, charged=True)])
    found = backend.get(id_of(added))
    assert found is not None
    assert (found.due, found.payload) == (again, {"n": 2**63})
    assert json.dumps(found.payload) == json.dumps({"n": 2**63})


def test_a_shutdown_waits_for_outcomes(redis_url: str, redis_prefix: Callable[[], str]) -> None:
    """Outcomes that a slow server takes a while for are recorded in the time that shutdown has."""
    backend = RedisBackend(redis_url, prefix=redis_prefix())
    with Faults(backend).paused("settle") as settling:
        backend.listen("q", lambda _job: None)
        job = backend.enqueue("q")
        settling.wait()
        shutdown = Background(lambda: backend.shutdown(timeout=PATIENCE))
        time.sleep(1.2 * CLOSING_GRACE)  # longer than a shutdown waits where nothing is to be recorded
    report = shutdown.result()
    assert ([done.id for done in report.finished], report.lost) == ([job.id], [])
