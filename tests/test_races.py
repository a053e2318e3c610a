"""Threads that meet: one fingerprint, one capacity, one end, in whatever order they come."""

from __future__ import annotations

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import neoq
from neoq.clock import SystemClock
from neoq.memory.future import HeadTimer
from neoq.store import Page
from neoq.threads.lifecycle import Wakeup
from neoq.threads.loop import Loop

pytestmark = pytest.mark.usefixtures("autostart")

PATIENCE = 20.0


@pytest.fixture(autouse=True)
def switching_threads_often() -> Iterator[None]:
    """Let threads take turns after microseconds, so that they meet at every bytecode."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


class Meeting:
    """Threads that wait for each other before each round, so that all act in the same instant."""

    def __init__(self, rounds: int, acts: list[Callable[[int], Any]]) -> None:
        self.results: list[list[Any]] = [[] for _ in acts]
        self._barrier = threading.Barrier(len(acts))
        self._rounds = rounds
        self._threads = [
            threading.Thread(target=self._run, args=(act, results), daemon=True)
            for act, results in zip(acts, self.results, strict=True)
        ]

    def _run(self, act: Callable[[int], Any], results: list[Any]) -> None:
        try:
            for number in range(self._rounds):
                self._barrier.wait(PATIENCE)
                results.append(act(number))
        except BaseException as error:
            results.append(error)
            self._barrier.abort()

    def hold(self) -> list[list[Any]]:
        """Let them meet; return what each act returned in each round."""
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        errors = [
            result for results in self.results for result in results if isinstance(result, BaseException)
        ]
        if errors:
            raise errors[0]
        return self.results


def test_threads_with_one_fingerprint_make_one_job() -> None:
    """Of threads that enqueue the same payload in the same instant one stores it, the others get it."""
    rounds = 3_000
    with neoq.MemBackend(autostart=False, queue_capacity=None) as backend:
        backend.listen("q", lambda job: None)
        results = Meeting(rounds, [lambda n: backend.enqueue("q", {"n": n})] * 3).hold()
        for jobs in zip(*results, strict=True):
            assert len({job.id for job in jobs}) == 1
            assert sorted(job.duplicate for job in jobs) == [False, True, True]
        assert backend.stats().ready == rounds
        backend.shutdown()


def test_batches_with_one_fingerprint_make_one_job() -> None:
    """Batches and single jobs that meet on some fingerprints store each once."""
    rounds = 1_000

    def batch(n: int) -> list[neoq.Job]:
        return backend.enqueue_many([neoq.Job("q", {"n": n, "part": part}) for part in range(5)])

    with neoq.MemBackend(autostart=False, queue_capacity=None) as backend:
        backend.listen("q", lambda job: None)
        one, other, single = Meeting(
            rounds, [batch, batch, lambda n: [backend.enqueue("q", {"n": n, "part": 3})]]
        ).hold()
        new = [job.id for jobs in (*one, *other, *single) for job in jobs if not job.duplicate]
        assert len(new) == len(set(new)) == 5 * rounds == backend.stats().ready
        backend.shutdown()


def test_an_enqueue_that_meets_the_end_of_its_twin_is_never_lost() -> None:
    """A payload is enqueued over and over while it runs: each new job runs, each twin was unfinished."""
    runs: Counter[int] = Counter()
    accepted: list[int] = []
    with neoq.MemBackend(max_finished=None) as backend:

        @backend.listen("q", concurrency=2, max_retries=0)
        def handler(job: neoq.Job) -> None:
            assert job.id is not None
            runs[job.id] += 1

        def enqueue(n: int) -> None:
            job = backend.enqueue("q", {"same": True})
            if not job.duplicate:
                assert job.id is not None
                accepted.append(job.id)
            else:
                assert job.status in {neoq.Status.PENDING, neoq.Status.RUNNING}

        Meeting(5_000, [enqueue] * 3).hold()
        assert backend.drain(PATIENCE)
        assert len(accepted) == len(set(accepted))
        assert runs == Counter(accepted)
        last = backend.enqueue("q", {"same": True})
        assert not last.duplicate


def test_a_failing_job_keeps_its_fingerprint_between_attempts() -> None:
    """While a job fails and waits for its retries, enqueueing its payload never makes a second one."""
    running = threading.Semaphore(0)
    together = Counter[str]()
    with neoq.MemBackend(max_finished=None) as backend:

        @backend.listen("q", concurrency=4, max_retries=20, retry=neoq.RetryPolicy(delay=0.001))
        def handler(job: neoq.Job) -> None:
            together["now"] += 1
            together["most"] = max(together["most"], together["now"])
            running.release()
            together["now"] -= 1
            if job.attempt < 20:
                raise ValueError("again")

        first = backend.enqueue("q", {"same": True})
        ids: set[int | None] = set()
        for _ in range(20):
            ids |= {backend.enqueue("q", {"same": True}).id for _ in range(20)}
            assert running.acquire(timeout=PATIENCE)
        assert first.id is not None
        done = backend.wait(first.id, PATIENCE)
        assert (done.status, done.retries) == (neoq.Status.SUCCEEDED, 19)
        assert ids - {first.id} == set() or len(ids) <= 2  # a new one is possible only after the last attempt
        assert together["most"] == 1


def test_replacing_meets_the_start_of_the_job() -> None:
    """A waiting job that is replaced as it starts runs with the old payload or the new, never twice."""
    rounds = 2_000
    ran: list[tuple[int, int]] = []
    with neoq.MemBackend() as backend:
        record = lambda job: ran.append((job.payload["n"], job.payload["version"]))  # noqa: E731
        backend.listen("q", record, concurrency=2)

        def first(n: int) -> neoq.Job:
            return backend.enqueue("q", {"n": n, "version": 1}, fingerprint=f"f{n}")

        def second(n: int) -> neoq.Job:
            return backend.enqueue("q", {"n": n, "version": 2}, fingerprint=f"f{n}", on_duplicate="replace")

        ones, twos = Meeting(rounds, [first, second]).hold()
        assert backend.drain(PATIENCE)
        new = sum(not job.duplicate for job in (*ones, *twos))
        assert len(ran) == new
        assert {n for n, _ in ran} == set(range(rounds))


def test_cancel_meets_the_start_of_the_job() -> None:
    """A job that is cancelled as it starts runs or does not, and ends once; nothing else is cancelled."""
    rounds = 2_000
    ran: list[int] = []
    with neoq.MemBackend(max_finished=None) as backend:
        backend.listen("q", lambda job: ran.append(job.payload["n"]), concurrency=2, max_retries=0)
        made: dict[int, neoq.Job] = {}
        known = [threading.Event() for _ in range(rounds)]

        def enqueue(n: int) -> int | None:
            made[n] = backend.enqueue("q", {"n": n})
            known[n].set()
            return made[n].id

        def cancel(n: int) -> bool:
            known[n].wait(PATIENCE)
            job_id = made[n].id
            assert job_id is not None
            return backend.cancel(job_id)

        Meeting(rounds, [enqueue, cancel]).hold()
        assert backend.drain(PATIENCE)
        ended = Counter(job.status for job in backend.jobs("q", limit=rounds))
        assert ended[neoq.Status.SUCCEEDED] + ended[neoq.Status.CANCELLED] == rounds
        assert len(ran) >= ended[neoq.Status.SUCCEEDED]
        assert len(ran) == len(set(ran))
        stats = backend.stats()
        assert (stats.ready, stats.running, stats.retrying, stats.scheduled) == (0, 0, 0, 0)


def test_a_small_capacity_holds_under_many_producers() -> None:
    """Producers that block on a full queue all get through, each job runs once, and the bound holds."""
    producers, each = 4, 200
    ran: Counter[str] = Counter()
    most = 0
    with neoq.MemBackend(enqueue_timeout=None) as backend:

        @backend.listen("q", concurrency=2, capacity=5)
        def handler(job: neoq.Job) -> None:
            nonlocal most
            most = max(most, backend.stats().ready)
            ran[f"{job.payload['who']}-{job.payload['n']}"] += 1

        def produce(who: int) -> Callable[[int], Any]:
            return lambda n: backend.enqueue("q", {"who": who, "n": n})

        Meeting(each, [produce(who) for who in range(producers)]).hold()
        assert backend.drain(PATIENCE)
    assert len(ran) == producers * each
    assert set(ran.values()) == {1}
    assert most <= 5


def test_listening_at_the_same_time_gives_one_listener() -> None:
    """Of two threads that listen on one queue in the same instant one is refused."""

    def listen(n: int) -> str:
        try:
            backend.listen(f"q{n}", lambda job: None)
        except neoq.ListenerExistsError:
            return "refused"
        return "listens"

    with neoq.MemBackend(autostart=False) as backend:
        for pair in zip(*Meeting(500, [listen, listen]).hold(), strict=True):
            assert sorted(pair) == ["listens", "refused"]


def test_an_end_that_comes_as_its_waiter_looks_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that finds a job unfinished ends at once if the job has ended before the wait begins."""
    gate = threading.Event()
    with neoq.MemBackend(job_check_interval=3600) as backend:
        backend.listen("q", lambda job: gate.wait(PATIENCE))
        job = backend.enqueue("q")
        find = backend.store.find

        def find_just_before(*arguments: Any, **options: Any) -> Page:
            found = find(*arguments, **options)
            gate.set()
            assert backend.drain(PATIENCE)
            monkeypatch.undo()
            return found

        monkeypatch.setattr(backend.store, "find", find_just_before)
        waiter = threading.Thread(target=backend.wait, args=(job.id,), daemon=True)
        waiter.start()
        waiter.join(PATIENCE)
        assert not waiter.is_alive()


# --------------------------------------------------------------------------------------------- a missed end


class TakesACallAway(Wakeup):
    """A wakeup whose first clear() comes just after the set() of the call that closes its thread."""

    def __init__(self, is_closing: Callable[[], bool]) -> None:
        super().__init__()
        self.reached, self._gate, self._is_closing = threading.Event(), threading.Event(), is_closing

    def set(self) -> None:
        super().set()
        if self._is_closing():
            self._gate.set()

    def clear(self) -> None:
        self.reached.set()
        self._gate.wait(PATIENCE)
        super().clear()


def test_a_thread_never_misses_its_end() -> None:
    """A thread that begins a turn in the instant of its close ends at once, and not when it is next due."""
    loop = Loop("neoq-test", lambda: 3600.0, logging.getLogger("neoq"))
    loop.wakeup = wakeup = TakesACallAway(lambda: loop.closing)
    assert loop.start()
    assert wakeup.reached.wait(PATIENCE)
    loop.close(5)
    left = loop.is_alive()
    wakeup.set()
    assert not left


def test_a_timer_never_misses_its_end() -> None:
    """A timer that begins a turn in the instant of its cancel ends at once."""
    timer = HeadTimer(SystemClock(), lambda: None, logging.getLogger("neoq"))
    timer.wakeup = wakeup = TakesACallAway(lambda: timer.closing)
    timer.start()
    assert wakeup.reached.wait(PATIENCE)
    timer.cancel()
    timer.join(5)
    left = timer.is_alive()
    wakeup.set()
    timer.join(PATIENCE)
    assert not left
