"""A worker on a SQLite file: each attempt writes a line before and after it, which outlives a kill."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import neoq

path, record, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
lines = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def work(job: neoq.Job) -> None:
    os.write(lines, f"start {job.payload['n']}\n".encode())
    time.sleep(seconds)
    os.write(lines, f"end {job.payload['n']}\n".encode())


# Short retries and many crashes allowed: the test kills more often than any fleet dies.
backend = neoq.connect(f"sqlite:///{path}", max_crashes=1000)
backend.listen("q", work, concurrency=4)


def say_ready() -> None:
    """Say so once a SIGTERM would be heeded."""
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.001)
    print("ready", flush=True)


threading.Thread(target=say_ready).start()
backend.run()
