"""Limits of a queue over four real processes, one of which is killed in a handler.

The processes are forked, and write what they do into a book that all of them append to.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.job import Job
from neoq.retry import RetryPolicy
from tests.killing import Make

PROCESSES = 4
PATIENCE = 60.0
KEYS = ("a", "b")
EACH = 8  # jobs of a key
FATAL = 3  # the number of the job whose first attempt kills its process

LIMITS: dict[str, dict[str, Any]] = {
    "ordered": {"ordered": True},
    "per_key": {"per_key": 2},
    "max_running": {"max_running": 3},
}
MOST = {"ordered": 1, "per_key": 2, "max_running": 3}  # of a key, or of the queue, at once
ALL = {"ordered": 2, "per_key": 4, "max_running": 3}


class Book:
    """What the processes do: lines "start key n pid", "end key n pid" and "killed key n pid"."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._writing = threading.Lock()

    def write(self, word: str, job: Job) -> None:
        """Add a line, which outlives a kill."""
        with self._writing:
            self._add(word, job)

    def write_and_die(self, job: Job) -> None:
        """Add the last line of this process: no other thread of it writes between that and its end."""
        with self._writing:
            self._add("killed", job)
            os.kill(os.getpid(), signal.SIGKILL)

    def _add(self, word: str, job: Job) -> None:
        os.write(self._lines, f"{word} {job.key} {job.payload['n']} {os.getpid()}\n".encode())

    def read(self) -> list[tuple[str, str, int, int]]:
        """All lines."""
        lines = [line.split() for line in self._path.read_text().splitlines()]
        return [(word, key, int(n), int(pid)) for word, key, n, pid in lines]

    def running(self) -> set[tuple[str, int]]:
        """What runs now: key and number."""
        return running_after(self.read())

    def close(self) -> None:
        """Close it."""
        os.close(self._lines)


def running_after(lines: list[tuple[str, str, int, int]]) -> set[tuple[str, int]]:
    """What runs after these lines."""
    running: dict[tuple[str, int], int] = {}
    for word, key, n, pid in lines:
        if word == "start":
            running[key, n] = pid
        elif word == "end":
            running.pop((key, n), None)
        else:
            running = {one: other for one, other in running.items() if other != pid}
    return set(running)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Book]:
    book = Book(tmp_path / "book")
    yield book
    book.close()


def worker(backend: Backend, book: Book, which: str) -> None:
    """Run jobs until the process is killed; the first attempt at one of them kills it."""

    def handler(job: Job) -> None:
        book.write("start", job)
        if job.payload["n"] == FATAL and job.key == "a" and not job.crashes:
            book.write_and_die(job)
        # As long as not so many run as may, some wait for the others: the bound is reached.
        give_up = time.monotonic() + 0.1
        while len(book.running()) < ALL[which] and time.monotonic() < give_up:
            time.sleep(0.005)
        time.sleep(0.01)
        book.write("end", job)

    backend.listen("q", handler, concurrency=3, retry=RetryPolicy(delay=0.0), **LIMITS[which])
    backend.start()
    threading.Event().wait()


@contextmanager
def fleet(make: Make, run: Callable[[Backend], None]) -> Iterator[list[int]]:
    """So many processes that run this, and are killed at the end."""
    pids: list[int] = []
    try:
        for _ in range(PROCESSES):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the child uses no thread of ours
                pid = os.fork()
            if not pid:
                try:
                    run(make())
                finally:
                    os._exit(1)
            pids.append(pid)
        yield pids
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.mark.parametrize(
    "which", [pytest.param("ordered", marks=pytest.mark.faults), "per_key", "max_running"]
)
def test_limits_over_processes_one_of_which_is_killed(durable: Make, book: Book, which: str) -> None:
    """Of a key, or a queue, never more run at once in all processes than may, and as many as may do."""
    make = partial(durable, lease=5.0, heartbeat=0.2)
    with make() as backend:
        backend.limit("q", **LIMITS[which])
        backend.enqueue_many(Job("q", {"n": n}, key=key, unique=False) for n in range(EACH) for key in KEYS)
        with fleet(make, partial(worker, book=book, which=which)):
            give_up = time.monotonic() + PATIENCE
            while backend.stats().succeeded < EACH * len(KEYS):
                assert time.monotonic() < give_up, book.read()
                time.sleep(0.02)
    check(book.read(), which)


def check(lines: list[tuple[str, str, int, int]], which: str) -> None:
    """Hold what was written against what is promised."""
    most = 0
    for count in range(1, len(lines) + 1):
        running = running_after(lines[:count])
        of_key = Counter(key for key, _ in running)
        now = len(running) if which == "max_running" else max(of_key.values(), default=0)
        assert now <= MOST[which], lines[:count]
        most = max(most, now)
    assert most == MOST[which], lines
    assert {word for word, *_ in lines} == {"start", "end", "killed"}
    assert len({pid for word, _, _, pid in lines if word == "end"}) > 1, lines
    if which == "ordered":
        for key in KEYS:
            starts = [n for word, of, n, _ in lines if word == "start" and of == key]
            assert starts == sorted(starts), starts
