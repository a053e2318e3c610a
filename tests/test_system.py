"""Every store works where the system has less than Linux: as on Windows, which is tried by taking it away."""

from __future__ import annotations

import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neoq import BackendUnavailable, SqliteBackend, system
from neoq.sqlite.alive import Sign
from neoq.sqlite.locks import locks_for
from neoq.store import Demand
from neoq.testing.cases.suite import PATIENCE, eventually
from tests.processes import Child, running

pytestmark = pytest.mark.usefixtures("autostart")

# The drivers bring asyncio, which believes to be on Linux, as they do: so they come first, and keep a little.
POORER = """
import asyncio, concurrent.futures, importlib, multiprocessing, os, select, signal, sqlite3, subprocess, sys
for driver in ("psycopg", "redis", "filelock"):
    importlib.import_module(driver)
for module in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[module] = None
for place, names in (
    (os, "chown fork get_blocking getegid geteuid getgid mkfifo mknod register_at_fork sched_getaffinity"
         " sysconf uname"),
    (os, "" if "sqlite" in sys.argv[1] else "O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK fchmod getuid"),
    (select, "" if sys.argv[1].startswith("redis") else "poll epoll"),
    (signal, "SIGALRM SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2 alarm pthread_kill"
             " pthread_sigmask setitimer sigwait"),
):
    for name in names.split():
        delattr(place, name)

import neoq
"""
RUNS = """
with neoq.connect(sys.argv[1]) as backend:
    backend.listen("poorer", lambda job: job.payload["n"] + 1)
    job = backend.enqueue("poorer", {"n": 1})
    print("ran", backend.wait(job.id, 20).result, len(backend.workers()))
"""


@pytest.mark.parametrize("store", ["memory", "sqlite", "postgres", "redis"])
def test_jobs_run_where_the_system_has_less(store: str, path: Path, request: pytest.FixtureRequest) -> None:
    """A program of each store starts, runs a job and ends without what Windows does not have."""
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{path}"}
    url = urls.get(store) or request.getfixturevalue(f"{store}_url")
    with running([sys.executable, "-c", POORER + RUNS, url]) as child:
        assert child.ends_well() == ["ran 2 1"]
        assert "Error" not in child.errors


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


def test_waiting_to_read_without_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without poll() it is select() that waits, and both say whether there is something to read."""
    one, other = socket.socketpair()
    with one, other:
        for _ in ("poll", "select"):
            assert not system.wait_to_read([one.fileno()], 0)
            other.send(b"!")
            assert system.wait_to_read([one.fileno()], PATIENCE)
            one.recv(1)
            monkeypatch.delattr(select, "poll", raising=False)


# -- locks by the library filelock, which here rests on flock as elsewhere on what Windows has ------------

WORKER = """
import sys, time, neoq, neoq.sqlite.alive
neoq.sqlite.alive.fcntl = None
backend = neoq.SqliteBackend(sys.argv[1], heartbeat=0.2)
def work(job):
    print("running", flush=True)
    time.sleep(60)
backend.listen("q", work, concurrency=1)
backend.run()
"""


@pytest.fixture
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("filelock")
    monkeypatch.setattr("neoq.sqlite.alive.fcntl", None)


@contextmanager
def another_worker(backend: SqliteBackend) -> Iterator[Child]:
    """A process that has a job of a backend in its hands."""
    backend.enqueue("q")
    with running([sys.executable, "-c", WORKER, backend.config.path]) as child:
        child.until("running")
        yield child


@pytest.mark.usefixtures("portable")
def test_a_worker_that_lives_is_left_alone(path: Path) -> None:
    """Another worker's lock is seen, and the job stays with it; killed, it is taken over within moments."""
    with SqliteBackend(path, heartbeat=0.2) as backend, another_worker(backend) as child:
        backend.listen("q", lambda _job: "elsewhere")
        eventually(lambda: len(backend.workers()) == 2, "both are listed")
        [job] = backend.jobs()
        assert locks_for(backend.config.path, "0" * 32).sign_of(job.worker or "") is Sign.LIVES
        assert job.crashes == 0
        child.signal(signal.SIGKILL)
        found = backend.wait(job.id or 0, backend.config.lease / 2)
        assert (found.result, found.crashes) == ("elsewhere", 1)
        eventually(lambda: len(backend.workers()) == 1, "the dead one is forgotten")
    assert not path.with_name("jobs.db-workers").exists()


@pytest.mark.usefixtures("portable")
def test_nothing_is_known_of_a_worker_without_a_file(path: Path) -> None:
    """A lock that is not there proves nothing, nor does a name that is none of a worker."""
    path.touch()
    locks = locks_for(str(path), "1" * 32)
    assert locks.sign_of("0" * 32) is Sign.UNKNOWN
    assert locks.sign_of("../elsewhere") is Sign.UNKNOWN
    locks.release()
    assert not locks.held


@pytest.mark.usefixtures("portable")
def test_a_lock_that_cannot_be_made(path: Path) -> None:
    """Where the directory of locks cannot be made nothing is claimed, and the error says why."""
    path.with_name("jobs.db-workers").touch()
    with SqliteBackend(path, autostart=False) as backend:
        backend.queues()
        with pytest.raises(BackendUnavailable, match="cannot lock a file"):
            backend.store.claim([Demand("q", 1)])


def test_no_library_to_lock_with(path: Path) -> None:
    """Where neither the system nor the library has locks, the error says what to install."""
    program = POORER.replace('"redis", "filelock"', '"redis"') + (
        "sys.modules['filelock'] = None\n"
        "try:\n    neoq.SqliteBackend(sys.argv[1]).enqueue('q')\n"
        "except neoq.UnsupportedError as error:\n    print(error)\n"
    )
    with running([sys.executable, "-c", program, path]) as child:
        assert "pip install filelock" in " ".join(child.ends_well())
