"""No connection to a SQLite file is open across a fork.

SQLite keeps its locks per process and would believe in the child that it has those of the parent. So all open
files are closed before a fork, and both sides open new connections when they need them.
"""

from __future__ import annotations

import threading
import weakref
from typing import Protocol

from neoq.system import at_fork
from neoq.threads.boundary import entrance


class ForkAware(Protocol):
    """A file that is open."""

    def before_fork(self, held: list[threading.RLock]) -> None:
        """Close the connections, and the gates to them, which are added to ``held``."""

    def forked_in_child(self) -> None:
        """Leave the parent's connections alone."""


class _Forks(threading.local):
    """The gates that this thread has closed, for each fork that it is in; several threads may fork."""

    def __init__(self) -> None:
        self.held: list[list[threading.RLock]] = []  # a signal handler may fork while its thread does


_open_files: dict[int, weakref.ref[ForkAware]] = {}  # in one order for all threads, which wait for the gates
_forks = _Forks()


def note_open(file: ForkAware) -> None:
    """Close this file before each fork from now on."""
    key = id(file)
    _open_files[key] = weakref.ref(file, entrance(lambda _: _open_files.pop(key, None)))


def note_closed(file: ForkAware) -> None:
    """Leave this file out of the forks from now on."""
    _open_files.pop(id(file), None)


def _all_open() -> list[ForkAware]:
    files = [reference() for reference in list(_open_files.values())]
    return [file for file in files if file is not None]


def _before_fork() -> None:
    held: list[threading.RLock] = []
    _forks.held.append(held)
    for file in _all_open():
        file.before_fork(held)


def _forked_in_parent() -> None:
    for gate in reversed(_forks.held.pop()):
        gate.release()


def _forked_in_child() -> None:
    """Every file is the parent's, also one that another thread has opened since this one began to fork."""
    _forks.held.clear()
    files = _all_open()
    _open_files.clear()
    for file in files:
        file.forked_in_child()


at_fork(before=_before_fork, after_in_parent=_forked_in_parent, after_in_child=_forked_in_child)
