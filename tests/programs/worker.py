"""A worker that blocks in run() until a signal ends it."""

from __future__ import annotations

import signal
import sys
import time

import neoq

backend = neoq.connect(concurrency=1, shutdown_timeout=3600)  # NEOQ_URL says where


@backend.listen("q")
def handler(job: neoq.Job) -> None:
    while signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        time.sleep(0.001)  # until run() listens to signals
    print("started")
    while backend.engine.stopping is None:
        time.sleep(0.001)  # until the signal has come
    if "endless" in sys.argv:
        print("asked to stop")
        while True:
            time.sleep(0.001)
    time.sleep(1.0 if "slow" in sys.argv else 0.3)
    print("job done")


backend.enqueue("q", {"n": 1})
backend.enqueue("q", {"n": 2}, run_after=60)
report = backend.run()
print(report)
print("after run")
