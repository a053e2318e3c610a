"""Where a thread is inside neoq, as interrupts and signals see it: marks say so, and not the file."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

import neoq
from neoq.engine import interrupt as timeouts
from neoq.engine.report import ShutdownReport
from neoq.errors import NeoqError
from neoq.job import Job
from neoq.memory.store import MemStore
from neoq.sqlite.store import SqliteStore
from neoq.store import Page, QueueCounts
from neoq.threads.boundary import entered, entrance, is_entrance, is_wall, wall
from neoq.threads.frames import frames_from

PATIENCE = 10.0
PACKAGE = Path(neoq.__file__).parent
Function = TypeVar("Function", bound=Callable[..., Any])

WRAPPER = """
import signal
import time


def around(handler):
    def call(job):
        return handler(job)

    return call


def slow(job, call_next):
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        time.sleep(0.001)
    return call_next(job)


def signalled(job, call_next):
    signal.raise_signal(signal.SIGALRM)
    return call_next(job)


def getting(backend):
    return lambda *_: backend.get(1)


def shutting(backend, closed_by):
    def shut_down(*_):
        backend.shutdown()
        closed_by.append(backend.store.closed_by)

    return shut_down
"""


def in_the_package() -> dict[str, Any]:
    """Functions whose code says that it is of a file of the package."""
    found: dict[str, Any] = {}
    exec(compile(WRAPPER, str(PACKAGE / "wrapper.py"), "exec"), found)
    return found


@pytest.fixture
def backend() -> Iterator[neoq.MemBackend]:
    backend = neoq.MemBackend(concurrency=1, max_retries=0, timeout=0.1, shutdown_timeout=5)
    yield backend
    backend.shutdown()


def ended(backend: neoq.Backend, job: Job) -> Job:
    return backend.wait(job.id, PATIENCE)


def go_on(_job: Job) -> None:
    """A handler that goes on for long, in Python."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        time.sleep(0.001)


def assert_timed_out(backend: neoq.Backend, job: Job) -> None:
    job = ended(backend, job)
    assert job.error == "JobTimeout: ran longer than the queue's timeout of 0.1 s"
    assert backend.stats().abandoned == 0


# ------------------------------------------------------------------------------------------------ wrappers


def test_a_wrapper_of_the_package_is_interrupted(backend: neoq.MemBackend) -> None:
    """A handler inside a wrapper whose code is in the package's folder is interrupted at its timeout."""
    backend.listen("q", in_the_package()["around"](go_on))
    assert_timed_out(backend, backend.enqueue("q"))


def test_middleware_of_the_package_is_interrupted(backend: neoq.MemBackend) -> None:
    """Middleware whose code is in the package's folder is interrupted as that of users is."""
    backend.use(in_the_package()["slow"])
    backend.listen("q", lambda job: None)
    assert_timed_out(backend, backend.enqueue("q"))


PROGRAM = """
import time
import neoq
from neoq.wrapper import around

def go_on(job):
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        time.sleep(0.001)

with neoq.MemBackend(max_retries=0, timeout=0.1) as backend:
    backend.listen("q", around(go_on))
    print(backend.wait(backend.enqueue("q").id, 20).error, backend.stats().abandoned)
"""


def test_a_wrapper_in_a_module_of_the_package_is_interrupted(tmp_path: Path) -> None:
    """So is a handler inside a wrapper that a file of the package defines."""
    copy = shutil.copytree(PACKAGE, tmp_path / "neoq", ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "wrapper.py").write_text(WRAPPER)
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        check=False,
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert child.stdout.strip() == "JobTimeout: ran longer than the queue's timeout of 0.1 s 0", child.stderr


def test_a_retry_policy_is_interrupted(backend: neoq.MemBackend) -> None:
    """What a queue's retry policy calls is interrupted, and its default delay is used."""
    interrupted: list[BaseException] = []

    def delay(_retries: int) -> float:
        try:
            go_on(Job("q"))
        except neoq.JobTimeout as error:
            interrupted.append(error)
            raise
        return 0.0

    @backend.listen("q", max_retries=1, retry=neoq.RetryPolicy(delay=delay))
    def fail(_job: Job) -> None:
        raise ValueError("wrong")

    job = backend.enqueue("q")
    give_up = time.monotonic() + PATIENCE
    while not backend.stats().retrying and time.monotonic() < give_up:
        time.sleep(0.005)
    assert interrupted
    assert backend.stats().abandoned == 0
    assert backend.cancel(job.id)


# --------------------------------------------------------------------------------------------------- calls


class Stand:
    """Where a handler stands, inside a call of neoq, until its interrupt was put off twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.looks = 0
        self.left = False  # and not by an interrupt
        look = timeouts.must_not_interrupt

        def count(ident: int) -> bool:
            found = look(ident)
            self.looks += 1
            return found

        monkeypatch.setattr(timeouts, "must_not_interrupt", count)

    def __call__(self) -> None:
        if self.left or neoq.current_job() is None:
            return
        give_up = time.monotonic() + PATIENCE
        while self.looks < 2 and time.monotonic() < give_up:
            time.sleep(0.001)
        self.left = True

    def __str__(self) -> str:
        self()
        return "half"


class Result(dict[str, Any]):
    stand: Stand

    def items(self) -> Any:
        self.stand()
        return super().items()


class SubclassedStore(SqliteStore):
    """A store of a third party."""

    stand: Stand

    def find(self, *arguments: Any, **options: Any) -> Page:
        self.stand()
        return super().find(*arguments, **options)


class Subclassed(neoq.SqliteBackend):
    """A backend that has it."""

    store_class = SubclassedStore
    store: SubclassedStore


def through_middleware(backend: Subclassed, job: Job, stand: Stand) -> None:
    def middleware(given: Job, call_next: Callable[..., Job]) -> Job:
        stand()
        return call_next(given)

    backend.use_enqueue(middleware)
    backend.enqueue("sink")


def from_a_generator(backend: Subclassed, job: Job, stand: Stand) -> None:
    def jobs() -> Iterator[Job]:
        stand()
        yield Job("sink")

    backend.enqueue_many(jobs())


def complete(backend: Subclassed, job: Job, stand: Stand) -> None:
    result = Result(n=1)
    result.stand = stand
    with sqlite3.connect(backend.config.path) as connection:
        job.complete(connection, result)
        connection.rollback()
    connection.close()


@pytest.mark.parametrize(
    "call",
    [
        through_middleware,
        from_a_generator,
        lambda backend, job, stand: backend.get(job.id),
        lambda backend, job, stand: backend.store.of_ids([job.id]),
        lambda backend, job, stand: job.progress(0.5, stand),
        complete,
    ],
    ids=["enqueue", "enqueue_many", "get", "find", "progress", "complete"],
)
def test_an_interrupt_waits_for_the_end_of_a_call(
    call: Callable[[Subclassed, Job, Stand], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt that comes while the handler is inside a call of neoq is raised when that has returned."""
    backend = Subclassed(tmp_path / "jobs.db", max_retries=0, timeout=0.1, shutdown_timeout=5)
    backend.store.stand = stand = Stand(monkeypatch)
    returned = threading.Event()

    def handler(job: Job) -> None:
        call(backend, job, stand)
        returned.set()
        go_on(job)

    with backend:
        backend.listen("q", handler)
        backend.listen("sink", lambda job: None)
        job = backend.enqueue("q")
        job = ended(backend, job)
        assert (job.error or "").startswith("JobTimeout")
        assert stand.left
        assert backend.stats().abandoned == 0


def decorated(function: Function) -> Function:
    """As a library decorates handlers, methods and all."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return call  # type: ignore[return-value]


class Mine(neoq.MemBackend):
    """A user's backend, with a wrapped method, and one of his own."""

    @decorated
    def enqueue(self, *args: Any, **options: Any) -> Job:
        return super().enqueue(*args, **options)

    @decorated
    def go_on(self, job: Job) -> None:
        go_on(job)


def test_the_methods_of_a_users_backend_are_interrupted() -> None:
    """A method that a user adds to a backend is his code, and so is a decorator that it shares with ours."""
    with Mine(max_retries=0, timeout=0.1, shutdown_timeout=5) as backend:
        backend.listen("q", backend.go_on)
        backend.listen("wrapped", decorated(go_on))
        assert_timed_out(backend, backend.enqueue("q"))
        assert_timed_out(backend, backend.enqueue("wrapped"))


def test_the_methods_of_a_users_job_are_interrupted(backend: neoq.MemBackend) -> None:
    """A method that a user adds to Job is his code; such a job is enqueued as others are."""

    class Mail(Job):
        def go_on(self) -> None:
            go_on(self)

    backend.listen("q", lambda job: Mail("q").go_on())
    assert_timed_out(backend, backend.enqueue(Mail("q")))


# ------------------------------------------------------------------------------------------------- signals


class SignalledStore(SqliteStore):
    """A signal comes in the middle of a call of it."""

    def counts(self) -> list[QueueCounts]:
        signal.raise_signal(signal.SIGALRM)
        return super().counts()


class Signalled(neoq.SqliteBackend):
    """A backend that has it."""

    store_class = SignalledStore


@pytest.mark.parametrize(
    "handler",
    [
        lambda backend: lambda *_: backend.get(1),
        lambda backend: lambda *_: backend.store.of_ids([1]),
        in_the_package()["getting"],
        lambda backend: functools.partial(lambda backend, *_: backend.get(1), backend),
    ],
    ids=["a user's", "of the store", "of the package", "a method's"],
)
def test_a_signal_handler_in_the_middle_of_a_call_is_refused(
    handler: Callable[[neoq.Backend], Callable[..., Any]], tmp_path: Path
) -> None:
    """Whatever file a signal handler is in, it is refused where it would wait for its own thread."""
    with Signalled(tmp_path / "jobs.db") as backend:
        backend.get(1)  # so that the store is open
        before = signal.signal(signal.SIGALRM, handler(backend))
        try:
            with pytest.raises(NeoqError, match="in the middle of another call"):
                backend.stats()
        finally:
            signal.signal(signal.SIGALRM, before)


class ClosedStore(MemStore):
    """It knows by which thread it was closed."""

    closed_by = 0

    def close_store(self) -> None:
        self.closed_by = threading.get_ident()
        super().close_store()


class Closed(neoq.MemBackend):
    """A backend that has it."""

    store_class = ClosedStore
    store: ClosedStore


def shutting(backend: Closed, closed_by: list[int]) -> Callable[..., None]:
    def shut_down(*_: object) -> None:
        backend.shutdown()
        closed_by.append(backend.store.closed_by)  # by now, if at all

    return shut_down


def signalled(job: Job, call_next: Callable[..., Job]) -> Job:
    signal.raise_signal(signal.SIGALRM)
    return call_next(job)


@pytest.mark.parametrize("functions", [globals(), in_the_package()], ids=["a user's", "of the package"])
def test_a_signal_handler_that_shuts_down_in_the_middle_of_a_call(functions: dict[str, Any]) -> None:
    """It only asks a thread to shut down, since the frame below may hold a lock."""
    backend = Closed(shutdown_timeout=5)
    backend.listen("q", lambda job: None)
    backend.enqueue("q")
    backend.use_enqueue(functions["signalled"])
    closed_by: list[int] = []
    before = signal.signal(signal.SIGALRM, functions["shutting"](backend, closed_by))
    try:
        with contextlib.suppress(neoq.BackendClosedError):
            backend.enqueue("q", {"n": 1})
    finally:
        signal.signal(signal.SIGALRM, before)
        backend.shutdown()
    assert closed_by
    assert threading.get_ident() not in closed_by


def test_a_users_shutdown_at_the_end_of_a_block_is_complete() -> None:
    """A backend whose user overrides shutdown is closed when its block has ended."""

    class Shut(Closed):
        def shutdown(self, *args: Any, **options: Any) -> ShutdownReport:
            return super().shutdown(*args, **options)

    with Shut(shutdown_timeout=5) as backend:
        backend.listen("q", lambda job: None)
        backend.enqueue("q")
    assert backend.store.closed_by == threading.get_ident()


# --------------------------------------------------------------------------------------------------- marks


def test_equal_code_is_not_the_same_code() -> None:
    """Two functions whose code is equal are told apart: one that is marked does not mark the other."""
    source = "def stand(see):\n    return see()\n"
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    exec(compile(source, "one.py", "exec"), ours)
    exec(compile(source, "another.py", "exec"), theirs)
    entrance(ours["stand"])
    assert ours["stand"].__code__ == theirs["stand"].__code__
    assert ours["stand"](lambda: is_entrance(sys._getframe(1)))
    assert not theirs["stand"](lambda: is_entrance(sys._getframe(1)))


def test_a_stack_is_looked_at_up_to_the_wall() -> None:
    """What was called by a handler's attempt has not entered neoq, though the attempt itself may have."""

    @wall
    def attempt(call: Callable[[], Any]) -> Any:
        return call()

    @entrance
    def enter(call: Callable[[], Any]) -> Any:
        return call()

    def look() -> Any:
        return entered(frames_from(sys._getframe()))

    assert look() is None
    assert enter(look).f_code is enter.__code__
    assert enter(lambda: attempt(look)) is None
    assert attempt(lambda: enter(look)).f_code is enter.__code__


def test_an_attempt_is_the_wall(backend: neoq.MemBackend) -> None:
    """Between a handler and its attempt there is no entrance, and a call of the handler's passes one."""
    seen: list[list[bool]] = []

    def middleware(job: Job, call_next: Callable[..., Job]) -> Job:
        frames = list(frames_from(sys._getframe()))
        below = next(at for at, frame in enumerate(frames) if is_wall(frame))
        seen.append([is_entrance(frame) for frame in frames[:below]])
        return call_next(job)

    def handler(job: Job) -> None:
        backend.use_enqueue(middleware)
        backend.enqueue("sink")

    backend.listen("q", handler)
    backend.listen("sink", lambda job: None)
    assert ended(backend, backend.enqueue("q")).status is neoq.Status.SUCCEEDED
    assert [sum(marks) for marks in seen] == [1]
