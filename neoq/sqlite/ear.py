"""How a process that waits for jobs notices that another connection has written to the file."""

from __future__ import annotations

import time

from neoq.clock import machine
from neoq.sqlite.file import SqliteFile

LOOK_EVERY = 0.02  # seconds


class SqliteEar:
    """Looks at the number that changes with each commit; SQLite tells nobody of one."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._seen = -1

    def hear(self, seconds: float) -> set[int] | None:
        """None as soon as something was written: which jobs have changed is not known."""
        give_up = machine.monotonic() + seconds
        while True:
            [(now,)] = self._file.read("pragma data_version")
            if now != self._seen:
                self._seen = now
                return None
            left = give_up - machine.monotonic()
            if left <= 0:
                return set()
            time.sleep(min(left, LOOK_EVERY))

    def close(self) -> None:
        """Nothing is held."""
