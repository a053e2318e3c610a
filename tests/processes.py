"""Programs that a test runs in processes of their own: started, heard line by line, never left behind."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "programs"
PATIENCE = 30.0  # seconds; far more than anything here takes, and less than a test may


class Child:
    """A process, what it says on its standard output, and how it ended."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[str]) -> None:
        self.process = process
        self.pid = process.pid
        self._errors = errors
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self, timeout: float = PATIENCE) -> str | None:
        """The next line; None at the end of the output."""
        try:
            return self._lines.get(timeout=timeout)
        except queue.Empty:
            raise self.failed(f"said nothing for {timeout:g} s") from None

    def until(self, start: str, timeout: float = PATIENCE) -> str:
        """Read up to the line that begins with a word; return what follows it."""
        give_up = time.monotonic() + timeout
        while (line := self.line(max(0.0, give_up - time.monotonic()))) is not None:
            if line.startswith(start):
                return line.removeprefix(start).strip()
        raise self.failed(f"ended without saying {start!r}")

    def rest(self, timeout: float = PATIENCE) -> list[str]:
        """The lines up to the end of the output."""
        give_up = time.monotonic() + timeout
        lines = []
        while (line := self.line(max(0.0, give_up - time.monotonic()))) is not None:
            lines.append(line)
        return lines

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone, not to its children."""
        self.process.send_signal(number)

    def stop_between_writes(self, database: Path) -> None:
        """Stop the process where it holds no lock of an SQLite file, so that others can go on."""
        while True:
            self.signal(signal.SIGSTOP)
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOWAIT)
            if _can_be_written(database):
                return
            self.signal(signal.SIGCONT)

    def exit_code(self, timeout: float = PATIENCE) -> int:
        """Wait for the end; a negative number is the signal that it died of."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise self.failed(f"still runs after {timeout:g} s") from None

    def ends_well(self, timeout: float = PATIENCE) -> list[str]:
        """Read to the end and demand exit code 0; return the lines."""
        lines = self.rest(timeout)
        if code := self.exit_code(timeout):
            raise self.failed(f"ended with exit code {code}")
        return lines

    @property
    def errors(self) -> str:
        """What it has written to its standard error."""
        return Path(self._errors.name).read_text(encoding="utf-8", errors="replace")

    def failed(self, what: str) -> BaseException:
        """What fails the test, with the stacks of the process's threads where it still runs."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGABRT)  # faulthandler writes the stacks
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                pass
        return pytest.fail.Exception(f"{self.process.args} {what}\n{self.errors[-20_000:]}", pytrace=False)

    def kill(self) -> None:
        """End the process and its children, whatever they do."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)


def _can_be_written(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.2, isolation_level=None)) as connection:
        try:
            connection.execute("begin immediate")
        except sqlite3.OperationalError:  # database is locked
            return False
        return True


@contextmanager
def running(
    command: str | Sequence[str | Path],
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path = PROGRAMS,
) -> Iterator[Child]:
    """Run a program of tests/programs, by name, or any command, in its own session; kill it at the end."""
    if isinstance(command, str):
        command = [sys.executable, PROGRAMS / f"{command}.py"]
    with tempfile.NamedTemporaryFile("w+", prefix="neoq-", suffix=".stderr") as errors:
        process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=cwd,
            env={**os.environ, **_SETTINGS, **(env or {})},
            start_new_session=True,
        )
        child = Child(process, errors)
        try:
            yield child
        finally:
            child.kill()


_SETTINGS = {
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
    "PYTHONFAULTHANDLER": "1",
    "PYTHONDONTWRITEBYTECODE": "1",  # or a reloader would see its own bytecode
}
