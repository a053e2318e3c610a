"""Threads begin whole or not at all, whatever a signal handler raises meanwhile."""

from __future__ import annotations

import _thread
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from neoq.errors import NeoqError
from neoq.threads.lifecycle import Wakeup, refuse_isolated, start

ROUNDS = 500


class Landed(Exception):
    pass


@pytest.fixture
def alarms() -> Iterator[None]:
    def land(*_: object) -> None:
        raise Landed

    interval, handler = sys.getswitchinterval(), signal.signal(signal.SIGALRM, land)
    sys.setswitchinterval(1e-5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)
    sys.setswitchinterval(interval)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it may land in a destructor
def test_a_thread_runs_once_whatever_a_signal_handler_raises_as_it_is_started(alarms: None) -> None:
    """An exception that lands while a thread is started comes out as itself, and the thread has begun."""
    rng = random.Random(7)
    landed = 0
    for _ in range(ROUNDS):
        begun: list[int] = []
        thread = threading.Thread(target=begun.append, args=(1,), daemon=True)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 + rng.random() * 3e-4)
            start(thread)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Landed:
            landed += 1
        signal.setitimer(signal.ITIMER_REAL, 0)
        if thread.ident is not None:  # or it came before all else
            thread.join(5)
            assert begun == [1]
    assert landed


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_bell_is_heard_whatever_a_signal_handler_raised_as_it_was_rung(alarms: None) -> None:
    """An exception that lands while a wakeup is rung harms neither the ring that comes next nor who waits."""
    wakeup, over = Wakeup(), threading.Event()
    rng = random.Random(7)

    def ring_on() -> None:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + rng.random() * 3e-4)
        give_up = time.monotonic() + 0.1
        while time.monotonic() < give_up:
            wakeup.set()

    def hear() -> None:
        while not over.is_set():
            wakeup.wait(None)

    waiting = threading.Thread(target=hear, daemon=True)
    waiting.start()
    landed = 0
    for _ in range(ROUNDS):
        try:
            ring_on()
        except Landed:
            landed += 1
    assert landed
    over.set()
    wakeup.set()
    waiting.join(5)
    assert not waiting.is_alive()


def test_rings_are_heard_once_and_not_before_their_time() -> None:
    """A ring before the wait ends it at once, two are heard as one, and one that was hushed is not heard."""
    wakeup = Wakeup()
    assert not wakeup.wait(0.0)
    wakeup.set()
    wakeup.set()
    assert wakeup.wait(None)
    assert not wakeup.wait(0.001)
    wakeup.set()
    wakeup.clear()
    assert not wakeup.wait(0.0)


def test_no_thread_to_be_had_is_an_error() -> None:
    """A thread that was started before cannot be started again, and the error says so."""
    thread = threading.Thread(target=int, daemon=True)
    start(thread)
    with pytest.raises(RuntimeError, match="only be started once"):
        start(thread)


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("thread is not supported for isolated subinterpreters", True),
        ("can't start new thread", False),
        ("can't create new thread at interpreter shutdown", False),
    ],
)
def test_an_interpreter_that_may_have_no_threads(
    monkeypatch: pytest.MonkeyPatch, text: str, refused: bool
) -> None:
    """An isolated sub-interpreter is refused with what to do; where threads are only short it is not."""

    def starts_none(*_: object) -> int:
        raise RuntimeError(text)

    monkeypatch.setattr(_thread, "start_new_thread", starts_none)
    if refused:
        with pytest.raises(NeoqError, match="WSGIApplicationGroup"):
            refuse_isolated()
    else:
        refuse_isolated()


def output_of(program: str) -> str:
    """What a program prints and logs in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=True,
    )
    return run.stdout


@pytest.mark.parametrize(
    ("module", "asks", "name"),
    [
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ],
)
@pytest.mark.parametrize("patched", [True, False])
def test_patched_threads_are_warned_of(module: str, asks: str, name: str, *, patched: bool) -> None:
    """Where gevent or eventlet has patched threads, one line says that no handler can be interrupted."""
    printed = output_of(f"""
import sys, types
fake = sys.modules[{module!r}] = types.ModuleType({module!r})
fake.{asks} = lambda name: {patched} and name == {name!r}
import neoq
with neoq.MemBackend() as backend:
    backend.listen("q", print)
    backend.listen("r", print)
""")
    assert printed.count("handlers run in green threads") == patched
    assert not patched or module.partition(".")[0] in printed


def test_processes_that_keep_jobs_in_memory_share_no_ids() -> None:
    """The ids in memory begin at random in each process, and fit into a JSON number of any language."""
    program = """
import neoq
with neoq.MemBackend() as backend:
    backend.listen("q", lambda job: None)
    print(backend.enqueue("q").id)
"""
    ids = [int(output_of(program)) for _ in range(2)]
    assert abs(ids[0] - ids[1]) > 1000
    assert all(0 < job_id <= 2**48 for job_id in ids)
