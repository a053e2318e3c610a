"""Threads begin whole or not at all, whatever a signal handler raises meanwhile."""

from __future__ import annotations

import _thread
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from neoq.errors import NeoqError
from neoq.threads import Bell, refuse_isolated, start

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
    """An exception that lands while a bell is rung harms neither the ring that comes next nor who waits."""
    bell, over = Bell(), threading.Event()
    rng = random.Random(7)

    def ring_on() -> None:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + rng.random() * 3e-4)
        give_up = time.monotonic() + 0.1
        while time.monotonic() < give_up:
            bell.ring()

    def hear() -> None:
        while not over.is_set():
            bell.wait(None)

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
    bell.ring()
    waiting.join(5)
    assert not waiting.is_alive()


def test_rings_are_heard_once_and_not_before_their_time() -> None:
    """A ring before the wait ends it at once, two are heard as one, and one that was hushed is not heard."""
    bell = Bell()
    assert not bell.wait(0.0)
    bell.ring()
    bell.ring()
    assert bell.wait(None)
    assert not bell.wait(0.001)
    bell.ring()
    bell.hush()
    assert not bell.wait(0.0)


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
