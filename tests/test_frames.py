"""Looking at the stack of a thread that runs: it must not move a frame from under the look."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from neoq.engine.interrupt import must_not_interrupt
from neoq.threads.frames import gc_paused, stack_frames

PATIENCE = 10.0
DEPTH = 50


def dive(depth: int, down: threading.Event, up: threading.Event) -> None:
    if depth:
        dive(depth - 1, down, up)
    else:
        down.set()
        up.wait(PATIENCE)


@pytest.fixture
def deep() -> Iterator[int]:
    """A thread that stands deep in its stack, by its ident."""
    down, up = threading.Event(), threading.Event()
    thread = threading.Thread(target=dive, args=(DEPTH, down, up))
    thread.start()
    assert down.wait(PATIENCE)
    yield thread.ident or 0
    up.set()
    thread.join()


@pytest.fixture
def collections(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """In which functions of this thread a collection began; nearly every allocation begins one."""
    begun: list[str] = []
    me = threading.get_ident()

    def note(phase: str, info: dict[str, Any]) -> None:
        if threading.get_ident() == me:
            begun.append(sys._getframe(1).f_code.co_name)

    thresholds = gc.get_threshold()
    gc.callbacks.append(note)
    gc.set_threshold(1, 1000, 1000)
    yield begun
    gc.set_threshold(*thresholds)
    gc.callbacks.remove(note)


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="allocating collects nothing from 3.12 on")
def test_no_garbage_is_collected_while_frames_are_looked_at(deep: int, collections: list[str]) -> None:
    """A collection runs anybody's finalizers, and while they wait the frames that are looked at go away."""
    assert not must_not_interrupt(deep)
    assert gc.isenabled()
    assert collections
    assert "stack_frames" not in collections


class Stand:
    """Somewhere for a thread to stand until it is let go."""

    def __init__(self) -> None:
        self.here, self.go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.here.set()
        self.go.wait(PATIENCE)


def import_something(stand: Stand) -> None:
    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "neoq_tests_nothing":
                stand()

    finder: Any = Finder()
    sys.meta_path.insert(0, finder)
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module("neoq_tests_nothing")
    finally:
        sys.meta_path.remove(finder)


def log_something(stand: Stand) -> None:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            stand()

    logger = logging.Logger("tests.frames")  # noqa: LOG001
    logger.addHandler(Handler())
    logger.warning("a line")


def finalize_something(stand: Stand) -> None:
    class Finalized:
        def __del__(self) -> None:
            stand()

    Finalized()


def finalize_by_weak_reference(stand: Stand) -> None:
    class Finalized:
        pass

    weakref.finalize(Finalized(), stand)


@pytest.mark.parametrize(
    ("go_there", "fragile"),
    [
        (import_something, True),
        (log_something, True),
        (finalize_something, True),
        (finalize_by_weak_reference, True),
        (lambda stand: stand(), False),
    ],
    ids=["import", "log", "finalizer", "weak reference", "elsewhere"],
)
def test_what_must_not_be_broken_off(go_there: Callable[[Stand], None], fragile: bool) -> None:
    """An interrupt would leave the lock of an import or of a log taken, and be swallowed by a finalizer."""
    stand = Stand()
    thread = threading.Thread(target=go_there, args=(stand,))
    thread.start()
    assert stand.here.wait(PATIENCE)
    found = must_not_interrupt(thread.ident or 0)
    stand.go.set()
    thread.join()
    assert found is fragile


def test_the_frames_of_a_thread_come_from_the_innermost_on(deep: int) -> None:
    """The stack of a thread is complete."""
    with gc_paused():
        names = [frame.f_code.co_name for frame in stack_frames(deep)]
    assert names.count("dive") == DEPTH + 1
    assert names.index("wait") < names.index("dive") < names.index("run")


def test_a_collector_that_is_off_stays_off(deep: int) -> None:
    """Looking at a stack does not switch on a garbage collector that its user has switched off."""
    gc.disable()
    try:
        must_not_interrupt(deep)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_child_that_is_forked_during_a_look_collects_garbage() -> None:
    """A fork waits for a look that is under way, so the child's collector is as its user left it."""
    looking, forked = threading.Event(), threading.Event()

    def look() -> None:
        with gc_paused():
            looking.set()
            forked.wait(0.2)

    thread = threading.Thread(target=look)
    thread.start()
    looking.wait(PATIENCE)
    child = os.fork()
    if not child:
        os._exit(0 if gc.isenabled() else 1)
    forked.set()
    thread.join()
    assert os.waitpid(child, 0)[1] == 0
