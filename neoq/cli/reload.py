"""Watches the sources of an application for --reload, without importing it.

The child says which files it has imported; the times of these are compared. Where watchfiles is installed it
says when to look; elsewhere they are looked at a few times a second.
"""

from __future__ import annotations

import importlib.util
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

EVERY = 0.2  # seconds between looks
RARELY = 5.0  # the same, where watchfiles tells of changes
QUIET = 0.1  # seconds without a change, after which a burst is over
LONGEST = 2.0  # seconds that a burst may last

Stamp = tuple[int, int] | None


class Sources:
    """The files of an application, and what has changed of them."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._stamps: dict[str, Stamp] = {}
        self._wake = wake
        self._changed: set[str] = set()
        self._first = self._last = 0.0  # monotonic: of the changes of this burst
        self._watched: set[str] = set()
        self._stop = threading.Event()
        self._every = EVERY
        self._due = 0.0
        self._told = False  # by watchfiles, of a change

    def add(self, paths: Iterable[str]) -> None:
        """Watch more files."""
        for path in paths:
            if path not in self._stamps:
                self._stamps[path] = _stamp(path)
        self._listen()

    def _listen(self) -> None:
        """Let watchfiles watch the folders of the files, if it is installed."""
        folders = {str(Path(path).parent) for path in self._stamps}
        if folders <= self._watched:
            return
        try:
            import watchfiles
        except ImportError:
            return
        self._stop.set()
        self._stop, self._watched = threading.Event(), folders
        self._every = RARELY
        stop = self._stop

        def listen() -> None:
            here = [folder for folder in folders if os.path.isdir(folder)]  # noqa: PTH112
            try:
                for _ in watchfiles.watch(
                    *here, stop_event=stop, debounce=50, step=20, recursive=False, watch_filter=_is_source
                ):
                    self._told = True
                    self._wake()
            except Exception:  # too many watches, or a file system without them
                self._every = EVERY
                self._wake()

        threading.Thread(target=listen, name="neoq-reload", daemon=True).start()

    def poll(self, now: float) -> tuple[set[str], float]:
        """The files that have changed, once a burst of changes is over; and when to look again."""
        if self._told or now >= self._due:
            self._told = False  # before we look: what is told meanwhile is looked at again
            for path, before in self._stamps.items():
                stamp = _stamp(path)
                if stamp != before:
                    self._stamps[path] = stamp
                    if stamp is not None:  # an editor may remove a file before it writes the new one
                        self._first = self._first if self._changed else now
                        self._changed.add(path)
                        self._last = now
            self._due = now + (QUIET / 2 if self._changed else self._every)
        if self._changed and (now - self._last >= QUIET or now - self._first >= LONGEST):
            changed, self._changed = self._changed, set()
            for path in changed:
                _forget_bytecode(path)
            return changed, self._due
        return set(), self._due

    def close(self) -> None:
        """Watch no more."""
        self._stop.set()


def _is_source(_: object, path: str) -> bool:
    return path.endswith(".py")


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116  # a few hundred of them, a few times a second
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _forget_bytecode(path: str) -> None:
    """Python compares whole seconds and sizes: a file saved twice in a second might look unchanged."""
    try:
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
    except (OSError, NotImplementedError):
        pass


def syntax_error(paths: Iterable[str]) -> str | None:
    """What does not compile in these files, with its place."""
    for path in sorted(paths):
        try:
            compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None)
            text = (getattr(error, "text", None) or "").strip()
            place = f"{path}:{line}" if line else path
            return f"{place}: {getattr(error, 'msg', error)}{f': {text}' if text else ''}"
        except OSError:
            continue
    return None
