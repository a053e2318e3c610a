"""The Flask extension under real servers: gunicorn, Flask's reloader, many threads, failing requests."""

from __future__ import annotations

import collections
import os
import shutil
import signal
import sys
import threading
import time
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import neoq
from tests.processes import PROGRAMS, Child, running
from tests.web_servers import alive, answers, both_workers_serve, get, gunicorn, port_of, until

pytest.importorskip("flask")
APP = "flask_app:create_app()"
both = pytest.mark.parametrize("options", [["--preload"], []], ids=["preload", "plain"])


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the application notes each job that it ran."""
    path = tmp_path / "jobs.log"
    path.touch()
    return path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/jobs.db"


def names(log: Path) -> list[str]:
    return [line.split()[0] for line in log.read_text().splitlines() if not line.startswith("tick")]


def waiting(url: str) -> list[str]:
    """The names of the jobs that wait in a durable store."""
    with neoq.connect(url, autostart=False) as backend:
        return [job.payload["name"] for job in backend.jobs("work", limit=5000)]


class Load:
    """Clients that post without pause until they are told to stop; `accepted` are the jobs promised."""

    def __init__(self, port: int, path: str = "/later/{}/0.0", clients: int = 4) -> None:
        self.accepted: collections.deque[str] = collections.deque()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._post, args=(port, path, f"client{n}-")) for n in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _post(self, port: int, path: str, client: str) -> None:
        sent = 0
        while not self._stopped.is_set():
            sent += 1
            if answers(port, path.format(f"{client}{sent}")) is not None:
                self.accepted.append(f"{client}{sent}")

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def load(port: int, child: Child) -> Iterator[Load]:
    """Post until the block ends, and at least until a hundred more jobs were accepted after it."""
    posting = Load(port)
    try:
        until(lambda: len(posting.accepted) > 50, "the load runs", child)
        yield posting
        had = len(posting.accepted)
        until(lambda: len(posting.accepted) > had + 50, "the load runs on", child)
    finally:
        posting.stop()


@pytest.mark.parametrize("use", ["unused", "used"])
@both
def test_each_worker_of_gunicorn_runs_its_jobs_in_memory(log: Path, options: list[str], use: str) -> None:
    """With two workers, forked before or after the import, each job runs once where it was asked for."""
    env = {"USE_BEFORE_FORK": "1"} if use == "used" else {}
    with gunicorn(log, "--workers", "2", *options, app=APP, env=env) as (child, port):
        both_workers_serve(child, port)
        child.signal(signal.SIGTERM)
        assert child.exit_code() == 0
        assert "Traceback" not in child.errors
    ran = [name for name in names(log) if name != "at-import"]
    assert len(ran) == len(set(ran))
    assert ("at-import" in names(log)) is (use == "used")


@both
def test_sighup_under_load_loses_nothing_in_memory(log: Path, options: list[str]) -> None:
    """The workers that SIGHUP replaces run the jobs that they accepted; each runs once."""
    with gunicorn(log, "--workers", "2", "--threads", "4", *options, app=APP) as (child, port):
        first = get(port, "/run/first")["pid"]
        with load(port, child) as posted:
            child.signal(signal.SIGHUP)
            until(lambda: not alive(first), "a worker is replaced", child)
        child.signal(signal.SIGTERM)
        assert child.exit_code() == 0
        times = collections.Counter(names(log))
        assert not set(posted.accepted) - set(times)
        assert set(times.values()) == {1}


@both
def test_workers_that_are_killed_under_load_lose_no_job(log: Path, url: str, options: list[str]) -> None:
    """On a durable store each job that was answered for is there once, whatever becomes of the worker."""
    env = {"SHOP_URL": url}
    with durable(log, "--workers", "2", "--threads", "4", *options, env=env) as (child, port):
        first = get(port, "/later/first/0.0")["pid"]
        with load(port, child) as posted:
            os.kill(first, signal.SIGKILL)
            until(lambda: not alive(first), "the worker is gone", child)
            child.signal(signal.SIGHUP)
        child.signal(signal.SIGTERM)
        assert child.exit_code() == 0
    there = collections.Counter(waiting(url))
    assert not set(posted.accepted) - set(there)
    assert set(there.values()) == {1}
    assert names(log) == []  # a web process only enqueues


@contextmanager
def durable(log: Path, *options: str, env: dict[str, str]) -> Iterator[tuple[Child, int]]:
    """Run gunicorn where no job runs, so the first request cannot wait for one."""
    with gunicorn(log, *options, app=APP, env=env, ready="/later/hello/0.0") as (child, port):
        yield child, port


def test_fifty_threads_enqueue_through_one_application(log: Path, url: str) -> None:
    """Fifty threads of one process enqueue at once; each answer is a job of its own."""
    with durable(log, "--threads", "50", env={"SHOP_URL": url}) as (_child, port):

        def post(client: int) -> list[int]:
            return [get(port, f"/later/client{client}-{n}/0.0")["id"] for n in range(10)]

        with ThreadPoolExecutor(50) as clients:
            ids = [one for some in clients.map(post, range(50)) for one in some]
    assert len(set(ids)) == 500
    assert set(waiting(url)) >= {f"client{client}-{n}" for client in range(50) for n in range(10)}


def test_a_request_that_raises_has_enqueued(log: Path, url: str) -> None:
    """A job outlives the failure of its request, unless its transaction is rolled back; the next works."""
    with durable(log, env={"SHOP_URL": url}) as (_child, port):
        for path in ("/fails/kept", "/fails-in-transaction/dropped"):
            with pytest.raises(urllib.error.HTTPError) as failure:
                get(port, path)
            assert failure.value.code == 500
            failure.value.close()
        get(port, "/later/next/0.0")
    there = waiting(url)
    assert "kept" in there
    assert "next" in there
    assert "dropped" not in there


def test_flask_run_runs_jobs_once_in_one_process(log: Path, tmp_path: Path) -> None:
    """With the reloader jobs and ticks run where requests are served, before and after a change of code."""
    application = tmp_path / "flask_app.py"
    shutil.copy(PROGRAMS / "flask_app.py", application)
    command = [sys.executable, "-m", "flask", "--app", str(application), "run", "--debug", "--port", "0"]
    with running(command, env={"JOBS_LOG": str(log), "USE_BEFORE_FORK": "1"}) as child:
        port = until(lambda: port_of(child), "it says its port", child)
        first = until(lambda: answers(port, "/run/first"), "it answers", child)
        assert first["ran"] == {"pid": first["pid"], "version": 1}
        until(lambda: "tick" in log.read_text(), "a tick has run", child)
        assert pids(log) == {first["pid"]}
        application.write_text(application.read_text().replace("VERSION = 1", "VERSION = 2"))

        def reloaded() -> dict[str, Any] | None:
            found = answers(port, f"/run/second-{time.monotonic_ns()}")
            return found if found is not None and found["ran"]["version"] == 2 else None

        second = until(reloaded, "the new version answers", child)
        assert pids(log) == {first["pid"], second["pid"]}
        assert names(log).count("first") == 1
        child.signal(signal.SIGINT)
        child.exit_code()


def pids(log: Path) -> set[int]:
    return {int(line.split()[1]) for line in log.read_text().splitlines()}
