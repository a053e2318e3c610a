"""What became of every job: how many were accepted, have finished, are dead, ran again, or are lost.

A producer writes down what was accepted, the workers each start and each end of an attempt, and the store
says how each job ended; none of them knows of the others.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import neoq
from tests.processes import Child, running

HERE = Path(__file__).parent
PATIENCE = 45.0


@dataclass
class Accounting:
    """The jobs of one run, counted."""

    accepted: int
    unknown: int  # whose enqueue failed without saying whether they were stored
    finished: int
    dead: int
    lost: int  # accepted, and not ended as the store says, or never run to its end
    doubled: int  # attempts that were not the first
    unexcused: int  # of these the ones whose attempt before was not in a process that was killed
    recovery: float = 0.0  # seconds from the last fault until nothing was left to do
    notes: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Demand that nothing was lost, and that what ran twice had been in the hands of the killed."""
        print(self)
        assert self.accepted > 0, self
        assert self.lost == 0, self
        assert self.dead == 0, self
        assert self.finished == self.accepted, self
        assert self.unexcused == 0, self


@dataclass(frozen=True)
class Attempt:
    """One attempt at a job, as its worker wrote it down."""

    pid: int
    began: float
    ended: float | None


class Load:
    """Workers and a producer on one URL, and the book that each of them keeps."""

    worker_program, producer_program = "worker.py", "producer.py"

    def __init__(self, stack: ExitStack, directory: Path, url: str) -> None:
        self._stack = stack
        self.url = url
        self.record, self.accepted = directory / "record", directory / "accepted"
        self.killed: set[int] = set()
        self.producers: list[Child] = []
        self.workers: list[Child] = []

    def worker(self, url: str | None = None, seconds: float = 0.002, wrong_by: float = 0.0) -> Child:
        """Start a worker; it is ready."""
        command = [
            sys.executable,
            HERE / self.worker_program,
            url or self.url,
            str(self.record),
            str(seconds),
        ]
        child = self._stack.enter_context(running([*command, str(wrong_by)]))
        child.until("ready")
        self.workers.append(child)
        return child

    def producer(self, url: str | None = None, pause: float = 0.003) -> Child:
        """Start a producer; it has begun."""
        command = [
            sys.executable,
            HERE / self.producer_program,
            url or self.url,
            str(self.accepted),
            str(pause),
        ]
        child = self._stack.enter_context(running(command))
        child.until("ready")
        self.producers.append(child)
        return child

    def kill(self, child: Child) -> None:
        """Kill a worker with -9."""
        child.signal(signal.SIGKILL)
        assert child.exit_code() == -signal.SIGKILL
        self.killed.add(child.pid)
        self.workers.remove(child)

    def kill_each_second(self, seconds: int) -> None:
        """Jobs flow; each second one of two workers is killed, and another one takes its place."""
        for _ in range(2):
            self.worker()
        self.producer()
        for _ in range(seconds):
            time.sleep(1.0)
            self.kill(self.workers[0])
            self.worker()

    def stop(self) -> None:
        """Ask all that are left to end, and demand that they do so well."""
        self.stop_producers()
        for child in self.workers:
            child.signal(signal.SIGTERM)
        for child in self.workers:
            try:
                child.process.wait(5)
            except subprocess.TimeoutExpired:  # it came just as its main thread lay down
                child.signal(signal.SIGTERM)
            assert child.exit_code() == 0, child.errors
        self.workers.clear()

    def stop_producers(self) -> None:
        """Let producers end what they are at, and end."""
        for child in self.producers:
            child.signal(signal.SIGTERM)
            child.until("ended")
        self.producers.clear()

    def attempts(self) -> dict[int, list[Attempt]]:
        """The attempts at each job, in the order of their beginnings."""
        begun: dict[tuple[int, int], list[float]] = defaultdict(list)
        ended: dict[tuple[int, int], list[float]] = defaultdict(list)
        for word, n, pid, at in lines_of(self.record, 4):
            (begun if word == "start" else ended)[int(n), int(pid)].append(float(at))
        found: dict[int, list[Attempt]] = defaultdict(list)
        for (n, pid), starts in begun.items():
            ends = ended[n, pid] + [None] * len(starts)  # type: ignore[list-item]
            found[n] += [Attempt(pid, start, end) for start, end in zip(starts, ends, strict=False)]
        for attempts in found.values():
            attempts.sort(key=lambda attempt: attempt.began)
        return found

    def account(self, patience: float = PATIENCE) -> Accounting:
        """Add no more, wait until nothing is left to do, stop the workers, and count."""
        self.stop_producers()
        began = time.monotonic()
        with neoq.connect(self.url, autostart=False) as backend:
            eventually(
                lambda: sum(queue.unfinished for queue in backend.queues()) == 0,
                lambda: f"not finished: {backend.stats()}\n{self.complaints()}",
                patience,
            )
            recovery = time.monotonic() - began
            self.stop()
            return self._count(backend, recovery)

    def _count(self, backend: neoq.Backend, recovery: float) -> Accounting:
        accepted = {
            int(n): int(job_id) for word, n, job_id in lines_of(self.accepted, 3) if word == "accepted"
        }
        unknown = {int(n) for word, n, _ in lines_of(self.accepted, 3) if word == "unknown"}
        refused = {int(n) for word, n, _ in lines_of(self.accepted, 3) if word == "refused"}
        status = _statuses(backend, list(accepted.values()))
        attempts = self.attempts()
        assert attempts.keys() <= accepted.keys() | unknown, "a job ran that was refused"
        ran = {n for n, tries in attempts.items() if any(attempt.ended for attempt in tries)}
        how = Counter(status.get(job_id) for job_id in accepted.values())
        unexcused = sum(
            attempt.pid not in self.killed for tries in attempts.values() for attempt in tries[:-1]
        )
        return Accounting(
            accepted=len(accepted),
            unknown=len(unknown),
            finished=how[neoq.Status.SUCCEEDED],
            dead=how[neoq.Status.DEAD],
            lost=sum(n not in ran or job_id not in status for n, job_id in accepted.items()),
            doubled=sum(len(tries) - 1 for tries in attempts.values()),
            unexcused=unexcused,
            recovery=round(recovery, 2),
            notes={"refused": len(refused)} if refused else {},
        )

    def complaints(self) -> str:
        """What the workers that still run, and the producers, have to say."""
        return "\n".join(child.errors[-2_000:] for child in [*self.workers, *self.producers])


@contextmanager
def load(directory: Path, url: str) -> Iterator[Load]:
    """Workers and producers for a while."""
    with ExitStack() as stack:
        yield Load(stack, directory, url)


def eventually(holds: Callable[[], object], what: Callable[[], str], patience: float = PATIENCE) -> None:
    """Wait until something holds."""
    give_up = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < give_up, what()
        time.sleep(0.02)


def lines_of(path: Path, words: int) -> list[list[str]]:
    """The lines of a book; the last may still be without its end."""
    text = path.read_text() if path.exists() else ""
    lines = [line.split() for line in text[: text.rfind("\n") + 1].splitlines()]
    assert all(len(line) == words for line in lines), f"a torn line in {path}"
    return lines


def _statuses(backend: neoq.Backend, ids: list[int]) -> dict[int, neoq.Status]:
    found: dict[int, neoq.Status] = {}
    for start in range(0, len(ids), 500):
        part = ids[start : start + 500]
        found |= {job.id: job.status for job in backend.store.of_ids(part) if job.id}
    return found
