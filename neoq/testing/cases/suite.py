"""What the cases stand on: backends that are closed after each case, and ways to wait for what happens.

Real time throughout: spans are short, waits are for events and bounded by PATIENCE, and no case asserts
that something was quick.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

import pytest

from neoq.backend import Backend
from neoq.errors import BackendClosedError
from neoq.job import Job
from neoq.record import Status

PATIENCE = 10.0  # seconds until what never happens is a failure
A_WHILE = 0.1  # seconds in which what must not happen would have happened
LATER = 3600.0  # seconds: a job due then stays a future job throughout its case

T = TypeVar("T")
Case = TypeVar("Case", bound=Callable[..., None])
Make = Callable[..., Backend]


def needs(*features: str) -> Callable[[Case], Case]:
    """Collect a case only for backends that have all of these features."""
    return _mark("_needs", features)


def without(*features: str) -> Callable[[Case], Case]:
    """Collect a case only for backends that have none of these features."""
    return _mark("_without", features)


def _mark(name: str, features: tuple[str, ...]) -> Callable[[Case], Case]:
    def decorate(case: Case) -> Case:
        setattr(case, name, frozenset(features))
        return case

    return decorate


class Suite:
    """The backends of one case. See `BackendConformance` for what a subclass overrides."""

    features: ClassVar[frozenset[str]] = frozenset()

    def make_backend(self, **options: Any) -> Backend:
        """Return a new backend on an empty store."""
        raise NotImplementedError(f"{type(self).__name__} must say how to make a backend")

    def reopen(self, backend: Backend, **options: Any) -> Backend:
        """Return a new backend on the store of one that was shut down; needed with ``durable``."""
        raise NotImplementedError(f"{type(self).__name__} must say how to reopen the store of {backend}")

    def another(self, backend: Backend, **options: Any) -> Backend:
        """Return a second backend on the store of a live one; needed with ``shared``."""
        raise NotImplementedError(f"{type(self).__name__} must say how to share the store of {backend}")

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """Settings of every backend of the suite; override to add your own."""
        return {
            "job_check_interval": 0.05,
            "shutdown_timeout": 5.0,
            "heartbeat": 0.1,
            "autostart": True,  # on a durable store, too
        }

    @pytest.fixture
    def opened(self) -> Iterator[list[Backend]]:
        """The backends of this case; each is closed at its end, the newest first."""
        before = set(threading.enumerate())
        backends: list[Backend] = []
        yield backends
        for backend in reversed(backends):
            _close(backend)
        _expect_to_end(set(threading.enumerate()) - before)

    @pytest.fixture
    def make(self, opened: list[Backend], options: dict[str, Any]) -> Make:
        """Return how to open a backend on an empty store, with settings beside the usual ones."""

        def make(**settings: Any) -> Backend:
            opened.append(self.make_backend(**{**options, **settings}))
            return opened[-1]

        return make

    @pytest.fixture
    def join(self, opened: list[Backend], options: dict[str, Any]) -> Make:
        """Return how to open a second backend on the store of a live one."""

        def join(backend: Backend, **settings: Any) -> Backend:
            opened.append(self.another(backend, **{**options, **settings}))
            return opened[-1]

        return join

    @pytest.fixture
    def again(self, opened: list[Backend], options: dict[str, Any]) -> Make:
        """Return how to open a backend on the store of one that was shut down."""

        def again(backend: Backend, **settings: Any) -> Backend:
            opened.append(self.reopen(backend, **{**options, **settings}))
            return opened[-1]

        return again

    @pytest.fixture
    def backend(self, make: Make) -> Backend:
        """A backend with the usual settings on an empty store."""
        return make()

    @pytest.fixture
    def waiting(self, make: Make) -> Backend:
        """A backend that runs nothing until `start`."""
        return make(autostart=False)

    @pytest.fixture
    def seen(self) -> Seen:
        """What the handlers of this case report."""
        return Seen()

    @pytest.fixture
    def gate(self, opened: list[Backend]) -> Iterator[threading.Event]:  # noqa: ARG002  # opens before they close
        """What busy handlers wait for; open at the end of the case at the latest."""
        gate = threading.Event()
        yield gate
        gate.set()


class _LeftOut:
    """Stands where a case would be that is not meant for a backend: pytest collects nothing there."""

    def __init__(self, case: Any) -> None:
        self.case = case


def leave_out_cases(suite: type[Suite]) -> None:
    """Keep those cases of a suite that its features ask for; also after a parent with other features."""
    for name in dir(suite):
        if name.startswith("test_"):
            found = getattr(suite, name)
            case = found.case if isinstance(found, _LeftOut) else found
            wanted = case if _applies(case, suite.features) else _LeftOut(case)
            if isinstance(wanted, _LeftOut) or found is not case:
                setattr(suite, name, wanted)


def _applies(case: Any, features: frozenset[str]) -> bool:
    needed: frozenset[str] = getattr(case, "_needs", frozenset())
    unwanted: frozenset[str] = getattr(case, "_without", frozenset())
    return needed <= features and not unwanted & features


def _close(backend: Backend) -> None:
    """Shut down, and hold the report against what was unfinished: no job is lost without a word."""
    try:
        backend.enqueue_many([])
    except BackendClosedError:  # the case did it, and looked at the report itself
        return
    unfinished = _at_rest(backend)
    report = backend.shutdown(timeout=1.0)
    told = {job.id for job in (*report.finished, *report.interrupted, *report.given_back, *report.lost)}
    if "durable" in type(backend).features:
        assert not report.lost, f"a durable backend lost {report.lost}"
    else:
        assert unfinished <= told, f"lost without a word: {sorted(unfinished - told)}"


def _at_rest(backend: Backend) -> set[int]:
    """Pause everything, let what runs end, and return the ids of the jobs that are left."""
    for counts in backend.queues():
        backend.pause(counts.queue)
    left: list[tuple[int, Status]] = []
    for _ in range(10):
        before, left = left, [(id_of(job), job.status) for job in unfinished_jobs(backend)]
        if left == before:
            break
        time.sleep(0.02)
    return {job_id for job_id, _ in left}


def _expect_to_end(threads: Iterable[threading.Thread]) -> None:
    ours = [thread for thread in threads if thread.name.startswith("neoq-")]
    give_up = time.monotonic() + PATIENCE
    for thread in ours:
        thread.join(max(0.0, give_up - time.monotonic()))
    alive = [thread.name for thread in ours if thread.is_alive()]
    assert not alive, f"threads that outlived their backend: {alive}"


class Seen:
    """A list that handlers append to by calling it, and that cases wait for."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._more = threading.Condition()

    def __call__(self, item: Any = None) -> None:
        """Append an item, and wake the threads that wait for it."""
        with self._more:
            self.items.append(item)
            self._more.notify_all()

    def wait(self, count: int = 1) -> list[Any]:
        """Wait until so many were seen, and return them all."""
        with self._more:
            enough = self._more.wait_for(lambda: len(self.items) >= count, PATIENCE)
            assert enough, f"{count} were expected and only {self.items} seen"
            return list(self.items)

    def stays(self, count: int) -> None:
        """Check for a while that no more than these come."""
        with self._more:
            self._more.wait_for(lambda: len(self.items) > count, A_WHILE)
            assert len(self.items) == count, f"{count} were expected and {self.items} seen"


def eventually(probe: Callable[[], T], what: str) -> T:
    """Return the first true value of ``probe``."""
    give_up = time.monotonic() + PATIENCE
    while not (value := probe()):
        assert time.monotonic() < give_up, f"it never happened: {what} (last: {value!r})"
        time.sleep(0.005)
    return value


def reached(backend: Backend, job: Job, *statuses: Status) -> Job:
    """Wait until a job has one of these statuses, and return its snapshot."""

    def look() -> Job | None:
        found = backend.get(id_of(job))
        return found if found is not None and found.status in statuses else None

    wanted = " or ".join(status.name for status in statuses)
    found = eventually(look, f"{job} becomes {wanted}; it is {backend.get(id_of(job))}")
    assert found is not None
    return found


def ended(backend: Backend, job: Job) -> Job:
    """Wait until a job has ended, and return its snapshot."""
    return reached(backend, job, Status.SUCCEEDED, Status.DEAD, Status.CANCELLED)


def unfinished_jobs(backend: Backend) -> list[Job]:
    """Every job in the store that has not ended."""
    states = (Status.PENDING, Status.RUNNING, Status.RETRYING)
    return [job for status in states for job in backend.jobs(status=status, limit=1000)]


def busy(gate: threading.Event) -> None:
    """Work until the gate opens, in steps between which an interrupt can land."""
    while not gate.wait(0.005):
        pass


def hang(gate: threading.Event) -> None:
    """Block in C until the gate opens: no interrupt can land before."""
    gate.wait()


def ignore(_job: Job) -> None:
    """Do nothing, successfully."""


def fail(_job: Job) -> None:
    """Fail each attempt."""
    raise RuntimeError("it always fails")


def id_of(job: Job) -> int:
    """The id of a job that was accepted."""
    assert job.id is not None, f"{job} was not accepted"
    return job.id


def prepared(queue: str, payload: Mapping[str, Any] | None = None, **keywords: Any) -> Job:
    """Make a job as enqueue hands it to `Store.add`: checked, serialised, with its times."""
    job = Job(queue, payload, **keywords)
    job.prepare(time.time(), 2**20)
    return job


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """Run ``work(0)`` to ``work(count - 1)`` at once, each in its own thread; return what they returned."""
    together = threading.Barrier(count)
    results: dict[int, T] = {}
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            together.wait(PATIENCE)
            results[number] = work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert len(results) == count, f"only {sorted(results)} of {count} threads came to an end"
    return [results[number] for number in range(count)]


class Background:
    """A call in a thread of its own, for calls that block."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:
            self._error = error

    def blocks(self) -> bool:
        """Whether the call is still under way after a while."""
        self._thread.join(A_WHILE)
        return self._thread.is_alive()

    def result(self) -> Any:
        """Wait for the call; return or raise what it did."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the call never returned"
        if self._error is not None:
            raise self._error
        return self._result
