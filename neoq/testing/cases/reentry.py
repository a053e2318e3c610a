"""Code that Python runs in the middle of a call of ours: it is served or refused, and waits for nothing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

import neoq
from neoq.backend import Backend
from neoq.errors import NeoqError
from neoq.job import Job
from neoq.record import Status
from neoq.testing.cases.suite import Background, Make, Suite, ended, id_of, ignore

_PACKAGE = os.path.dirname(neoq.__file__)  # noqa: PTH120  # as code objects spell it


class _Between:
    """Calls something once before each line of the package that a thread comes to, as a trace function."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.refused: list[NeoqError] = []
        self.served: list[Any] = []
        self.broken: list[BaseException] = []
        self._call = call
        self._seen: set[tuple[str, int]] = set()
        self._busy: set[int] = set()

    def __call__(self, frame: FrameType, event: str, _argument: object) -> Any:
        file = frame.f_code.co_filename
        if os.path.dirname(file) != _PACKAGE:  # noqa: PTH120
            return None
        line, me = (file, frame.f_lineno), threading.get_ident()
        if event == "line" and line not in self._seen and me not in self._busy:
            self._seen.add(line)
            self._busy.add(me)
            try:
                self.served.append(self._call())
            except NeoqError as error:
                self.refused.append(error)
            except BaseException as error:
                self.broken.append(error)
            finally:
                self._busy.discard(me)
        return self

    @contextmanager
    def here(self) -> Iterator[None]:
        """Between the lines that this thread comes to."""
        before = sys.gettrace()
        sys.settrace(self)
        try:
            yield
        finally:
            sys.settrace(before)

    @contextmanager
    def in_threads(self) -> Iterator[None]:
        """Between the lines of threads that are started inside the block."""
        before = threading.gettrace()
        threading.settrace(self)
        try:
            yield
        finally:
            threading.settrace(before)


CALLS: dict[str, Callable[[Backend, Job], Any]] = {
    "enqueue": lambda backend, _job: backend.enqueue("q", {"in": "between"}, unique=False),
    "enqueue_many": lambda backend, _job: backend.enqueue_many(
        [Job("q", unique=False), Job("q", unique=False)]
    ),
    "get": lambda backend, job: backend.get(id_of(job)),
    "cancel": lambda backend, job: backend.cancel(id_of(job)),
    "stats": lambda backend, _job: backend.stats(),
}


class ReentryCases(Suite):
    """A signal handler, a finalizer or a trace function that calls the backend never waits for itself."""

    @pytest.mark.parametrize("kind", CALLS)
    def test_a_call_in_the_middle_of_another(self, backend: Backend, kind: str) -> None:
        """What is called between two lines of a call is served or refused, and that call ends."""
        backend.listen("q", ignore)
        first = backend.enqueue("q", {"n": -1})
        between = _Between(lambda: CALLS[kind](backend, first))

        def produce() -> list[Job]:
            with between.here():
                jobs = [
                    backend.enqueue("q", {"n": 0}),
                    *backend.enqueue_many([Job("q", {"n": 1}), Job("q", {"n": 2})]),
                ]
                backend.get(id_of(jobs[0]))
                backend.stats()
                jobs.append(backend.enqueue("q", {"n": 3}, run_after=0.01))
                backend.cancel(id_of(first))
            return jobs

        jobs = Background(produce).result()
        assert {ended(backend, job).status for job in jobs} == {Status.SUCCEEDED}
        assert not between.broken
        assert between.served
        assert all("in the middle of another call" in str(error) for error in between.refused)
        if kind == "enqueue":
            assert {ended(backend, job).status for job in between.served} == {Status.SUCCEEDED}

    @pytest.mark.parametrize("kind", CALLS)
    def test_a_call_in_the_middle_of_the_first(self, make: Make, kind: str) -> None:
        """That is so while the first call opens the store and starts the threads, too."""
        backend = make()
        backend.listen("q", ignore)
        between = _Between(
            lambda: CALLS[kind](backend, Job("q")) if kind.startswith("e") else backend.stats()
        )

        def produce() -> Job:
            with between.here():
                return backend.enqueue("q", {"n": 0})

        job = Background(produce).result()
        assert ended(backend, job).status is Status.SUCCEEDED
        assert not between.broken
        if kind == "enqueue":
            assert {ended(backend, job).status for job in between.served} == {Status.SUCCEEDED}

    @pytest.mark.parametrize("kind", CALLS)
    def test_a_call_in_the_middle_of_our_threads(self, make: Make, kind: str) -> None:
        """A finalizer that runs in a thread of the backend holds up no job."""
        backend = make()
        first: list[Job] = []
        between = _Between(lambda: CALLS[kind](backend, first[0]) if first else None)
        with between.in_threads():
            backend.listen("q", ignore, concurrency=2)
            first.append(backend.enqueue("q", {"n": -1}))
            jobs = [backend.enqueue("q", {"n": n}) for n in range(5)]
            assert {ended(backend, job).status for job in jobs} == {Status.SUCCEEDED}
            assert backend.drain(10.0)
        assert not between.broken
        assert between.served
