"""What became of batches, jobs of several steps and ordered lines, by what their workers wrote down."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import neoq
from tests.faults.accounting import Load, eventually, lines_of
from tests.processes import Child

PATIENCE = 60.0


@dataclass
class Reckoning:
    """What was accepted, and what is wrong with it; all but the first three are to be 0."""

    accepted: int
    unknown: int  # that may have been added, or added twice
    again: int  # attempts at what had ended, or had begun and was not given back, excused or not
    lost: int = 0  # accepted, and not run to its end
    early: int = 0  # callbacks that began before a member had ended
    stuck: int = 0  # jobs that have not ended
    wrong: int = 0  # callbacks and parents that saw something else than what they wait for
    twice: int = 0  # attempts at what had ended, by workers none of which was killed
    repeated: int = 0  # steps that ran after they were recorded
    overlaps: int = 0  # attempts at a key beside another one of it
    disorder: int = 0  # of a key whose first attempts were not in the order of their enqueues

    def check(self, *excused: str) -> None:
        """Demand that nothing is wrong, but for what is excused."""
        print(self)
        faults = {name: count for name, count in vars(self).items() if name not in excused}
        del faults["accepted"], faults["unknown"], faults["again"]
        assert self.accepted > 0, self
        assert not any(faults.values()), self


class Flow(Load):
    """Workers and a producer of batches, parents and lines, and what they write down."""

    worker_program, producer_program = "flow_worker.py", "flow_producer.py"

    def kill(self, child: Child) -> None:
        """Kill a worker with -9, and write that down among what the workers write."""
        with self.record.open("a") as book:  # before: another worker may notice sooner than we return
            book.write(f"killed - {child.pid} {time.time()}\n")
        super().kill(child)

    def rounds(self) -> int:
        """How many rounds the producer has done."""
        return sum(what.startswith("then") for _, what, _, _ in lines_of(self.accepted, 4))

    def await_rounds(self, rounds: int) -> None:
        """Wait until the producer has done so many rounds."""
        eventually(lambda: self.rounds() >= rounds, self.complaints, PATIENCE)

    def kill_at_random(self, rounds: int, chance: random.Random) -> None:
        """Kill one of two workers at random moments, and start another, until there are so many rounds."""
        for _ in range(2):
            self.worker(seconds=0.01)
        self.producer(pause=0.02)
        while self.rounds() < rounds:
            time.sleep(chance.uniform(0.1, 0.8))
            self.kill(chance.choice(self.workers))
            self.worker(seconds=0.01)

    def reckon(self, patience: float = PATIENCE) -> Reckoning:
        """Add no more, wait until nothing is left to do, stop the workers, and look at the books.

        What follows a job whose worker was killed is in no queue for a while: on Redis it lies in an outbox
        until another worker delivers it. So all that was accepted must have ended, too.
        """
        self.stop_producers()
        with neoq.connect(self.url, autostart=False) as backend:
            eventually(
                lambda: not (_left(backend) or self._without_end()),
                lambda: f"{_left(backend)} {self._without_end()}\n{self.complaints()}",
                patience,
            )
            self.stop()
            stuck = len(_left(backend))
        return self.read(stuck)

    def read(self, stuck: int = 0) -> Reckoning:
        """What the books say."""
        words: defaultdict[str, list[str]] = defaultdict(list)
        for word, what, _, _ in lines_of(self.accepted, 4):
            words[word].append(what)
        found = Reckoning(len(set(words["accepted"])), len(words["unknown"]), 0, stuck=stuck)
        _Book(found, {*words["unknown"]}).read(self.record)
        found.lost = len(self._without_end())
        return found

    def _without_end(self) -> set[str]:
        """What was accepted, or follows that, and did not run to its end."""
        accepted = {what for word, what, _, _ in lines_of(self.accepted, 4) if word == "accepted"}
        ended = {what for word, what, _, _ in lines_of(self.record, 4) if word == "end"}
        follow = {what.replace("parent", "tail") for what in accepted if what.startswith("parent")}
        return (accepted | follow) - ended


class _Book:
    """Reads the workers' book from its beginning to its end."""

    def __init__(self, found: Reckoning, unknown: set[str]) -> None:
        self._found, self._unknown = found, unknown
        self._killed: set[str] = set()
        self._ended: dict[str, str] = {}  # what, and by whom
        self._runs: dict[str, set[str]] = defaultdict(set)  # what -> pids of open attempts
        self._recorded: set[str] = set()
        self._of_key: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self._last_of_key: Counter[str] = Counter()
        self._ends_of_batch: Counter[str] = Counter()

    def read(self, path: Path) -> None:
        lines = lines_of(path, 4)
        killed = {pid for word, _, pid, _ in lines if word == "killed"}
        for word, what, pid, _ in lines:
            if word == "killed":
                self._killed.add(pid)
            elif word == "effect":
                self._found.repeated += what in self._recorded
            elif word == "recorded":
                self._recorded.add(what)
            elif word == "wrong":
                self._found.wrong += 1
            elif word == "start":
                self._start(what, pid, killed)
            else:
                self._leave(what, pid, word == "end")

    def _start(self, what: str, pid: str, killed: set[str]) -> None:
        before = self._ended.get(what)
        self._found.again += before is not None or bool(self._runs[what])
        self._found.twice += before is not None and before not in killed and what not in self._unknown
        self._runs[what].add(pid)
        kind, *rest = what.split(":")
        if kind == "then" and what not in self._ended:
            self._found.early += self._ends_of_batch[rest[0]] < 5
        if kind == "line":
            key, n = rest[0], int(rest[1])
            self._found.overlaps += any(other not in self._killed for _, other in self._of_key[key])
            self._of_key[key].add((what, pid))
            if what not in self._ended and n + 1 < self._last_of_key[key]:
                self._found.disorder += 1
            self._last_of_key[key] = max(self._last_of_key[key], n + 1)

    def _leave(self, what: str, pid: str, ended: bool) -> None:
        self._runs[what].discard(pid)
        kind, *rest = what.split(":")
        if kind == "line":
            self._of_key[rest[0]].discard((what, pid))
        if ended:
            if kind == "member" and what not in self._ended:
                self._ends_of_batch[rest[0]] += 1
            self._ended[what] = pid


@contextmanager
def flow(directory: Path, url: str) -> Iterator[Flow]:
    """Workers and producers for a while."""
    with ExitStack() as stack:
        yield Flow(stack, directory, url)


def _left(backend: neoq.Backend) -> list[neoq.Job]:
    """Some of the jobs that have not ended, held ones too."""
    return [
        job for status in ("pending", "retrying", "running") for job in backend.jobs(status=status, limit=5)
    ]
