"""How the worker command logs: lines of text or of JSON on standard error, whole lines at a time.

An application that configures logging itself keeps its own way, unless the command line names a format.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from neoq.logs import JsonFormatter

PATIENCE = 0.2  # seconds to wait for another process to end its line


class _Text(logging.Formatter):
    def __init__(self, who: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {who} %(name)s: %(message)s")


class _WholeLines(logging.Handler):
    """Writes each record as a whole, so that the lines of several processes do not mix."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            write_whole(self.format(record))
        except Exception:
            self.handleError(record)


def write_whole(text: str) -> None:
    """Write lines to standard error, with nothing of another process of this worker in between."""
    data = f"{text}\n".encode("utf-8", "backslashreplace")
    with _locked():
        try:
            while data:
                data = data[os.write(2, data) :]
        except BrokenPipeError:  # nobody reads it; to a pipe that has a name somebody may come
            pass


@contextmanager
def _locked() -> Iterator[None]:
    """Inside, standard error is ours, as far as that can be had."""
    import fcntl  # not on Windows, where the parser reads this module and no worker runs

    locked = _lock(fcntl)
    try:
        yield
    finally:
        if locked:
            fcntl.lockf(2, fcntl.LOCK_UN)


def _lock(fcntl: ModuleType) -> bool:
    """Take the lock of a pipe or a socket, which parts what is longer than 4 KB; a file does not.

    A process that was stopped within a line holds the others up for a moment only.
    """
    give_up = time.monotonic() + PATIENCE
    try:
        mode = os.fstat(2).st_mode
        while stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            try:
                fcntl.lockf(2, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                if time.monotonic() > give_up:
                    return False
                time.sleep(0.001)
            else:
                return True
    except OSError:  # closed, or of a kind that knows no locks
        pass
    return False


def logger() -> logging.Logger:
    """The logger of the worker command."""
    return logging.getLogger("neoq.worker")


def handler(who: str, log_format: str | None) -> logging.Handler:
    """The handler of a process of the worker command."""
    made = _WholeLines()
    made.setFormatter(JsonFormatter({"worker": who}) if log_format == "json" else _Text(who))
    return made


def begin(who: str, log_format: str | None, level: str) -> logging.Handler:
    """Log what neoq says from now on."""
    logger = logging.getLogger("neoq")
    made = handler(who, log_format)
    logger.addHandler(made)
    logger.setLevel(level.upper())
    return made


def settle(made: logging.Handler, log_format: str | None, level: str) -> None:
    """Now that the application is imported, log in its way if it has one, and else all loggers in ours."""
    neoq, root = logging.getLogger("neoq"), logging.getLogger()
    neoq.removeHandler(made)
    if log_format is not None:
        root.handlers.clear()
    elif root.handlers or neoq.handlers:
        return
    root.addHandler(made)
    if root.level == logging.WARNING:  # Python's own, which nobody has chosen
        root.setLevel(level.upper())
