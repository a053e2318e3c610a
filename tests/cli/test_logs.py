"""How the processes of a worker share one standard error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.cli.workers import ROOT

LONG = 100_000  # a pipe takes 4,096 bytes as a whole
WRITES = f"""
import sys
from neoq.cli.logs import write_whole
for _ in range(30):
    write_whole(sys.argv[1] * {LONG})
"""
STOPS = """
import fcntl, os, signal
fcntl.lockf(2, fcntl.LOCK_EX)
os.kill(os.getpid(), signal.SIGSTOP)
"""


@contextmanager
def started(program: str, *arguments: str, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process with this standard error, killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=stderr, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_long_lines_of_several_processes_do_not_mix() -> None:
    """Lines that are longer than what a pipe takes at once stay whole, whoever else writes into it."""
    out, into = os.pipe()
    with ExitStack() as stack:
        for name in "abc":
            stack.enter_context(started(WRITES, name, stderr=into))
        os.close(into)
        with open(out, encoding="ascii") as pipe:  # noqa: PTH123
            lines = pipe.read().splitlines()
    assert sorted(lines) == [name * LONG for name in "abc" for _ in range(30)]


def test_a_process_that_is_stopped_within_a_line_holds_up_no_other() -> None:
    """A process that stands still within a line delays the lines of others, and does not stop them."""
    out, into = os.pipe()
    with started(STOPS, stderr=into) as stopped:
        _, status = os.waitpid(stopped.pid, os.WUNTRACED)
        assert os.WSTOPSIG(status) == signal.SIGSTOP
        with started("from neoq.cli.logs import write_whole; write_whole('here')", stderr=into):
            os.close(into)
            assert os.read(out, 100) == b"here\n"
    os.close(out)
