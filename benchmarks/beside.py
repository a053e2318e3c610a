"""The process beside a measurement: a producer of jobs, or a worker that waits for one.

Run by the measurement: beside.py produce CONTENDER COUNT GAP, or beside.py idle CONTENDER.
"""

from __future__ import annotations

import os
import sys
import threading
import time

from server_contenders import OnServer, Payload


def contender(name: str) -> OnServer:
    url = os.environ["NEOQ_BENCH_URL"]
    if url.startswith("redis"):
        from redis_contenders import REDIS_CONTENDERS as AMONG
    else:
        from postgres_contenders import POSTGRES_CONTENDERS as AMONG
    return AMONG[name](url)


def produce(name: str, count: str, gap: str) -> None:
    producer = contender(name)
    producer.put_each([])
    due = time.perf_counter() + 1.0  # the worker has long begun to listen by then
    for n in range(int(count)):
        time.sleep(max(0.0, due - time.perf_counter()))
        producer.put_each([{"n": n, "at": time.perf_counter()}])
        due = time.perf_counter() + float(gap)


def idle(name: str) -> None:
    worker = contender(name)
    ran = threading.Event()

    def handler(payload: Payload) -> None:
        ran.set()

    worker.work(handler, 8)
    worker.put_each([{"n": 0}])
    if not ran.wait(30):
        sys.exit("the job did not run")
    print("idle", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    {"produce": produce, "idle": idle}[sys.argv[1]](*sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)
