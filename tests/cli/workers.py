"""Workers that a test runs by the command: started in a folder of their own, never left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.cli.probes import ask
from neoq.cli.runtime_dir import socket_of

ROOT = Path(__file__).parents[2]
PATIENCE = 30.0
SETTINGS = {
    "PYTHONPATH": str(ROOT),
    "PYTHONDONTWRITEBYTECODE": "",  # a process starts twice as fast where neoq's bytecode is kept
    "PYTHONPYCACHEPREFIX": f"{tempfile.gettempdir()}/neoq-bytecode-{os.getuid()}",
}
APP = """
import os, time
from pathlib import Path
import neoq

HERE = Path(__file__).parent
VERSION = 1
backend = neoq.connect(f"sqlite:///{HERE}/jobs.db", autostart=False, lease=2, heartbeat=0.5, concurrency=4)

def note(job, what):
    with open(HERE / "ledger", "a") as file:
        file.write(f"{what} {job.payload['n']} {os.getpid()} {time.time()} {VERSION}\\n")

@backend.listen("work", timeout=None)
def work(job):
    note(job, "began")
    time.sleep(job.payload.get("seconds", 0))
    note(job, "done")

@backend.listen("other", timeout=None)
def other(job):
    note(job, "done")
"""


def until(condition: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
    """Wait for a condition; its value."""
    give_up = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > give_up:
            raise pytest.fail.Exception(f"{what}: not within {timeout:g} s", pytrace=False)
        time.sleep(0.01)


class Worker:
    """A running worker command."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: Mapping[str, str],
        program: str = "",
        before: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.errors = folder / f"errors-{time.monotonic_ns()}"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *before,
                    sys.executable,
                    *(["-c", program] if program else ["-m", "neoq", "worker", *arguments]),
                ],
                cwd=folder,
                env={**os.environ, **SETTINGS, "NEOQ_RUNTIME_DIR": str(folder), **env},
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def log(self) -> str:
        """What it has written."""
        return self.errors.read_text(encoding="utf-8", errors="replace")

    def says(self, pattern: str, times: int = 1, timeout: float = PATIENCE) -> list[Any]:
        """Wait until its log has a pattern so many times; the matches."""

        def found() -> list[Any]:
            matches = re.findall(pattern, self.log)
            if len(matches) < times and self.process.poll() is not None:
                matches = re.findall(pattern, self.log)
                if len(matches) < times:
                    code = self.process.returncode
                    raise pytest.fail.Exception(
                        f"ended with {code} before {pattern!r}:\n{self.log}", pytrace=False
                    )
            return matches if len(matches) >= times else []

        try:
            return until(found, f"{pattern!r} in the log", timeout)  # type: ignore[no-any-return]
        except pytest.fail.Exception as error:
            raise pytest.fail.Exception(f"{error}\n{self.log}", pytrace=False) from None

    def claims(self, processes: int = 1) -> list[int]:
        """Wait until so many processes have begun to claim; the pids of all that ever did."""
        return [int(pid) for pid in self.says(r"\((\d+)\) claims jobs", processes)]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor alone."""
        self.process.send_signal(number)

    def ends(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise pytest.fail.Exception(
                f"still runs after {timeout:g} s:\n{self.log}", pytrace=False
            ) from None

    def asked(self, what: str, name: str = "worker") -> tuple[int, str]:
        """The answer to a probe."""
        before = os.environ.get("NEOQ_RUNTIME_DIR")
        os.environ["NEOQ_RUNTIME_DIR"] = str(self.folder)
        try:
            return ask(socket_of(name), what)
        finally:
            if before is None:
                del os.environ["NEOQ_RUNTIME_DIR"]
            else:
                os.environ["NEOQ_RUNTIME_DIR"] = before


class Shop:
    """An application in a folder, with its store and its ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "shop.py"
        self.write(APP)
        self.backend = neoq.connect(f"sqlite:///{folder}/jobs.db", autostart=False, unique=False)

    def write(self, source: str) -> None:
        """Save the application, at once."""
        new = self.folder / "shop.py.new"
        new.write_text(source, encoding="utf-8")
        new.replace(self.file)

    def add(self, count: int, queue: str = "work", **payload: Any) -> None:
        """Enqueue jobs numbered from 0."""
        self.backend.enqueue_many([neoq.Job(queue, {"n": n, **payload}) for n in range(count)])

    def ledger(self, what: str = "done") -> list[list[str]]:
        """The lines of the handlers: number, pid, time, version."""
        try:
            lines = (self.folder / "ledger").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [fields[1:] for line in lines if len(fields := line.split()) == 5 and fields[0] == what]

    def numbers(self, what: str = "done") -> set[int]:
        """The numbers of the jobs that began, or are done."""
        return {int(fields[0]) for fields in self.ledger(what)}

    def until(self, numbers: set[int], what: str = "done") -> None:
        """Wait until these jobs have begun, or are done."""
        until(lambda: numbers <= self.numbers(what), f"{len(numbers)} jobs {what}")

    @contextmanager
    def worker(
        self,
        *arguments: str,
        app: str = "shop:backend",
        program: str = "",
        before: Sequence[str] = (),
        **env: str,
    ) -> Iterator[Worker]:
        """Run a worker; kill it and all that it has started at the end."""
        words = [app, *arguments] if app else arguments
        worker = Worker(self.folder, *words, env=env, program=program, before=before)
        try:
            yield worker
        finally:
            try:
                os.killpg(worker.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            worker.process.wait(PATIENCE)


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
