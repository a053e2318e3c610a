"""Settles the last member of a batch in a SQLite file again and again, and is killed before each statement.

    python dies_in_a_file.py DIRECTORY

Each time is a child of its own, on a copy of the file. Prints for each what the file says afterwards: the
members that had ended after the death, and how often the callback was claimed in the end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from neoq.held.group import Batch, BatchRules, Group
from neoq.outcome import Outcome, lease_of
from neoq.record import Status
from neoq.sqlite.backend import SqliteBackend
from neoq.store import Demand
from neoq.testing.cases.suite import prepared

armed = False
numbers = itertools.count()
before = -1
connect = sqlite3.connect


def look(_statement: str) -> None:
    """Die before the statement whose number it is."""
    if armed and next(numbers) == before:
        os.kill(os.getpid(), signal.SIGKILL)


def connect_and_look(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
    connection: sqlite3.Connection = connect(*arguments, **keywords)
    connection.set_trace_callback(look)
    return connection


def settle_one(backend: SqliteBackend) -> None:
    [job] = backend.store.claim([Demand("q", 1)]).jobs
    global armed  # noqa: PLW0603
    armed = True
    backend.store.settle([Outcome(lease_of(job), Status.SUCCEEDED, finished_at=1.0)])
    armed = False


def prepare(path: Path) -> int:
    """Make a batch of two members, of which one has ended; return the id of its callback."""
    with SqliteBackend(path, autostart=False, synchronous="off") as backend:
        backend.queues()
        store = backend.store
        then = store.open_batch(prepared("then", unique=False), BatchRules(7), token=b"")
        members = [prepared("q", {"n": n}, unique=False) for n in range(2)]
        for member in members:
            member.group, member.producer = str(Group(then.id)), 7
        store.add(members, token=b"")
        store.seal(then.id, 7)
        settle_one(backend)
        return then.id


def settle_and_die(path: Path) -> None:
    sqlite3.connect = connect_and_look  # type: ignore[assignment]
    with SqliteBackend(path, autostart=False, synchronous="off") as backend:
        backend.queues()
        settle_one(backend)


def what_it_says(path: Path, then: int) -> tuple[int, bool, int]:
    """Members that had ended, whether the callback was ready, and how often it ran in the end."""
    with SqliteBackend(path, autostart=False, synchronous="off") as backend:
        counts = {one.queue: one for one in backend.queues()}
        group = backend.store.group(then)
        assert isinstance(group, Batch)
        backend.store.reclaim()
        ran = 0
        while jobs := backend.store.claim([Demand("q", 9), Demand("then", 9)]).jobs:
            ran += sum(job.id == then for job in jobs)
            backend.store.settle([Outcome(lease_of(job), Status.SUCCEEDED, finished_at=1.0) for job in jobs])
        return group.ended, bool(counts["then"].ready), ran


directory = Path(sys.argv[1])
prepared_file = directory / "prepared.db"
then = prepare(prepared_file)
for before in range(100):
    path = directory / f"{before}.db"
    shutil.copy(prepared_file, path)
    child = os.fork()
    if child == 0:
        settle_and_die(path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(*what_it_says(path, then), flush=True)
    if not os.WIFSIGNALED(status):
        break
