"""A worker for batches, jobs of several steps and ordered lines: each writes a line for all that it does.

flow_worker.py URL RECORD SECONDS: seconds that a member or a job of a line takes. Every seventh job of a line
and every fifth parent fails once in each process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import neoq

url, record, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
lines = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
pid = os.getpid()
failed: set[str] = set()


def write(word: str, what: str) -> None:
    os.write(lines, f"{word} {what} {pid} {time.time()}\n".encode())


@contextmanager
def attempt(what: str) -> Iterator[None]:
    """Write down an attempt: "end" where it got to its end, "left" where it did not."""
    write("start", what)
    try:
        yield
    except BaseException:
        write("left", what)
        raise
    write("end", what)


def fail_once(what: str) -> None:
    if what not in failed:
        failed.add(what)
        raise ConnectionError(what)


def step(job: neoq.Job, name: str, what: str) -> None:
    """Run a step, whose effect and whose record are both written down."""
    job.step(name, write, "effect", f"{what}:{name}")
    write("recorded", f"{what}:{name}")


def member(job: neoq.Job) -> None:
    with attempt(f"member:{job.payload['batch']}:{job.payload['n']}"):
        time.sleep(seconds)


def then(job: neoq.Job) -> None:
    with attempt(f"then:{job.payload['batch']}"):
        counts = job.batch
        if (counts.members, counts.succeeded) != (job.payload["members"],) * 2:
            write("wrong", f"{counts.succeeded}/{counts.members}:{job.payload['batch']}")


def parent(job: neoq.Job) -> None:
    n = job.payload["n"]
    what = f"parent:{n}"
    step(job, "before", what)
    if n % 5 == 0:
        fail_once(what)
    job.sleep("nap", 0.01)
    children = job.gather("children", [neoq.Job("child", {"parent": n, "n": each}) for each in range(2)])
    if [child.result for child in children] != [0, 1]:
        write("wrong", f"{what}:{[child.result for child in children]}".replace(" ", ""))
    step(job, "after", what)
    job.enqueue("tail", {"parent": n})
    write("end", what)


def child(job: neoq.Job) -> Any:
    with attempt(f"child:{job.payload['parent']}:{job.payload['n']}"):
        return job.payload["n"]


def tail(job: neoq.Job) -> None:
    with attempt(f"tail:{job.payload['parent']}"):
        pass


def in_line(job: neoq.Job) -> None:
    what = f"line:{job.key}:{job.payload['n']}"
    with attempt(what):
        time.sleep(seconds)
        if job.payload["n"] % 7 == 0:
            fail_once(what)


def say_ready() -> None:
    """Say so once a SIGTERM would be heeded."""
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.001)
    print("ready", flush=True)


SOON = neoq.RetryPolicy(delay=0.01)
HANDLERS: dict[str, Callable[[neoq.Job], Any]] = {
    "member": member, "then": then, "parent": parent, "child": child, "tail": tail,
}  # fmt: skip
backend = neoq.connect(url)
for queue, handler in HANDLERS.items():
    backend.listen(queue, handler, concurrency=2, retry=SOON)
backend.listen("line", in_line, concurrency=4, retry=SOON, ordered=True)
threading.Thread(target=say_ready).start()
backend.run()
