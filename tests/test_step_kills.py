"""A job of several steps whose worker is killed at every durable boundary: what was recorded runs once.

A child of this process runs it, and is killed before a certain call of its server; then this process goes on.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from neoq.backend import Backend
from neoq.job import Job
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing import Faults
from neoq.testing.cases.suite import eventually
from tests.killing import Make, boundaries, killed

PATIENCE = 30.0
STEPS = ("before", "second", "after")


class Workflow:
    """What both processes run, and the book in which they write what they do."""

    def __init__(self, book: Path) -> None:
        self._lines = os.open(book, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, word: str) -> None:
        """Add a line, which outlives a kill."""
        os.write(self._lines, f"{word}\n".encode())

    def close(self) -> None:
        """Close the book."""
        os.close(self._lines)

    def parent(self, job: Job) -> list[int]:
        """Run two steps, sleep, gather, run a third, and add a job that follows."""
        self._step(job, "before")
        self._step(job, "second")
        job.save("row", 7)
        job.sleep("nap", 0.02)
        self.write("woken" if job.saved("row") == 7 else "forgotten")
        children = job.gather("children", [Job("child", {"n": n}) for n in range(2)])
        self._step(job, "after")
        job.enqueue("tail")
        return [child.result for child in children]

    def _step(self, job: Job, name: str) -> None:
        job.step(name, self.write, f"effect {name}")
        self.write(f"recorded {name}")

    def run(self, backend: Backend) -> None:
        """Run it to its end, as one worker of several."""
        backend.listen("parent", self.parent, concurrency=1, retry=RetryPolicy(delay=0.0))
        backend.listen("child", lambda job: job.payload["n"], concurrency=2)
        backend.listen("tail", lambda job: self.write("tail"), concurrency=1)
        backend.start()
        [job] = backend.jobs("parent") or [backend.enqueue("parent")]
        assert backend.wait(job.id or 0, PATIENCE).result == [0, 1]
        [tail] = eventually(lambda: backend.jobs("tail"), "what follows is there")  # Redis delivers it
        assert backend.wait(tail.id or 0, PATIENCE).status is Status.SUCCEEDED


def check_after_a_kill(make: Make, book: Path, before: int) -> bool:
    """Check that what a child leaves is done, and no recorded step again; whether it was killed at all."""
    workflow = Workflow(book)
    was_killed = killed(make, workflow.run, before)
    with make() as backend:
        workflow.run(backend)
        found = Counter((job.queue, job.status.value) for job in backend.jobs())
        assert found == {("parent", "succeeded"): 1, ("child", "succeeded"): 2, ("tail", "succeeded"): 1}
        backend.store.change([job.id or 0 for job in backend.jobs()], "delete")
    workflow.close()
    lines = book.read_text().splitlines()
    for name in STEPS:
        effects = [at for at, line in enumerate(lines) if line == f"effect {name}"]
        assert 1 <= len(effects) <= 1 + was_killed, lines
        assert max(effects) < lines.index(f"recorded {name}"), lines
    assert "forgotten" not in lines
    book.unlink()
    return was_killed


@pytest.fixture
def make(durable: Make) -> Make:
    """As the fixture, with a lease that a busy machine does not lose."""
    return partial(durable, lease=2.0)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """Where what was done is written down."""
    return tmp_path / "book"


@pytest.mark.parametrize("before", [12, 25])
def test_steps_whose_worker_is_killed(make: Make, book: Path, before: int) -> None:
    """A worker is killed in the middle of a job of several steps; none of them runs after its record."""
    check_after_a_kill(make, book, before)


@pytest.mark.faults
@pytest.mark.timeout(1800)
def test_steps_whose_worker_is_killed_at_every_boundary(make: Make, book: Path) -> None:
    """Wherever a worker is killed, recorded steps run once, children and what follows are there once."""
    assert boundaries(lambda before: check_after_a_kill(make, book, before)) > 10


def died_in_a_step(workflow: Workflow, when: str) -> Callable[[Backend], None]:
    """What runs the workflow and is killed right before or after the record of its second step."""

    def act(backend: Backend) -> None:
        plain = workflow.write

        def write(word: str) -> None:
            plain(word)
            if word == when:
                os.kill(os.getpid(), 9)

        workflow.write = write  # type: ignore[method-assign]
        workflow.run(backend)

    return act


@pytest.mark.parametrize(("when", "times"), [("effect second", 2), ("recorded second", 1)])
def test_killed_beside_a_record(make: Make, book: Path, when: str, times: int) -> None:
    """Killed after the effect of a step and before its record it runs again; after its record it does not."""
    workflow = Workflow(book)
    assert killed(make, died_in_a_step(workflow, when), -1)
    with make() as backend:
        workflow.run(backend)
    workflow.close()
    lines = Counter(book.read_text().splitlines())
    assert (lines["effect before"], lines["effect second"], lines["effect after"]) == (1, times, 1)


@pytest.mark.parametrize("heartbeats", [0, 2])
def test_a_saved_value_outlives_a_kill(make: Make, heartbeats: int) -> None:
    """After a kill a saved value is the last one, or the one that the heartbeat before the kill had met."""

    def act(backend: Backend) -> None:
        def handler(job: Job) -> None:
            with Faults(backend).watched("record") as recorded:
                job.save("row", 1)
                recorded.wait()
                job.save("row", 2)
                if heartbeats:
                    recorded.wait(heartbeats)
                os.kill(os.getpid(), 9)

        backend.listen("q", handler)
        backend.start()
        backend.enqueue("q")
        threading.Event().wait(PATIENCE)

    assert killed(make, act, -1)
    with make() as backend:
        backend.listen("q", lambda job: job.saved("row"))
        backend.start()
        [job] = backend.jobs("q")
        saved = backend.wait(job.id, PATIENCE).result
    assert saved == 2 if heartbeats else saved in {1, 2}
