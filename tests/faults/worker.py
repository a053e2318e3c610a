"""A worker on any URL: each attempt writes a line before and after it, which outlives a kill.

worker.py URL RECORD SECONDS [CLOCK]: seconds that a job takes, and by how many its clock is wrong.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import neoq

url, record, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
wrong_by = float(sys.argv[4]) if len(sys.argv) > 4 else 0.0
lines = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
pid = os.getpid()


class WrongClock:
    """This machine's clocks, but that the wall's was set."""

    def time(self) -> float:
        return time.time() + wrong_by

    def monotonic(self) -> float:
        return time.monotonic()


def work(job: neoq.Job) -> int:
    n = job.payload["n"]
    os.write(lines, f"start {n} {pid} {time.time()}\n".encode())
    time.sleep(seconds)
    os.write(lines, f"end {n} {pid} {time.time()}\n".encode())
    return pid


def say_ready() -> None:
    """Say so once a SIGTERM would be heeded."""
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.001)
    print("ready", flush=True)


backend = neoq.connect(url)
if wrong_by:
    backend.clock = WrongClock()
backend.listen("q", work, concurrency=4)
threading.Thread(target=say_ready).start()
backend.run()
