"""What a user of a Redis server must be allowed."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import neoq
from neoq.errors import BackendError
from tests.servers import RedisServer, cluster_url, running_cluster, running_server

DUE = datetime.now(UTC) + timedelta(hours=1)
PAGE = Path(__file__).parent.parent / "docs" / "redis.md"


def documented() -> dict[str, str]:
    """The rights of each user of the page."""
    rights = dict(re.findall(r"^ACL SETUSER (\w+) on >password (.*)$", PAGE.read_text("utf-8"), re.MULTILINE))
    assert set(rights) == {"producer", "worker", "reader"}
    return rights


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that has the users of the page, and each of them without INFO."""
    rights = documented()
    with running_server("--appendonly", "yes") as server:
        with server.client() as admin:
            for name, has in rights.items():
                admin.execute_command("ACL", "SETUSER", name, "on", ">password", *has.split())
                admin.execute_command("ACL", "SETUSER", f"{name}2", "on", ">password", *has.split(), "-info")
        yield server


def url_of(server: RedisServer, user: str) -> str:
    return f"redis://{user}:password@127.0.0.1:{server.port}/0"


@pytest.mark.parametrize("more", ["2", ""], ids=["without INFO", "as documented"])
def test_users_with_few_rights(server: RedisServer, more: str) -> None:
    """With the rights of the page a producer enqueues, a worker runs and calls, and a reader looks."""
    with (
        neoq.connect(url_of(server, f"producer{more}")) as producer,
        neoq.connect(url_of(server, f"worker{more}")) as worker,
        neoq.connect(url_of(server, f"reader{more}")) as reader,
    ):
        waiting = producer.enqueue("later", {"n": more}, run_after=DUE)
        jobs = producer.enqueue_many([neoq.Job("q", {"n": n, "more": more}) for n in range(3)])
        assert reader.jobs("q")[0].id == jobs[2].id
        worker.listen("q", lambda job: 7)
        worker.start()
        for job in jobs:
            assert job.id is not None
            assert reader.wait(job.id, timeout=20).result == 7
        assert waiting.id is not None
        found = reader.get(waiting.id)
        assert found is not None
        assert found.payload == {"n": more}
        assert {stats.queue for stats in reader.queues()} == {"later", "q"}
        assert reader.stats().succeeded >= 3
        assert [one.queues for one in reader.workers()] == [("q",)]
        with pytest.raises(
            BackendError, match=r"does not let our user do this.*evalsha.*rights of a producer"
        ):
            reader.enqueue("q", {"of": "reader"})
        with pytest.raises(BackendError, match=r"does not let our user do this"):
            reader.cancel(waiting.id)
        assert producer.cancel(waiting.id)


def test_a_reader_of_a_replica(server: RedisServer) -> None:
    """A backend on a replica shows jobs, and says of an enqueue that this server takes none."""
    pause = threading.Event()
    with neoq.connect(server.url, prefix="copied") as primary:
        job = primary.enqueue("q", {"n": 1})
        assert job.id is not None
        options = ("--replicaof", f"127.0.0.1 {server.port}", "--appendonly", "yes")
        with running_server(*options) as replica, replica.client() as client:
            for _ in range(2000):  # until it has copied what the other has
                if client.exists("{copied:q}:jobs"):
                    break
                pause.wait(0.01)
            with neoq.connect(replica.url, prefix="copied") as reader:
                assert reader.get(job.id) is not None
                assert [one.id for one in reader.jobs()] == [job.id]
                assert [stats.ready for stats in reader.queues()] == [1]
                assert reader.stats().ready == 1
                assert reader.workers() == []
                with pytest.raises(BackendError, match=r"it is a replica, so connect to its primary"):
                    reader.enqueue("q", {"n": 2})


def test_users_with_few_rights_in_a_cluster() -> None:
    """With the rights of the page and those that it names for clusters, all three users do their part."""
    [more] = re.findall(r"The users of a cluster also need `(.*?)`", PAGE.read_text("utf-8"))
    with running_cluster(2, "--appendonly", "yes") as nodes:
        for node in nodes:
            with node.client() as admin:
                for name, has in documented().items():
                    rights = (*has.split(), *more.split())
                    admin.execute_command("ACL", "SETUSER", name, "on", ">password", *rights)
        where = cluster_url(nodes).partition("//")[2]
        producer, worker, reader = (
            neoq.connect(f"redis+cluster://{name}:password@{where}")
            for name in ("producer", "worker", "reader")
        )
        with producer, worker, reader:
            waiting = [producer.enqueue(queue, {"n": 1}, run_after=DUE) for queue in "abc"]
            job = producer.enqueue("q", {"n": 2})
            worker.listen("q", lambda job: 7)
            worker.start()
            assert reader.wait(job.id, timeout=20).result == 7
            assert {one.id for one in reader.jobs()} == {job.id, *(one.id for one in waiting)}
            assert (reader.stats().scheduled, reader.stats().succeeded) == (3, 1)
            assert [one.queues for one in reader.workers()] == [("q",)]
            with pytest.raises(BackendError, match=r"does not let our user do this"):
                reader.cancel(waiting[0].id)
            assert producer.cancel(waiting[0].id)


def test_a_server_without_scripts_that_only_look() -> None:
    """An older server, which knows no EVALSHA_RO, shows jobs all the same, its scripts lost or not."""
    without = [part for name in ("EVALSHA_RO", "EVAL_RO") for part in ("--rename-command", name, "")]
    with (
        running_server(*without) as server,
        neoq.connect(server.url) as backend,
        server.client() as admin,
    ):
        job = backend.enqueue("q", {"n": 1})
        admin.script_flush()
        assert [stats.ready for stats in backend.queues()] == [1]
        assert [one.id for one in backend.jobs()] == [job.id]


def test_a_user_who_may_run_scripts_one_way_only(server: RedisServer) -> None:
    """A user whom somebody allowed EVALSHA by name, and not EVALSHA_RO, looks at jobs."""
    rights = "~{neoq}:* ~{neoq:* -@all +@read +@connection +eval +evalsha +time -@dangerous"
    with server.client() as admin, neoq.connect(server.url) as backend:
        admin.execute_command("ACL", "SETUSER", "old", "on", ">password", *rights.split())
        job = backend.enqueue("old")
        with neoq.connect(url_of(server, "old")) as reader:
            assert [one.id for one in reader.jobs("old")] == [job.id]
            assert "old" in {stats.queue for stats in reader.queues()}


def test_the_configuration_of_the_page(caplog: pytest.LogCaptureFixture) -> None:
    """A server with the page's redis.conf brings no warning, and the page's pattern finds every key."""
    page = PAGE.read_text("utf-8")
    (lines,) = re.findall(r"```text\n(appendonly yes\n.*?)```", page, re.DOTALL)
    (pattern,) = re.findall(r"--scan --pattern '(.*?)'", page)
    arguments = [part for line in lines.splitlines() for part in ("--" + line).split()]
    with running_server(*arguments) as server, server.client() as client:
        client.set("neoq", "of somebody else")
        client.set("{neoqa}:jobs", "of somebody else")
        with neoq.connect(f"redis://127.0.0.1:{server.port}/0") as backend:
            backend.listen("q", lambda job: None)
            assert backend.wait(backend.enqueue("q").id, timeout=20).finished
        assert not caplog.records
        found = set(client.scan_iter(match=pattern, count=1000))
        assert found == set(client.keys()) - {b"neoq", b"{neoqa}:jobs"}
        assert len(found) > 3
