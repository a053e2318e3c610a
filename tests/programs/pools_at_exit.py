"""A script that just ends, while its handlers are about to use thread pools."""

from __future__ import annotations

import asyncio
import atexit
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import neoq

backend = neoq.connect(sys.argv[1], shutdown_timeout=15, concurrency=2, autostart=True)
begun = threading.Semaphore(0)


def ends() -> None:
    begun.release()
    while threading.main_thread().is_alive() and not threading._SHUTTING_DOWN:  # type: ignore[attr-defined]
        time.sleep(0.001)


@backend.listen("uploads", max_retries=0)
def upload(job: neoq.Job) -> None:
    ends()
    with ThreadPoolExecutor(2) as pool:
        print("uploaded", sum(pool.map(int, "12")))


@backend.listen("parse", max_retries=0)
def parse(job: neoq.Job) -> None:
    ends()
    print("parsed", asyncio.run(asyncio.to_thread(int, "3")))


if "late" in sys.argv:
    backend.enqueue("uploads", run_after=3600)
    atexit.register(lambda: print("accepted", backend.enqueue("parse", run_after=3600).queue))
else:
    for queue in ("uploads", "parse"):
        backend.enqueue(queue)
        begun.acquire()
