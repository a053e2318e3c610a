"""A producer of batches, parents and ordered lines; it writes down each that was accepted.

flow_producer.py URL ACCEPTED PAUSE: seconds between two rounds. Each round opens a batch of five members, by
a name under which it opens it again where the store was away, and adds a parent and a job of each of three
lines. Ends at SIGTERM.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

import neoq

MEMBERS, KEYS = 5, 3
url, accepted, pause = sys.argv[1], sys.argv[2], float(sys.argv[3])
lines = os.open(accepted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ending: list[int] = []  # no Event: its set() takes a lock that the wait() under the handler may hold
signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))


def write(word: str, what: str) -> None:
    os.write(lines, f"{word} {what} 0 0\n".encode())


def word_of(error: neoq.BackendUnavailable) -> str:
    return "unknown" if error.outcome_unknown else "refused"


def open_batch(backend: neoq.Backend, n: int) -> None:
    """Add a batch, however often that takes; "unknown" where it may have been added twice."""
    word = "accepted"
    while True:
        try:
            then = neoq.Job("then", {"batch": n, "members": MEMBERS})
            with backend.batch(then, name=f"batch {n}") as batch:
                batch.enqueue_many([neoq.Job("member", {"batch": n, "n": each}) for each in range(MEMBERS)])
        except neoq.BackendUnavailable as error:
            word = "unknown" if error.outcome_unknown else word
            time.sleep(0.05)
        else:
            write(word, f"then:{n}")
            return


def enqueue(backend: neoq.Backend, what: str, job: neoq.Job) -> None:
    try:
        backend.enqueue(job)
    except neoq.BackendUnavailable as error:
        write(word_of(error), what)
    else:
        write("accepted", what)


backend = neoq.connect(url, autostart=False)
while True:
    try:
        backend.queues()
        break
    except neoq.BackendUnavailable:
        time.sleep(0.05)
print("ready", flush=True)
for n in itertools.count():
    if ending:
        break
    open_batch(backend, n)
    enqueue(backend, f"parent:{n}", neoq.Job("parent", {"n": n}))
    for each in range(KEYS):
        key = f"key{(n + each) % KEYS}"
        enqueue(backend, f"line:{key}:{n}", neoq.Job("line", {"n": n, "key": key}, key=key))
    time.sleep(pause)
print("ended", flush=True)
os._exit(0)  # nothing is left to lose: what is not accepted is not written down
