"""A script that ends in one of many ways without ever calling shutdown."""

from __future__ import annotations

import atexit
import sys
import threading
import time

ran: list[object] = []
atexit.register(
    lambda: print(f"ran {len(ran)}")
)  # before neoq is imported, so that it comes after neoq's end

import neoq  # noqa: E402

JOBS = 100
backend = neoq.MemBackend(concurrency=2, shutdown_timeout=0.5 if sys.argv[1] == "hangs" else 20)


@backend.listen("q", max_retries=0)
def handler(job: neoq.Job) -> None:
    time.sleep(0.001)
    ran.append(job.payload)
    if job.payload.get("children"):
        for child in range(job.payload["children"]):
            backend.enqueue("q", {"child": child})


@backend.listen("long", max_retries=0, timeout=None)
def long(job: neoq.Job) -> None:
    time.sleep(15)


def enqueue(count: int = JOBS) -> None:
    for n in range(count):
        backend.enqueue("q", {"n": n})


def plain() -> None:
    enqueue()


def raises() -> None:
    enqueue()
    print("end of the script")
    raise ZeroDivisionError


def exits() -> None:
    enqueue()
    print("end of the script")
    sys.exit(7)


def fans_out() -> None:
    backend.enqueue("q", {"children": JOBS - 1})


def hangs() -> None:
    backend.enqueue("long")
    while not backend.stats().running:
        time.sleep(0.001)


def thread_goes_on() -> None:
    def later() -> None:
        threading.main_thread().join()
        enqueue()

    threading.Thread(target=later).start()


def waits_for_ctrl_c() -> None:
    enqueue()
    print("waiting")
    time.sleep(30)


def long_job_and_ctrl_c() -> None:
    backend.enqueue("long")
    try:
        print("waiting")
        time.sleep(30)
    finally:
        print("interrupted")


def drains() -> None:
    tell_of_the_wait("draining")
    with backend:
        backend.enqueue_many([neoq.Job("long", {"n": n}) for n in range(3)])


def leaves_long_jobs() -> None:
    tell_of_the_wait("ending")
    backend.enqueue_many([neoq.Job("long", {"n": n}) for n in range(3)])


def tell_of_the_wait(word: str) -> None:
    """Say when the end of a block, or of the script, waits for jobs."""

    def tell() -> None:
        engine = backend.engine
        while (engine.stopping is None and engine.ends_at is None) or not engine.waiters:
            time.sleep(0.001)
        print(word)

    threading.Thread(target=tell, daemon=True).start()


globals()[sys.argv[1]]()
print("end of the script")
