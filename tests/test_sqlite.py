"""SqliteBackend beyond the conformance suite: its URL, its file, its one writer, its errors."""

from __future__ import annotations

import os
import queue
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import neoq
from neoq import (
    BackendError,
    BackendUnavailable,
    ConfigError,
    SqliteBackend,
    UnsupportedError,
)
from neoq.audit import acting_as
from neoq.clock import LiveClock
from neoq.sqlite import add as sqlite_add
from neoq.sqlite.alive import Sign, WorkerLocks
from neoq.sqlite.backend import SqliteConfig
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.schema import VERSION
from neoq.sqlite.session import NEW_AT_MOST, Session
from neoq.store import Demand
from neoq.testing import Faults
from neoq.testing.cases.suite import PATIENCE, eventually, in_threads, prepared
from tests.processes import Child, running

LOCKED = {"busy_timeout": 0.05}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[sqlite3.Connection]:
    """The connections that are opened in this test."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def noted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        opened.append(connect(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(sqlite3, "connect", noted)
    return opened


def are_open(connections: list[sqlite3.Connection]) -> list[sqlite3.Connection]:
    """Those of some connections that are not closed."""

    def is_open(connection: sqlite3.Connection) -> bool:
        try:
            return connection.total_changes >= 0
        except sqlite3.ProgrammingError:
            return False

    return list(filter(is_open, connections))


@pytest.fixture
def backend(path: Path, connections: list[sqlite3.Connection]) -> Iterator[SqliteBackend]:  # notes
    with SqliteBackend(path, autostart=False) as backend:
        backend.queues()
        yield backend


def statements(connections: list[sqlite3.Connection]) -> list[str]:
    """Everything that is executed on some connections from here on."""
    seen: list[str] = []
    for connection in are_open(connections):
        connection.set_trace_callback(seen.append)
    return seen


# -- URL and settings ------------------------------------------------------------------------------------


def test_url_with_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes come before a relative path, and settings may follow it."""
    monkeypatch.chdir(tmp_path)
    with neoq.connect("sqlite:///some%20jobs.db?synchronous=NORMAL&busy_timeout=2&concurrency=3") as backend:
        assert isinstance(backend, SqliteBackend)
        assert (backend.config.synchronous, backend.config.busy_timeout, backend.config.concurrency) == (
            "normal",
            2,
            3,
        )
        backend.enqueue("q")
    assert (tmp_path / "some jobs.db").exists()


def test_url_with_an_absolute_path(path: Path) -> None:
    """Four slashes come before an absolute path."""
    with neoq.connect(f"sqlite:///{path}") as backend:
        backend.enqueue("q")
    assert path.exists()


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("sqlite:///:memory:", "memory://"),
        ("sqlite://", "memory://"),
        ("sqlite:///", "memory://"),
        ("sqlite://jobs.db", "three slashes"),
        ("sqlite:///a#b.db", "%23"),
        ("sqlite:///jobs.db?synchronous=always", "synchronous"),
        ("sqlite:///jobs.db?busy_timeout=-1", "busy_timeout"),
        ("sqlite:///jobs.db?schema=x", "schema is not a setting"),
    ],
)
def test_a_bad_url(url: str, advice: str) -> None:
    """What a URL cannot mean is a ConfigError that says what to write."""
    with pytest.raises(ConfigError, match=advice):
        neoq.connect(url)


def test_no_path() -> None:
    """Without a path there is a ConfigError."""
    with pytest.raises(ConfigError, match="path is ''; it takes the name of a file"):
        SqliteBackend()


def test_nothing_is_opened_before_it_is_used(path: Path) -> None:
    """Making a backend touches no file."""
    SqliteBackend(path)
    assert not path.exists()


def test_a_changed_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is that of the first use, also where a connection is opened later."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with SqliteBackend("jobs.db", autostart=False) as backend:
        backend.enqueue("q")
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert backend.stats().ready == 1


def test_importing_neoq_imports_no_sqlite() -> None:
    """`import neoq` brings in no sqlite3; naming SqliteBackend does."""
    program = (
        "import sys, neoq; assert 'sqlite3' not in sys.modules\n"
        "neoq.SqliteBackend; assert 'sqlite3' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_no_statement_has_numbered_placeholders() -> None:
    """No statement says ?1, of which early releases of Python 3.12 warn and all others say nothing."""
    package = Path(neoq.__file__).parent / "sqlite"
    sources = {path.name: path.read_text() for path in package.glob("*.py")}
    assert "find.py" in sources
    assert [name for name, source in sources.items() if re.search(r"\?\d", source)] == []


def test_an_unknown_name_of_the_package() -> None:
    """A name that the package has not is an AttributeError."""
    with pytest.raises(AttributeError, match="OracleBackend"):
        neoq.OracleBackend  # noqa: B018


# -- files that cannot be used ---------------------------------------------------------------------------


def test_a_missing_directory(tmp_path: Path) -> None:
    """A directory that does not exist is named, and not made."""
    backend = SqliteBackend(tmp_path / "missing" / "jobs.db")
    with pytest.raises(BackendUnavailable, match="missing does not exist"):
        backend.enqueue("q")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_comes_later(tmp_path: Path) -> None:
    """A backend whose file could not be opened opens it at the next call."""
    backend = SqliteBackend(tmp_path / "late" / "jobs.db", autostart=False)
    with pytest.raises(BackendUnavailable):
        backend.enqueue("q")
    (tmp_path / "late").mkdir()
    with backend:
        assert backend.enqueue("q").id == 1


def test_a_file_that_is_no_database(path: Path) -> None:
    """A file of something else is refused and left as it is."""
    path.write_bytes(content := b"no database at all\n" * 1000)
    with pytest.raises(BackendError, match="no SQLite database") as caught:
        SqliteBackend(path).enqueue("q")
    assert isinstance(caught.value.__cause__, sqlite3.DatabaseError)
    assert path.read_bytes() == content


def test_a_directory_for_a_file(tmp_path: Path) -> None:
    """A directory in the place of the file is one clear error."""
    with pytest.raises(BackendUnavailable, match="it is a directory"):
        SqliteBackend(tmp_path).enqueue("q")


def test_a_newer_schema(path: Path, backend: SqliteBackend) -> None:
    """A file that a newer neoq has written is refused, and not changed."""
    backend.shutdown()
    connection = sqlite3.connect(path)
    connection.execute("update neoq_schema set version = version + 1")
    connection.commit()
    with pytest.raises(BackendError, match=f"schema version {VERSION + 1}.*upgrade"):
        SqliteBackend(path).enqueue("q")
    assert connection.execute("select version from neoq_schema").fetchall() == [(VERSION + 1,)]
    connection.close()


def test_a_file_of_the_first_schema(path: Path, backend: SqliteBackend) -> None:
    """A file of an older neoq is migrated: its jobs are there, and so is what is new."""
    job = backend.enqueue("q")
    backend.shutdown()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("neoq_audit", "neoq_reports", "neoq_tick_jobs"):
            connection.execute(f"drop table {table}")
        connection.execute("update neoq_schema set version = 1")
    with SqliteBackend(path, autostart=False) as migrated, acting_as("ada"):
        assert [one.id for one in migrated.jobs()] == [job.id]
        migrated.pause("q")
        assert [entry.action for entry in migrated.audit()] == ["pause"]


def test_a_migration_that_fails_leaves_nothing(path: Path) -> None:
    """Tables are made all or none: where one cannot be, the file is as it was."""
    connection = sqlite3.connect(path)
    connection.execute("create table neoq_ticks (something_else)")
    connection.commit()
    with pytest.raises(BackendError, match="neoq_ticks already exists"):
        SqliteBackend(path).enqueue("q")
    assert connection.execute("select name from sqlite_master").fetchall() == [("neoq_ticks",)]
    connection.close()


def test_tables_beside_those_of_an_application(path: Path) -> None:
    """The jobs live in a file that has other tables, and leave them alone."""
    connection = sqlite3.connect(path)
    connection.execute("create table users (name)")
    connection.execute("insert into users values ('a')")
    connection.commit()
    with SqliteBackend(path, autostart=False) as backend:
        backend.enqueue("q")
    assert connection.execute("select name from users").fetchall() == [("a",)]
    connection.close()


def test_many_open_a_new_file_at_once(path: Path) -> None:
    """Of many that open a new file at once one makes the tables, and all can use it."""
    backends = [SqliteBackend(path, autostart=False) for _ in range(6)]
    try:
        in_threads(6, lambda n: backends[n].enqueue("q", {"n": n}))
        assert backends[0].stats().ready == 6
    finally:
        for backend in backends:
            backend.shutdown()


# Root may write every file, unless the kernel takes that from a program that it starts.
LIKE_ANY_USER = """
import ctypes, os, sys
CAP_DAC_OVERRIDE, PR_CAPBSET_DROP = 1, 24
if os.geteuid() == 0:
    assert ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
READ_ONLY = """
import os, sys, neoq
os.chmod(sys.argv[1], 0o444), os.chmod(os.path.dirname(sys.argv[1]), 0o555)
backend = neoq.SqliteBackend(sys.argv[1])
try:
    backend.enqueue("q")
except neoq.BackendUnavailable as error:
    print(error)
"""


def test_a_read_only_file(path: Path, backend: SqliteBackend) -> None:
    """A file that may not be written is one clear error."""
    backend.shutdown()
    try:
        with running([sys.executable, "-c", LIKE_ANY_USER, "-c", READ_ONLY, path]) as child:
            assert "writable" in " ".join(child.ends_well())
    finally:
        path.parent.chmod(0o755)
        path.chmod(0o644)


def test_a_locked_file(path: Path, backend: SqliteBackend) -> None:
    """A file that another connection keeps locked is unavailable until it is free."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin immediate")
    with SqliteBackend(path, autostart=False, **LOCKED) as locked_out:
        with pytest.raises(BackendUnavailable, match="busy_timeout") as caught:
            locked_out.enqueue("q")
        assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
        assert not caught.value.outcome_unknown
        assert locked_out.stats().ready == 0
        holder.execute("rollback")
        locked_out.enqueue("q")
        assert backend.stats().ready == 1
    holder.close()


def test_outcomes_wait_for_a_locked_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Outcomes of jobs that end while the file is locked are kept, and recorded when it is free."""
    holder = sqlite3.connect(path, isolation_level=None)
    going, gate = threading.Event(), threading.Event()

    def work(_job: neoq.Job) -> str:
        going.set()
        gate.wait(PATIENCE)
        return "done"

    with SqliteBackend(path, **LOCKED) as backend:
        backend.listen("q", work)
        job = backend.enqueue("q")
        assert going.wait(PATIENCE)
        eventually(lambda: not begin(holder), "the lock is ours")
        gate.set()
        eventually(lambda: "1 outcomes wait for the store" in caplog.text, "it cannot be recorded")
        holder.execute("rollback")
        assert job.id is not None
        assert backend.wait(job.id, PATIENCE).result == "done"
    holder.close()


def begin(connection: sqlite3.Connection) -> bool:
    """Try to take the write lock; tell whether that failed."""
    try:
        connection.execute("begin immediate")
    except sqlite3.OperationalError:
        return True
    return False


def test_a_producer_leaves_nothing_to_clean_up(path: Path, connections: list[sqlite3.Connection]) -> None:
    """The shutdown of a process that ran no job writes nothing, and so cannot fail for the file."""
    backend = SqliteBackend(path, autostart=False)
    backend.enqueue("q")
    seen = statements(connections)
    backend.shutdown()
    assert seen == []


def test_ids_are_not_given_again(backend: SqliteBackend) -> None:
    """The id of a job that was deleted is no other job's, though it was the newest."""
    for number in (1, 2, 3):
        job = backend.enqueue("q")
        assert job.id == number
        assert backend.delete(number)


def limit_pages(connections: list[sqlite3.Connection], more: int) -> None:
    """Let the file grow by so many pages at most."""
    for connection in are_open(connections):
        [(pages,)] = connection.execute("pragma page_count")
        connection.execute(f"pragma max_page_count = {pages + more}")


def test_a_full_disk(backend: SqliteBackend, connections: list[sqlite3.Connection]) -> None:
    """Without room an enqueue is an error that keeps nothing, and with room again the next is accepted."""
    limit_pages(connections, 20)
    accepted = 0
    with pytest.raises(BackendUnavailable, match="no room"):  # noqa: PT012
        while accepted < 1000:
            backend.enqueue("q", {"n": accepted, "filler": "x" * 3000})
            accepted += 1
    assert 0 < accepted == backend.stats().ready == len(backend.jobs(limit=1000))
    limit_pages(connections, 1_000_000)
    backend.enqueue("q", {"n": accepted})
    assert backend.stats().ready == accepted + 1


def test_a_full_disk_for_one_of_many(backend: SqliteBackend, connections: list[sqlite3.Connection]) -> None:
    """Of operations that share a commit the one without room fails, and the others are kept."""
    limit_pages(connections, 20)

    def add(n: int) -> Any:
        try:
            return backend.enqueue("q", {"n": n, "filler": "x" * (500_000 if n == 2 else 1)})
        except BackendUnavailable:
            return None

    results = gathered(backend, [lambda n=n: add(n) for n in range(5)])  # type: ignore[misc]
    assert [n for n in range(5) if results[n] is None] == [2]
    assert sorted(job.payload["n"] for job in backend.jobs()) == [0, 1, 3, 4]


# -- the writer ------------------------------------------------------------------------------------------


def gathered(backend: SqliteBackend, works: list[Callable[[], Any]]) -> list[Any]:
    """Call all of these so that the later ones gather behind the first; return results and errors."""
    results: list[Any] = [None] * len(works)

    def call(number: int) -> None:
        try:
            results[number] = works[number]()
        except Exception as error:
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(works))]
    with Faults(backend).paused_commits() as gather:
        for number, thread in enumerate(threads, start=1):
            thread.start()
            gather(number)
    for thread in threads:
        thread.join(PATIENCE)
    return results


def test_enqueues_that_wait_share_a_commit(
    backend: SqliteBackend, connections: list[sqlite3.Connection]
) -> None:
    """Enqueues that wait while another commits are committed together."""
    seen = statements(connections)
    jobs = gathered(backend, [lambda n=n: backend.enqueue("q", {"n": n}) for n in range(10)])  # type: ignore[misc]
    assert seen.count("commit") == 2
    assert sorted(job.id for job in jobs) == list(range(1, 11))


def test_one_that_fails_fails_alone(backend: SqliteBackend) -> None:
    """Of operations that share a commit one that raises is undone, and the others are kept."""
    backend.enqueue("q", {"n": 0})
    twice = [neoq.Job("q", {"n": 9}), neoq.Job("q", {"n": 0}, on_duplicate="raise")]
    works = [
        lambda: backend.enqueue("q", {"n": 1}),
        lambda: backend.enqueue("q", {"n": 2}),
        lambda: backend.enqueue_many(twice),
        lambda: backend.enqueue("q", {"n": 3}),
    ]
    results = gathered(backend, works)
    assert isinstance(results[2], neoq.DuplicateJobError)
    assert sorted(job.payload["n"] for job in backend.jobs()) == [0, 1, 2, 3]
    assert backend.stats().ready == 4


def test_who_is_interrupted_while_it_waits(path: Path) -> None:
    """An interrupt of the main thread while it waits for a commit leaves nobody waiting for ever."""
    program = """
import signal, sys, threading, time, neoq, neoq.testing
backend = neoq.SqliteBackend(sys.argv[1], autostart=False)
backend.queues()
def others():
    for n in range(20):
        backend.enqueue("q", {"n": n})
        time.sleep(0.01)
def hold():
    with neoq.testing.Faults(backend).paused_commits() as gathered:
        first.start()
        gathered(1)
        held.set()
        gathered(2)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        left.wait()
held, left = threading.Event(), threading.Event()
first = threading.Thread(target=others)
threading.Thread(target=hold).start()
held.wait()
try:
    backend.enqueue("q", {"main": 1})
except KeyboardInterrupt:
    left.set()
    print("interrupted")
first.join()
print(backend.stats().ready)
backend.shutdown()
"""
    with running([sys.executable, "-c", program, path]) as child:
        assert child.until("interrupted") == ""
        assert child.ends_well()[0] in {"20", "21"}


def test_only_what_must_last_waits_for_the_disk(
    backend: SqliteBackend, connections: list[sqlite3.Connection]
) -> None:
    """Commits of new jobs and outcomes wait for the disk; a claim, which dies with its worker, does not."""
    backend.store.add([prepared("q")], token=b"")
    seen = statements(connections)
    backend.store.claim([Demand("q", 1)])
    backend.store.add([prepared("q", {"n": 1})], token=b"")
    modes = [statement.split()[-1] for statement in seen if "synchronous" in statement]
    assert modes == ["normal", "full"]


def test_an_idle_claim_writes_nothing(path: Path, backend: SqliteBackend) -> None:
    """A claim that finds nothing leaves the file as it is, so that it wakes nobody."""
    backend.store.claim([Demand("q", 1)])
    other = sqlite3.connect(path)
    before = other.execute("pragma data_version").fetchone()
    backend.store.claim([Demand("q", 1)])
    assert other.execute("pragma data_version").fetchone() == before
    other.close()


def frames(path: Path) -> int:
    """The pages that were written into the log of a file whose log was never begun anew."""
    connection = sqlite3.connect(path)
    [(size,)] = connection.execute("pragma page_size")
    connection.close()
    return (Path(f"{path}-wal").stat().st_size - 32) // (size + 24)


def test_an_enqueue_changes_one_page(path: Path, backend: SqliteBackend) -> None:
    """A commit of one new job writes the page that it is on, and no index."""
    written = [frames(path)]
    for n in range(20):
        backend.enqueue("q", {"n": n})
        written.append(frames(path))
    changed = [after - before for before, after in pairwise(written)]
    assert changed.count(1) >= 18
    assert sum(changed) <= 24  # now and then a page is full


def test_new_jobs_are_sorted_in_by_the_dozen(path: Path, backend: SqliteBackend) -> None:
    """So many new jobs and no more are in no index, and they are counted, found and met all the same."""
    connection = sqlite3.connect(path)
    number = 2 * NEW_AT_MOST + 10
    new = []
    for n in range(number):
        backend.enqueue("q", {"n": n}, run_after=None if n % 2 else 3600)
        new += connection.execute("select count(*) from neoq_jobs where state = 5").fetchone()
        assert (backend.stats().ready, backend.stats().scheduled) == ((n + 1) // 2, n // 2 + 1)
    connection.close()
    assert new == [(n + 1) % NEW_AT_MOST for n in range(number)]
    assert len(backend.jobs(status=neoq.Status.PENDING, limit=number)) == number
    assert all(backend.enqueue("q", {"n": n}).duplicate for n in reversed(range(number)))


def test_new_jobs_of_another_process(path: Path, backend: SqliteBackend) -> None:
    """Two processes that enqueue in turns give each id once, and meet each other's fingerprints."""
    with SqliteBackend(path, autostart=False) as other:
        both = [backend, other]
        jobs = [both[n % 2].enqueue("q", {"n": n}) for n in range(3 * NEW_AT_MOST)]
        assert [job.id for job in jobs] == list(range(1, 3 * NEW_AT_MOST + 1))
        assert all(both[1 - n % 2].enqueue("q", {"n": n}).duplicate for n in range(3 * NEW_AT_MOST))
        assert other.stats().ready == 3 * NEW_AT_MOST


def a_file(path: Path) -> SqliteFile:
    """A file without a backend, opened."""
    file = SqliteFile(
        str(path),
        synchronous="full",
        busy_timeout=1,
        session_on=lambda cursor: Session(cursor, SqliteConfig(path=str(path)), LiveClock()),
    )
    file.open()
    return file


def test_what_was_undone_is_not_known(path: Path) -> None:
    """New jobs that were rolled back are forgotten, though another process gives their id to another job."""

    def fail(session: Session) -> None:
        assert sqlite_add.add(session, [prepared("q", {"n": 1})])[0].id == 2
        raise ValueError

    def add(n: int) -> Any:
        return file.write(lambda session: sqlite_add.add(session, [prepared("q", {"n": n})]))[0]

    file = a_file(path)
    add(0)
    with pytest.raises(ValueError):  # noqa: PT011
        file.write(fail)
    with SqliteBackend(path, autostart=False) as other:
        assert other.enqueue("q", {"n": 2}).id == 2
        assert add(2).duplicate
        assert not add(1).duplicate
    file.close()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (
            "select id from neoq_jobs where state = 0 and queue = 'q' order by priority desc, run_after",
            "ready",
        ),
        ("select min(run_after) from neoq_jobs where state = 1 and queue = 'q'", "due"),
        (
            "update neoq_jobs set state = 0 where state = 1 and queue = 'q' and run_after <= 9",
            "due",
        ),
        ("select worker, min(lease_until) from neoq_jobs where state = 2 group by worker", "running"),
        ("select token from neoq_jobs where cancel = 1 and worker = 'w'", "cancelling"),
        (
            "select id from neoq_jobs where state = 3 and finished_at <= 9 order by finished_at limit 9",
            "finished",
        ),
        ("select id from neoq_jobs where state = 4 order by finished_at, id limit 9", "dead"),
        ("select id from neoq_jobs where state = 3 and finished_at >= 1 and finished_at < 9", "finished"),
        ("select id from neoq_jobs where state = 4 and finished_at >= 1", "dead"),
        ("select 1 from neoq_jobs where hash = 7 and holds = 1", "held"),
    ],
)
def test_work_goes_by_index(path: Path, backend: SqliteBackend, query: str, index: str) -> None:
    """What the queue works with is found by an index, and never sorted."""
    connection = sqlite3.connect(path)
    plan = " ".join(row[3] for row in connection.execute(f"explain query plan {query}"))
    connection.close()
    assert f"neoq_{index}" in plan
    assert "TEMP B-TREE" not in plan


def test_a_list_reads_the_beginnings_of_payloads(backend: SqliteBackend) -> None:
    """A brief look reads a kilobyte of each payload at most."""
    backend.enqueue("q", {"text": "x" * 100_000})
    [job] = backend.store.find_brief(limit=1).jobs
    assert job.body == b'{"text":"' + b"x" * 1016


# -- several processes -----------------------------------------------------------------------------------


def test_another_process_is_heard_at_once(path: Path) -> None:
    """A job of another process starts long before the next poll."""
    started = threading.Event()
    program = "import sys, neoq; neoq.SqliteBackend(sys.argv[1], autostart=False).enqueue('q', {'n': 1})"
    with SqliteBackend(path, job_check_interval=3600) as backend:
        backend.listen("q", lambda _job: started.set())
        eventually(backend.workers, "it listens")
        subprocess.run([sys.executable, "-c", program, path], check=True, timeout=30, env=environment())
        assert started.wait(PATIENCE)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(neoq.__file__).parents[1])}


def test_a_restart_keeps_everything(path: Path) -> None:
    """What a process has enqueued before it is killed is there for the next, without loss."""
    program = """
import os, signal, sys, neoq
backend = neoq.SqliteBackend(sys.argv[1], autostart=False)
for n in range(100):
    backend.enqueue("q", {"n": n})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program, path], check=False, timeout=30, env=environment())
    ran: list[int] = []
    with SqliteBackend(path) as backend:
        backend.listen("q", lambda job: ran.append(job.payload["n"]), concurrency=1)
        assert backend.drain(PATIENCE)
    assert ran == list(range(100))


def test_worker_files_go_with_the_worker(path: Path) -> None:
    """While a worker lives it holds a locked file beside the database; after its shutdown that is gone."""
    directory = path.with_name("jobs.db-workers")
    with SqliteBackend(path) as backend:
        backend.listen("q", lambda _job: None)
        eventually(lambda: directory.exists() and list(directory.iterdir()), "it holds one")
    assert not directory.exists()


def test_no_connection_is_open_across_a_fork(
    backend: SqliteBackend, connections: list[sqlite3.Connection]
) -> None:
    """As a process forks its connections are closed; both sides open new ones, and lose nothing."""
    backend.enqueue("q", {"n": 0})
    backend.stats()
    open_in_child = -1
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            open_in_child = len(are_open(connections))
            backend.enqueue("q", {"n": 1})
            backend.shutdown()
            os.write(write, f"{open_in_child}".encode())
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    assert os.read(read, 10) == b"0"
    os.close(read)
    backend.enqueue("q", {"n": 2})
    assert [job.payload["n"] for job in backend.jobs()] == [2, 1, 0]


FORKING = """
import os, sys, threading, warnings, neoq
warnings.simplefilter("ignore")
backends = [neoq.SqliteBackend(f"{sys.argv[1]}{n}", autostart=False) for n in range(2)]
def fork(barrier):
    barrier.wait()
    pid = os.fork()
    if not pid:
        try:
            backends[0].enqueue("child")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
for n in range(20):
    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=fork, args=[barrier]) for _ in range(2)]
    threads.append(threading.Thread(target=lambda: [each.enqueue("parent", {"n": n}) for each in backends]))
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
print(*({counts.queue: counts.unfinished for counts in backend.queues()} for backend in backends), sep="\\n")
"""


def test_two_threads_fork_at_once(path: Path) -> None:
    """Threads that fork at the same time neither hang nor keep others from the files, nor lose anything."""
    with running([sys.executable, "-c", FORKING, path]) as child:
        assert child.ends_well() == ["{'child': 1, 'parent': 20}", "{'parent': 20}"]


def test_a_fork_inside_a_fork(backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that begins while its own thread prepares another one leaves the file usable."""
    forks: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if not pid:
            os._exit(0)
        forks.append(pid)
        os.waitpid(pid, 0)

    class ForksAtItsEnd(sqlite3.Connection):
        def close(self) -> None:
            super().close()
            if not forks:
                forks.append(0)
                fork()

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", partial(connect, factory=ForksAtItsEnd))
    Faults(backend).break_connections()
    backend.enqueue("q", {"n": 0})
    fork()
    assert len(forks) == 3
    assert in_threads(1, lambda n: backend.enqueue("q", {"n": n + 1}).duplicate) == [False]


def test_a_child_does_not_keep_its_parents_lock(path: Path) -> None:
    """The lock of a worker that was killed is free although a child that it forked lives on."""
    program = """
import os, signal, sys, time, neoq
backend = neoq.SqliteBackend(sys.argv[1])
def work(job):
    if not os.fork():
        time.sleep(60)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
backend.listen("q", work, concurrency=1)
backend.run()
"""
    with SqliteBackend(path) as backend:
        job = backend.enqueue("q")
        with running([sys.executable, "-W", "ignore", "-c", program, path]) as child:
            child.exit_code()
            backend.listen("q", lambda _job: "elsewhere")
            assert job.id is not None
            found = backend.wait(job.id, backend.config.lease / 2)
            assert (found.result, found.crashes) == ("elsewhere", 1)


# -- transactions of the caller --------------------------------------------------------------------------


def test_a_transaction_on_another_file(tmp_path: Path, backend: SqliteBackend) -> None:
    """A connection to another file is refused, and left as it was."""
    for name in (tmp_path / "other.db", ":memory:"):
        connection = sqlite3.connect(name)
        with pytest.raises(UnsupportedError, match="only in one file"):
            backend.enqueue("q", transaction=connection)
        assert not connection.in_transaction
        connection.close()


@pytest.mark.parametrize("transaction", [object(), "connection"])
def test_a_transaction_that_is_none(backend: SqliteBackend, transaction: object) -> None:
    """What is no sqlite3 connection is refused."""
    with pytest.raises(UnsupportedError, match="only a sqlite3"):
        backend.enqueue("q", transaction=transaction)


def test_a_connection_without_a_transaction(path: Path, backend: SqliteBackend) -> None:
    """A connection that commits each statement by itself must be in a transaction."""
    connection = sqlite3.connect(path, isolation_level=None)
    with pytest.raises(UnsupportedError, match="BEGIN IMMEDIATE"):
        backend.enqueue("q", transaction=connection)
    connection.execute("begin immediate")
    backend.enqueue("q", transaction=connection)
    connection.execute("rollback")
    assert backend.stats().ready == 0
    connection.close()


def test_jobs_and_rows_are_committed_together(path: Path, backend: SqliteBackend) -> None:
    """A job and a row of one transaction are both there or both not; an error in between undoes neither."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    connection.execute("create table users (name)")
    connection.execute("insert into users values ('a')")
    backend.enqueue("q", {"n": 1}, transaction=connection)
    with pytest.raises(neoq.DuplicateJobError):
        backend.enqueue("q", {"n": 1}, on_duplicate="raise", transaction=connection)
    connection.commit()
    connection.execute("insert into users values ('b')")
    backend.enqueue_many([neoq.Job("q", {"n": n}) for n in range(5)], transaction=connection)
    connection.rollback()
    assert [row["name"] for row in connection.execute("select name from users")] == ["a"]
    assert [job.payload["n"] for job in backend.jobs()] == [1]
    assert backend.stats().ready == 1
    connection.close()


def test_a_full_queue_does_not_wait_inside_a_transaction(path: Path) -> None:
    """A full queue is an error at once for who holds a transaction, since nobody else could make room."""
    with SqliteBackend(path, autostart=False, queue_capacity=1, enqueue_timeout=None) as backend:
        connection = sqlite3.connect(path)
        backend.enqueue("q", {"n": 1}, transaction=connection)
        with pytest.raises(neoq.QueueFullError):
            backend.enqueue("q", {"n": 2}, transaction=connection)
        connection.commit()
        connection.close()
        assert backend.stats().ready == 1


def test_a_stale_lease_aborts_the_transaction(path: Path) -> None:
    """job.complete() of a job that another worker has by now raises StaleLeaseError."""
    raised: queue.Queue[neoq.StaleLeaseError] = queue.Queue()

    def handler(job: neoq.Job) -> None:
        with job.shield(), closing(sqlite3.connect(path)) as connection:  # the heartbeat may tell first
            connection.execute("update neoq_jobs set token = token + 1")
            connection.commit()
            try:
                job.complete(connection)
            except neoq.StaleLeaseError as error:
                raised.put(error)

    with SqliteBackend(path) as backend:
        backend.listen("q", handler)
        job = backend.enqueue("q")
        assert raised.get(timeout=PATIENCE).job_id == job.id


# -- odd contents ----------------------------------------------------------------------------------------


def test_an_error_that_utf8_cannot_carry(path: Path) -> None:
    """A failure whose message holds a lone surrogate is recorded all the same."""

    def handler(_job: neoq.Job) -> None:
        raise ValueError("bad \udc80 name")

    with SqliteBackend(path) as backend:
        backend.listen("q", handler, max_retries=0)
        job = backend.enqueue("q")
        assert job.id is not None
        assert backend.wait(job.id, PATIENCE).error == "ValueError: bad ? name"


def test_a_large_payload(backend: SqliteBackend) -> None:
    """A payload of the largest size comes back as it was."""
    payload = {"text": "x" * (2**20 - 20)}
    backend.enqueue("q", payload)
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    assert job.payload == payload


def test_fingerprints_of_one_hash(backend: SqliteBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jobs whose fingerprints have the same short hash are no duplicates of each other."""
    monkeypatch.setattr(sqlite_add, "hash_of", lambda _job: 7)
    jobs = [backend.enqueue("q", {"n": n}) for n in range(3)] + [backend.enqueue("p", {"n": 0})]
    assert [job.duplicate for job in jobs] == [False] * 4
    again = backend.enqueue("q", {"n": 1})
    assert (again.id, again.duplicate) == (jobs[1].id, True)


def test_many_jobs_of_one_fingerprint(backend: SqliteBackend) -> None:
    """Thousands of equal jobs are one."""
    jobs = backend.enqueue_many([neoq.Job("q", {"same": True}) for _ in range(10_000)])
    assert len({job.id for job in jobs}) == 1
    assert backend.stats().ready == 1


def test_reading_after_the_shutdown(path: Path, connections: list[sqlite3.Connection]) -> None:
    """After its shutdown a backend can still be asked, and leaves no connection open."""
    backend = SqliteBackend(path, autostart=False)
    job = backend.enqueue("q")
    backend.shutdown()
    assert job.id is not None
    assert backend.get(job.id) is not None
    assert are_open(connections) == []


def test_an_unclean_read(path: Path) -> None:
    """A query that SQLite refuses is a BackendError with SQLite's own as its cause."""
    file = a_file(path)
    with pytest.raises(BackendError, match="no such table"):
        file.read("select 1 from missing")
    with pytest.raises(BackendError, match="no such table"):
        file.write(lambda session: session.do("select 1 from missing"))
    assert file.write(lambda session: session.do("select 1").fetchone()) == (1,)
    file.close()


# -- whether a worker lives ------------------------------------------------------------------------------

SHORT: dict[str, Any] = {"lease": 2.0, "heartbeat": 0.2}
WORKER = """
import sys, time, neoq
backend = neoq.SqliteBackend(sys.argv[1], lease=60.0, heartbeat=0.2)
def work(job):
    print("running", flush=True)
    time.sleep(60)
backend.listen("q", work, concurrency=1, max_retries=0)
backend.start()
while not backend.workers():
    time.sleep(0.01)
print("listens", flush=True)
backend.run()
"""


def locks_of(path: Path) -> list[Path]:
    directory = path.with_name(path.name + "-workers")
    return sorted(directory.iterdir()) if directory.exists() else []


@contextmanager
def another_worker(path: Path | str) -> Iterator[Child]:
    """A process that listens, with a lease longer than any test."""
    with running([sys.executable, "-c", WORKER, str(path)]) as child:
        child.until("listens")
        yield child


def beats(backend: SqliteBackend, number: int = 5) -> None:
    """Let the heartbeat of a backend look at the others so many times."""
    with Faults(backend).watched("reclaim") as looks:
        looks.wait(number)


@pytest.mark.parametrize("linked", ["file", "directory", "relative"])
def test_workers_by_different_names_of_one_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: str
) -> None:
    """A worker leaves the job of another alone that came to the file by another name, as releases do."""
    name = path
    if linked == "file":
        name = tmp_path / "release" / "current.db"
        name.parent.mkdir()
        name.symlink_to(path)
    elif linked == "directory":
        (tmp_path / "current").symlink_to(tmp_path)
        name = tmp_path / "current" / path.name
    else:
        monkeypatch.chdir(tmp_path)
        name = Path("jobs.db")
    with another_worker(path) as child, SqliteBackend(name, lease=60.0, heartbeat=0.1) as backend:
        job = backend.enqueue("q")
        child.until("running")
        backend.listen("q", lambda _job: "a second time")
        beats(backend)
        [found] = backend.jobs()
        assert (found.id, found.status, found.crashes) == (job.id, neoq.Status.RUNNING, 0)


@pytest.mark.parametrize("what", ["file", "directory", "copy", "empty", "link", "unreadable"])
def test_a_lock_that_is_not_there_proves_nothing(path: Path, tmp_path: Path, what: str) -> None:
    """Whatever a cleaner or a restore does to a worker's file, it keeps its job and makes a new one."""
    with another_worker(path) as child, SqliteBackend(path, lease=60.0, heartbeat=0.1) as backend:
        backend.enqueue("q")
        child.until("running")
        [lock] = locks_of(path)
        child.stop_between_writes(path)  # so that we see what others do before it makes its file anew
        content = lock.read_bytes()
        lock.unlink()
        if what == "directory":
            lock.parent.rmdir()
        elif what == "copy":
            lock.write_bytes(content)
            lock.chmod(0o644)
        elif what == "empty":
            lock.touch()
        elif what == "link":
            (tmp_path / "elsewhere").write_bytes(content)
            lock.symlink_to(tmp_path / "elsewhere")
        elif what == "unreadable":
            lock.touch(0)
        backend.listen("q", lambda _job: "a second time")
        beats(backend)
        [found] = backend.jobs()
        assert (found.status, found.crashes) == (neoq.Status.RUNNING, 0)
        child.signal(signal.SIGCONT)
        locks = WorkerLocks(str(path), "somebody")
        # A worker that dies between the lock and what it writes into the file leaves no proof of that.
        eventually(
            lambda: locks.sign_of(lock.stem) is Sign.LIVES and lock.stat().st_size > 0,
            "it holds a lock again",
        )
        child.kill()
        found = backend.wait(found.id or 0, backend.config.lease / 2)
        assert (found.result, found.crashes) == ("a second time", 1)


def test_a_dead_worker_whose_lock_says_nothing(path: Path) -> None:
    """The jobs of a dead worker without a file that can be asked go to others when its lease is over."""
    with SqliteBackend(path, **SHORT) as backend:
        with another_worker(path) as child:
            backend.enqueue("q")
            child.until("running")
        for lock in locks_of(path):
            lock.unlink()
        backend.listen("q", lambda _job: "a second time")
        [job] = backend.jobs()
        assert backend.wait(job.id or 0, PATIENCE).result == "a second time"
        eventually(lambda: rows_of_workers(path) == 1, "its row is forgotten")


def rows_of_workers(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("select count(*) from neoq_processes").fetchone()[0])
    finally:
        connection.close()


def test_an_idle_worker_that_is_killed_leaves_nothing(path: Path) -> None:
    """The row and the file of a worker that was killed while it had no job are removed by the next."""
    with another_worker(path):
        [left] = locks_of(path)
    orphan = left.with_name("0" * 32 + ".lock")
    orphan.touch()
    with SqliteBackend(path, **SHORT) as backend:
        backend.listen("q", lambda _job: None)
        eventually(lambda: rows_of_workers(path) == 1, "its row is forgotten")
        eventually(lambda: not {left, orphan} & set(locks_of(path)), "the files are removed")
        assert len(locks_of(path)) == 1
    assert not locks_of(path)


def test_a_second_hard_link(path: Path, tmp_path: Path, backend: SqliteBackend) -> None:
    """A file that has two names is refused by either, for SQLite would damage it."""
    backend.enqueue("q")
    os.link(path, tmp_path / "other.db")
    for name in (path, tmp_path / "other.db"):
        with pytest.raises(BackendError, match=r"second name .a hard link.*symbolic link"):
            SqliteBackend(name, autostart=False).enqueue("q")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660, 0o666])
def test_worker_files_have_the_rights_of_the_database(path: Path, mode: int) -> None:
    """Whoever may use the database may use the directory of locks, and nobody else, whatever the umask."""
    path.touch()
    path.chmod(mode)
    with SqliteBackend(path) as backend:
        backend.listen("q", lambda _job: None)
        eventually(lambda: locks_of(path), "it holds one")
        eventually(backend.workers, "it is listed")
        [lock] = locks_of(path)
        assert lock.stat().st_mode & 0o777 == mode
        assert lock.parent.stat().st_mode & 0o777 == mode | (mode & 0o444) >> 2 | 0o700


def test_a_directory_of_locks_that_is_a_link(path: Path, tmp_path: Path) -> None:
    """Locks are not made where a link leads that somebody put in the place of their directory."""
    (tmp_path / "elsewhere").mkdir()
    path.with_name("jobs.db-workers").symlink_to(tmp_path / "elsewhere")
    with SqliteBackend(path, autostart=False) as backend:
        backend.queues()
        with pytest.raises(BackendUnavailable, match="no link"):
            backend.store.claim([Demand("q", 1)])
    assert not list((tmp_path / "elsewhere").iterdir())


# -- where the file is -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a\0b.db", "NUL"),
        ("a\ud800.db", "cannot write that name"),
        ("~/jobs.db", "home directory"),
        ("~somebody/jobs.db", "home directory"),
        ("x" * 300 + ".db", "too long"),
        ("y" * 200 + "/" + "x" * 300 + ".db", "does not exist"),
        ("/dev/null", "a device"),
        ("/dev/full", "a device"),
        ("/proc/jobs.db", "directory must exist"),
        ("/proc/self/fd", "a directory"),
        ("pipe", "a pipe"),
        ("loop", "symbolic links"),
        ("plain/jobs.db", "no directory"),
        ("/".join(["d" * 100] * 6) + "/jobs.db", "as long as that"),
    ],
)
def test_a_name_that_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    """A name at which no database can be is refused with what is wrong about it, by URL and by path."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("plain").touch()
    if name.startswith("d"):
        Path(name).parent.mkdir(parents=True)
    made: list[Callable[[], neoq.Backend]] = [lambda: SqliteBackend(name, autostart=False)]
    if "\ud800" not in name:  # a URL cannot have it
        made.append(lambda: neoq.connect("sqlite:///" + quote(name), autostart=False))
    for make in made:
        with pytest.raises((ConfigError, BackendError), match=advice):
            make().enqueue("q")


@pytest.mark.parametrize("name", ["~", "~jobs.db", "./~/jobs.db", "a b.db", "what?#%41.db", "größe\n.db"])
def test_a_strange_name_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name is taken literally, also where the file is opened again after a fork."""
    monkeypatch.chdir(tmp_path)
    Path("~").mkdir() if "/" in name else None
    with SqliteBackend(name, autostart=False) as backend:
        backend.enqueue("q", {"n": 0})
        Faults(backend).break_connections()
        backend.enqueue("q", {"n": 1})
        assert len(backend.jobs()) == 2
    assert Path(name).is_file()


def test_a_working_directory_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative name without a directory that it is relative to is a ConfigError which names it."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(ConfigError, match=r"jobs\.db', relative to a working directory that is gone"):
        SqliteBackend("jobs.db", autostart=False).enqueue("q")
    with SqliteBackend(tmp_path / "jobs.db", autostart=False) as backend:
        backend.enqueue("q")


@pytest.mark.parametrize(("mode", "given"), [(0o600, "600"), (0o640, 0o640), (0o666, "0o666")])
def test_the_rights_of_a_new_file(path: Path, mode: int, given: Any) -> None:
    """file_mode gives a new file exactly these rights, and its logs too; one that is there keeps its own."""
    with neoq.connect(
        f"sqlite:///{path}?file_mode={given}" if isinstance(given, str) else f"sqlite:///{path}",
        autostart=False,
        **({} if isinstance(given, str) else {"file_mode": given}),
    ) as backend:
        backend.enqueue("q")
        for name in (path, path.with_name("jobs.db-wal")):
            assert name.stat().st_mode & 0o777 == mode
    with SqliteBackend(path, autostart=False, file_mode=0o644) as backend:
        backend.enqueue("q")
        assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("mode", [0o400, 0o700, 0o1600, "abc", "rw", True, 0])
def test_rights_that_make_no_sense(path: Path, mode: Any) -> None:
    """A file that its owner may not read and write, or that is a program, is no database."""
    with pytest.raises(ConfigError, match="file_mode is"):
        SqliteBackend(path, file_mode=mode)


# -- a file that goes away -------------------------------------------------------------------------------


def remove(path: Path) -> None:
    for name in (path, path.with_name("jobs.db-wal"), path.with_name("jobs.db-shm")):
        name.unlink(missing_ok=True)


def test_a_file_that_is_removed_takes_no_jobs(path: Path, backend: SqliteBackend) -> None:
    """Nothing is accepted, and nothing shown, once nobody else could find it; put back, the file is used."""
    backend.enqueue("q", {"n": 0})
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("begin immediate")
    path.rename(path.with_name("away.db"))
    for call in (
        lambda: backend.enqueue("q", {"n": 1}),
        lambda: backend.enqueue_many([neoq.Job("q", {"n": 1})]),
        lambda: backend.enqueue("q", {"n": 1}, transaction=connection),
        backend.jobs,
        backend.stats,
    ):
        with pytest.raises(BackendUnavailable, match="removed or renamed while this process had it open"):
            call()
    assert not path.exists()
    connection.close()
    path.with_name("away.db").rename(path)
    backend.enqueue("q", {"n": 2})
    assert [job.payload["n"] for job in backend.jobs()] == [2, 0]


def test_the_end_of_a_worker_whose_file_was_removed(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the file is gone, a worker has nothing to sign off from, and its shutdown says nothing."""
    with SqliteBackend(path, heartbeat=10.0, lease=30.0) as backend:
        backend.listen("q", lambda _job: None)
        eventually(backend.workers, "it is listed")
        caplog.clear()
        remove(path)
    assert "cleanly" not in caplog.text


def test_a_directory_that_is_removed_takes_no_jobs(tmp_path: Path) -> None:
    """A file whose directory is gone is gone, too."""
    directory = tmp_path / "data"
    directory.mkdir()
    with SqliteBackend(directory / "jobs.db", autostart=False) as backend:
        backend.enqueue("q")
        directory.rename(tmp_path / "other")
        with pytest.raises(BackendUnavailable, match="removed or renamed"):
            backend.enqueue("q")
        (tmp_path / "other").rename(directory)


def test_a_worker_goes_on_with_the_new_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A worker says that its file was removed, runs what comes into a new one, and is listed there."""
    ran: list[int] = []
    with SqliteBackend(path, **SHORT) as worker:
        worker.listen("q", lambda job: ran.append(job.payload["n"]))
        worker.wait(worker.enqueue("q", {"n": 1}).id or 0, PATIENCE)
        remove(path)
        eventually(lambda: "removed or renamed" in caplog.text, "it says so")
        with SqliteBackend(path, autostart=False) as producer:
            producer.enqueue("q", {"n": 2})
            eventually(lambda: ran == [1, 2], "it goes on")
            eventually(producer.workers, "it is listed")
        worker.enqueue("q", {"n": 3})
        eventually(lambda: ran == [1, 2, 3], "it enqueues there")
    assert caplog.text.count("was replaced while it was open") == 1


def test_a_file_that_is_replaced(path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Jobs go into the file that was put in the place of the one that was open, which is said."""
    with SqliteBackend(tmp_path / "backup.db", autostart=False) as other:
        other.enqueue("old", {"n": 0})
    with SqliteBackend(path, autostart=False) as backend:
        backend.enqueue("q", {"n": 1})
        assert len(backend.jobs()) == 1
        remove(path)
        (tmp_path / "backup.db").rename(path)
        backend.enqueue("q", {"n": 2})
        assert [job.queue for job in backend.jobs()] == ["q", "old"]
    assert caplog.text.count("was replaced while it was open") == 1
    with SqliteBackend(path, autostart=False) as backend:
        assert [job.queue for job in backend.jobs()] == ["q", "old"]


# -- first used in a transaction -------------------------------------------------------------------------


@pytest.mark.parametrize("begin", ["begin immediate", "begin exclusive", "begin", ""])
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("used", [False, True])
def test_a_first_call_inside_a_transaction(path: Path, begin: str, many: bool, used: bool) -> None:
    """A process may begin with an enqueue in a transaction; tables that are not there are made in it."""
    if used:
        with SqliteBackend(path, autostart=False) as backend:
            backend.queues()
    connection = sqlite3.connect(path, isolation_level=None if begin else "DEFERRED")
    connection.execute("create table users (name text)")
    with SqliteBackend(path, autostart=False, busy_timeout=60) as backend:
        for end in ("rollback", "commit"):
            began = time.monotonic()
            if begin:
                connection.execute(begin)
            connection.execute("insert into users values ('ada')")
            if many:
                backend.enqueue_many([neoq.Job("q", {"n": 1})], transaction=connection)
            else:
                backend.enqueue("q", {"n": 1}, transaction=connection)
            assert time.monotonic() - began < 5
            connection.execute(end)
        assert len(backend.jobs()) == 1
        assert not backend.enqueue("q", {"n": 2}).duplicate
    assert connection.execute("select count(*) from users").fetchone() == (1,)
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()


def test_tables_that_were_rolled_back_are_made_again(path: Path) -> None:
    """Tables that went with the caller's transaction are there for the next call."""
    connection = sqlite3.connect(path, isolation_level=None)
    with SqliteBackend(path, autostart=False) as backend:
        connection.execute("begin immediate")
        backend.enqueue("q", transaction=connection)
        connection.execute("rollback")
        assert backend.enqueue("q").id == 1
        assert backend.stats().ready == 1
    connection.close()
