"""The threads of neoq go on whatever is raised in them, and begin later where none could be started."""

from __future__ import annotations

import ast
import errno
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.errors import BackendError, BackendUnavailable
from neoq.testing.cases.suite import eventually
from neoq.threads import lifecycle
from neoq.threads.loop import Loop

PACKAGE = Path(neoq.__file__).parent
LOG = logging.getLogger("neoq.test")

# Threads that are no loop of ours, and why.
NO_LOOPS = {
    ("loop.py", "_run"): "the loop itself",
    ("lifecycle.py", "_run"): "one piece of work",
    ("lifecycle.py", "lambda: returned.append(work())"): "one piece of work, which may hang",
    ("pool.py", "task"): "one call of on_error",
    ("pool.py", "_run"): "a runner: it goes on after any error, and is replaced where it hangs",
    ("shutdown.py", "_close_after"): "the end of one shutdown",
    ("engine.py", "shut_down"): "one shutdown",
    ("child.py", "_listen"): "reads the pipe of the supervisor until its end",
    ("reload.py", "listen"): "watchfiles, until the worker ends",
    ("board.py", "work"): "one question to the store, which may hang",
    ("sweeps.py", "run"): "one change of all that match",
    ("levels.py", "_ask"): "one look at the levels of the store, which may hang",
    ("metrics.py", "_serve"): "one scrape",
    ("counting.py", "_tell_levels"): "one look at the levels of the store, for the supervisor",
}


@pytest.fixture
def loops() -> Iterator[list[Loop]]:
    """Loops that end with the test."""
    made: list[Loop] = []
    yield made
    for loop in made:
        assert loop.close(5.0)


def make(loops: list[Loop], turn: Callable[[], float | None], **options: Any) -> Loop:
    loop = Loop("neoq-test", turn, LOG, **{"pauses": (0.001, 0.01), **options})
    loops.append(loop)
    return loop


ERRORS = [
    MemoryError(),
    OSError(errno.EMFILE, "Too many open files"),
    RuntimeError("can't start new thread"),
    ValueError("a record of another version"),
    BackendUnavailable("it is away"),
    BackendError("refused"),
    SystemExit(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_a_loop_goes_on_after_whatever_a_turn_raises(
    error: BaseException, loops: list[Loop], caplog: pytest.LogCaptureFixture
) -> None:
    """An exception of a turn is logged, with a traceback unless it is a BackendError, and turns go on."""
    turns: list[int] = []

    def turn() -> float:
        turns.append(1)
        if len(turns) < 5:
            raise error
        return 0.001

    make(loops, turn).start()
    eventually(lambda: len(turns) > 10, "it goes on")
    [first, *_] = [record for record in caplog.records if "neoq-test" in record.getMessage()]
    assert bool(first.exc_info) is not isinstance(error, BackendError)


def test_a_loop_goes_on_where_it_cannot_even_log(loops: list[Loop]) -> None:
    """What is raised while an exception is handled does not end the loop either."""
    turns: list[int] = []

    class Broken(logging.LoggerAdapter[Any]):
        def log(self, *_: Any, **__: Any) -> None:
            raise MemoryError

    def turn() -> float:
        turns.append(1)
        raise MemoryError

    loop = Loop("neoq-test", turn, Broken(LOG, {}), pauses=(0.001, 0.01))
    loops.append(loop)
    loop.start()
    eventually(lambda: len(turns) > 3, "it goes on")


def test_the_pause_after_errors_grows_and_rings_shorten_it(loops: list[Loop]) -> None:
    """A loop that fails again and again waits longer each time; a ring lets it try again soon."""
    turns: list[float] = []

    def turn() -> float:
        turns.append(time.monotonic())
        raise BackendUnavailable("away")

    loop = make(loops, turn, pauses=(0.02, 60.0))
    loop.start()
    eventually(lambda: len(turns) >= 4, "it has failed some times")
    assert turns[3] - turns[2] > turns[1] - turns[0]
    give_up = time.monotonic() + 0.2
    before = len(turns)
    while time.monotonic() < give_up:
        loop.wake()
    eventually(lambda: len(turns) > before, "a ring is heard")
    assert len(turns) - before <= 12


class NoThreads:
    """Thread.start as under a limit of the system, until it is lifted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused: list[str] = []
        self.lifted = False
        real = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if thread.name.startswith("neoq-") and not self.lifted:
                self.refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            real(thread)

        monkeypatch.setattr(threading.Thread, "start", start)


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> NoThreads:
    return NoThreads(monkeypatch)


@pytest.mark.parametrize("how", ["start", "ring", "another"])
def test_a_thread_that_could_not_be_started_is_started_later(
    how: str, loops: list[Loop], no_threads: NoThreads, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no thread was to be had one is asked for at the next start, ring, or turn of another loop."""
    turns: list[int] = []
    other = make(loops, lambda: 30.0)
    if how == "another":
        no_threads.lifted = True
        other.start()
        no_threads.lifted = False
    loop = make(loops, lambda: turns.append(1))
    assert not loop.start()
    assert not loop.start()
    assert caplog.text.count("no thread for neoq-test") == 1
    no_threads.lifted = True
    if how == "start":
        assert loop.start()
    elif how == "ring":
        loop.wake()
    eventually(lambda: turns, "it runs")


@pytest.mark.parametrize("url", ["memory://", "sqlite"])
def test_a_backend_whose_threads_could_not_be_started_works_once_they_can(
    url: str, tmp_path: Path, no_threads: NoThreads
) -> None:
    """After a start() without any thread, jobs that were accepted run as soon as there are threads again."""
    ran: list[int] = []
    url = f"sqlite:///{tmp_path}/jobs.db" if url == "sqlite" else url
    with neoq.connect(url, autostart=False, job_check_interval=0.05) as backend:
        backend.listen("q", lambda job: ran.append(job.payload["n"]))
        backend.listen_cron("@yearly", lambda job: None)
        backend.start()
        backend.enqueue("q", {"n": 1})
        backend.start()
        assert len(set(no_threads.refused)) > 1
        no_threads.lifted = True
        backend.enqueue("q", {"n": 2})
        eventually(lambda: sorted(ran) == [1, 2], "both run")
        wanted = {name for name in no_threads.refused if "runner" not in name and "shutdown" not in name}
        eventually(lambda: wanted <= {thread.name for thread in threading.enumerate()}, "all threads live")


def test_a_thread_is_started_whatever_its_start_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that fails by another exception than RuntimeError raises that, and does not hang."""

    def fails(thread: threading.Thread) -> None:
        raise MemoryError

    thread = threading.Thread(target=lambda: None)
    monkeypatch.setattr(threading.Thread, "start", fails)
    with pytest.raises(MemoryError):
        lifecycle.start(thread)


def test_a_loop_that_ends_late_releases_what_its_turns_have_opened(loops: list[Loop]) -> None:
    """Its thread calls ``ended`` once, after the last turn, also where close() did not wait for that turn."""
    in_turn, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    calls: list[str] = []

    def turn() -> float:
        in_turn.set()
        assert go_on.wait(5)
        calls.append("turn")
        return 0.0

    def release() -> None:
        calls.append("ended")
        ended.set()

    loop = make(loops, turn, ended=release)
    loop.start()
    assert in_turn.wait(5)
    assert not loop.close(0.01)
    assert calls == []
    go_on.set()
    assert ended.wait(5)
    assert calls == ["turn", "ended"]


def test_a_loop_ends_that_was_closed_before_its_last_turn(loops: list[Loop]) -> None:
    """A loop that owes one more turn when it is closed ends after that turn, without another ring."""
    owed: list[str] = []

    def turn() -> float | None:
        if owed:
            owed.clear()
            return None
        loop.close()
        owed.append("a turn")
        return 0.0

    loop = make(loops, turn, owes=lambda: bool(owed))
    loop.start()
    assert loop.join(5.0)


def test_every_thread_of_the_package_is_a_loop() -> None:
    """Each threading.Thread that the package makes runs a Loop, or is in the list of those that do not."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if "testing" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"threading.Thread", "Thread"}:
                [target] = [word.value for word in node.keywords if word.arg == "target"]
                found.add((path.name, ast.unparse(target).removeprefix("self.")))
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base) for base in node.bases}
                assert not bases & {"threading.Thread", "threading.Timer", "Thread", "Timer"}
    assert found == NO_LOOPS.keys()


class Duties:
    """Which duties of the heartbeat were done, and which is to fail."""

    def __init__(self, backend: neoq.Backend, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
        self.done: dict[str, int] = dict.fromkeys(["beat", "extend", "reclaim"], 0)
        for name in self.done:
            monkeypatch.setattr(
                backend.store, name, self._wrapped(name, getattr(backend.store, name), name == failing)
            )

    def _wrapped(self, name: str, real: Callable[..., Any], fails: bool) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            if fails:
                raise ValueError("a record of another version")
            value = real(*arguments)
            self.done[name] += 1
            return value

        return call


@pytest.mark.parametrize("failing", ["beat", "extend", "reclaim"])
def test_a_duty_of_the_keeper_that_fails_stops_no_other(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beat, renewal and the look for dead workers are done whatever becomes of the others."""
    gate = threading.Event()
    with neoq.SqliteBackend(tmp_path / "jobs.db", heartbeat=0.1, lease=2) as backend:
        duties = Duties(backend, monkeypatch, failing)
        backend.listen("q", lambda job: gate.wait(10))
        backend.start()
        backend.enqueue("q")
        others = duties.done.keys() - {failing}
        eventually(lambda: all(duties.done[name] > 3 for name in others), "the others are done")
        assert "the heartbeat goes on after an error" in caplog.text or failing == "extend"
        gate.set()
