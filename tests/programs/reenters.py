"""A signal handler and a finalizer that enqueue, while the main thread enqueues in a tight loop."""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import signal
import sys
import time
from typing import Any

import neoq

ROUNDS = 150

faulthandler.dump_traceback_later(25, exit=True)
backend = neoq.connect(sys.argv[1], shutdown_timeout=5, autostart=True)
backend.listen("q", lambda job: None, concurrency=2, capacity=None)
heard: list[Any] = []


def call(*_: Any) -> None:
    n = len(heard)
    try:
        heard.append(backend.enqueue("q", {"n": -n}).id if n % 3 else backend.stats().ready)
    except neoq.NeoqError as error:
        heard.append(str(error))


class Loop:
    """Garbage that only a collection finds, and whose end enqueues."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        call()


signal.signal(signal.SIGALRM, call)
backend.enqueue("q", {"n": 0})
gc.set_threshold(1)
n = 0
for _ in range(ROUNDS):
    before = len(heard)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-4, 2e-3))
    give_up = time.monotonic() + 5
    while len(heard) < before + 2 and time.monotonic() < give_up:
        Loop()
        n += 1
        backend.enqueue("q", {"n": n})
signal.setitimer(signal.ITIMER_REAL, 0)
refused = {text for text in heard if isinstance(text, str)}
assert all("in the middle of another call" in text for text in refused), refused
print("heard", len(heard))
sys.stdout.flush()
os._exit(0)
