"""Jobs in a SQLite file, each commit on the disk (synchronous=FULL): neoq beside huey and plain SQLite.

The files are in /var/tmp, which is on a disk; /tmp may be in memory.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from contest import Bar, Contest, Handled, Measures, payloads, resident_bytes

RUNNERS = 4
DRAINED = {"neoq": 20_000, "huey": 3_000, "raw, in 100s": 30_000}
TURN = 400  # jobs enqueued before it is the other contender's turn
BACKLOG = {"10,000 waiting": 10_000, "1,000,000 waiting": 1_000_000}
IDLE_SECONDS = 10.0
TABLE = "create table jobs (id integer primary key, queue text, payload blob, claimed integer default 0)"


@contextmanager
def a_file() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/var/tmp", prefix="neoq-bench-") as directory:
        yield str(Path(directory, "jobs.db"))


# -- drain -----------------------------------------------------------------------------------------------


def drain(name: str, quick: bool) -> Measures:
    count = DRAINED[name] // (10 if quick else 1)
    with a_file() as path:
        seconds = {"neoq": drain_neoq, "huey": drain_huey}.get(name, drain_raw)(path, count)
    return {"jobs": count, "jobs/s": count / seconds}


def fill(path: str, count: int, **settings: Any) -> Any:
    """A neoq backend whose jobs wait in the file."""
    import neoq

    backend = neoq.SqliteBackend(path, **settings)
    for start in range(0, count, 1_000):
        batch = payloads(min(1_000, count - start), start)
        backend.enqueue_many([neoq.Job("work", payload) for payload in batch])
    return backend


def drain_neoq(path: str, count: int) -> float:
    """Until the last outcome is on the disk."""
    handled = Handled(count)
    backend = fill(path, count)
    start = time.perf_counter()
    backend.listen("work", lambda job: handled.note(job.payload), concurrency=RUNNERS)
    backend.start()
    handled.wait()
    backend.drain()
    seconds = time.perf_counter() - start
    backend.shutdown()
    handled.check()
    return seconds


def drain_huey(path: str, count: int) -> float:
    """Without results. Its jobs leave the file before they run: a crash loses them."""
    from huey import SqliteHuey

    huey = SqliteHuey(filename=path, results=False, fsync=True)
    handled = Handled(count)
    work = huey.task()(handled.note)
    for payload in payloads(count):
        work(payload)
    consumer = huey.create_consumer(
        workers=RUNNERS, periodic=False, initial_delay=0.001, max_delay=0.001, check_worker_health=False
    )
    start = time.perf_counter()
    consumer.start()
    handled.wait()
    seconds = time.perf_counter() - start
    consumer.stop(graceful=True)
    handled.check()
    return seconds


def connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=60)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = full")
    return connection


def drain_raw(path: str, count: int) -> float:
    """One thread that claims a hundred in one commit, and deletes them in the next."""
    connection = connect(path)
    connection.execute(TABLE)
    connection.execute("begin")
    connection.executemany("insert into jobs (queue, payload) values ('work', ?)", [(b"{}",)] * count)
    connection.execute("commit")
    claim = (
        "update jobs set claimed = 1 where id in"
        " (select id from jobs where claimed = 0 order by id limit 100) returning id"
    )
    left = count
    start = time.perf_counter()
    while left:
        taken = connection.execute(claim).fetchall()
        connection.execute("begin")
        connection.executemany("delete from jobs where id = ?", taken)
        connection.execute("commit")
        left -= len(taken)
    return time.perf_counter() - start


# -- enqueue ---------------------------------------------------------------------------------------------

Put = Callable[[dict[str, Any]], Any]


def enqueue(name: str, quick: bool, threads: int, against: str) -> Measures:
    """Take turns with another contender in one process: a disk may be twice as slow a second later."""
    turns = 1 if quick else 8
    own, other = Putting(name, threads), Putting(against, threads)
    with own, other:
        seconds = [(own.turn(), other.turn()) for _ in range(turns)]
    mine, theirs = (sum(column) for column in zip(*seconds, strict=True))
    jobs = turns * threads * own.each
    return {"jobs": jobs, "jobs/s": jobs / mine, f"x {against}": theirs / mine}


class Putting:
    """Threads that enqueue one by one, some jobs a turn."""

    def __init__(self, name: str, threads: int) -> None:
        self.maker = {"neoq": putting_neoq, "huey": putting_huey, "raw": putting_raw}[name]
        self.threads = threads
        self.each = TURN // threads
        self.next = 0
        self.files = ExitStack()

    def __enter__(self) -> None:
        self.make = self.maker(self.files.enter_context(a_file()))

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def turn(self) -> float:
        """Seconds from the first of their enqueues to the last."""
        ready = threading.Barrier(self.threads + 1)

        def run(start: int) -> None:
            put = self.make()
            put({"n": -1 - start})  # connects
            ready.wait()
            for payload in payloads(self.each, start):
                put(payload)

        starts = range(self.next, self.next + TURN, self.each)
        running = [threading.Thread(target=run, args=(start,)) for start in starts]
        self.next += TURN
        for thread in running:
            thread.start()
        ready.wait()
        begin = time.perf_counter()
        for thread in running:
            thread.join()
        return time.perf_counter() - begin


def putting_neoq(path: str) -> Callable[[], Put]:
    import neoq

    backend = neoq.SqliteBackend(path)
    return lambda: partial(backend.enqueue, "work")


def putting_huey(path: str) -> Callable[[], Put]:
    from huey import SqliteHuey

    def work(payload: dict[str, Any]) -> None: ...

    task = SqliteHuey(filename=path, results=False, fsync=True).task()(work)
    return lambda: task


def putting_raw(path: str) -> Callable[[], Put]:
    """A connection for each thread, which inserts and commits."""
    import json

    connect(path).execute(TABLE)

    def maker() -> Put:
        connection = connect(path)
        insert = "insert into jobs (queue, payload) values ('work', ?)"
        return lambda payload: connection.execute(insert, (json.dumps(payload),))

    return maker


# -- a long backlog, and none ----------------------------------------------------------------------------


def drain_of(name: str, quick: bool) -> Measures:
    """The rate at which the first ten thousand of so many are run."""
    waiting = BACKLOG[name] // (10 if quick else 1)
    measured = BACKLOG["10,000 waiting"] // (10 if quick else 1)
    handled = Handled(measured)
    with a_file() as path:
        backend = fill(path, waiting)
        start = time.perf_counter()
        backend.listen("work", lambda job: handled.note(job.payload), concurrency=RUNNERS)
        backend.start()
        handled.wait()
        seconds = time.perf_counter() - start
        backend.shutdown(timeout=1)
    return {"jobs": measured, "jobs/s": measured / seconds}


def idle(name: str, quick: bool) -> Measures:
    """What a worker without work costs, after its first job."""
    seconds = IDLE_SECONDS / (10 if quick else 1)
    with a_file() as path:
        backend = fill(path, 1)
        backend.listen("work", lambda job: None, concurrency=RUNNERS)
        backend.start()
        backend.drain()
        time.sleep(1.0)
        before = time.process_time()
        time.sleep(seconds)
        used = time.process_time() - before
        memory = resident_bytes()
        backend.shutdown()
    return {"CPU %": 100 * used / seconds, "resident MB": memory / 2**20}


CONTESTS = {
    "sqlite-drain": Contest(
        f"SQLite: draining a full queue, {RUNNERS} runners",
        tuple(DRAINED),
        drain,
        (Bar("SQLite, drain: at least 8 x huey", "jobs/s", at_least=8.0, against="huey"),),
        ratio=("jobs/s", "huey"),
    ),
    "sqlite-enqueue": Contest(
        "SQLite: enqueue one by one, 1 thread",
        ("neoq", "huey", "raw"),
        partial(enqueue, threads=1, against="raw"),
        (Bar("SQLite, 1 thread: at least 0.8 x raw inserts", "x raw", at_least=0.8),),
    ),
    "sqlite-enqueue-8": Contest(
        "SQLite: enqueue one by one, 8 threads",
        ("neoq", "huey", "raw"),
        partial(enqueue, threads=8, against="huey"),
        (Bar("SQLite, 8 threads: at least 3 x huey", "x huey", at_least=3.0),),
    ),
    "sqlite-backlog": Contest(
        f"SQLite: the first 10,000 jobs of a backlog, {RUNNERS} runners",
        tuple(BACKLOG),
        drain_of,
        (
            Bar(
                "SQLite, a million waiting: at least 0.8 x the rate with ten thousand",
                "jobs/s",
                at_least=0.8,
                contender="1,000,000 waiting",
                against="10,000 waiting",
            ),
        ),
        ratio=("jobs/s", "10,000 waiting"),
        long=True,
    ),
    "sqlite-idle": Contest(
        f"SQLite: an idle worker, {RUNNERS} runners",
        ("neoq",),
        idle,
        (
            Bar("SQLite, idle: less than 1 % of a core", "CPU %", at_most=1.0),
            Bar("SQLite, idle: less than 60 MB", "resident MB", at_most=60.0),
        ),
        needs="psutil",
    ),
}
