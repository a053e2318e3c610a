"""A producer on any URL: it writes down each job once that is accepted, and never repeats what failed.

producer.py URL ACCEPTED PAUSE: seconds between two calls. Every tenth call enqueues 20 jobs at once. Ends
at SIGTERM.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

import neoq

url, accepted, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
lines = os.open(accepted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ending: list[int] = []  # no Event: its set() takes a lock that the wait() under the handler may hold
signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
numbers = itertools.count()


def produce(backend: neoq.Backend, size: int) -> None:
    batch = [neoq.Job("q", {"n": next(numbers)}) for _ in range(size)]
    try:
        stored = backend.enqueue_many(batch) if size > 1 else [backend.enqueue(batch[0])]
    except neoq.BackendUnavailable as error:
        word = "unknown" if error.outcome_unknown else "refused"
        text = "".join(f"{word} {job.payload['n']} 0\n" for job in batch)
    else:
        text = "".join(f"accepted {job.payload['n']} {job.id}\n" for job in stored)
    os.write(lines, text.encode())


backend = neoq.connect(url, autostart=False)
backend.queues()
print("ready", flush=True)
turns = itertools.count(1)
while not ending:
    time.sleep(pause)
    produce(backend, 20 if next(turns) % 10 == 0 else 1)
print("ended", flush=True)
os._exit(0)  # nothing is left to lose: what is not accepted is not written down
