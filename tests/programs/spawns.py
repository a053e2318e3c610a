"""A process that is started without a fork of this one's memory."""

from __future__ import annotations

import multiprocessing
import os
import sys

import neoq

backend = neoq.MemBackend(concurrency=1)


@backend.listen("q")
def handler(job: neoq.Job) -> int:
    return os.getpid()


def use(who: str) -> None:
    job = backend.enqueue("q")
    assert job.id is not None
    if backend.wait(job.id, 8).result == os.getpid():
        print(f"{who} ran its job")


if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=use, args=("child",))
    process.start()
    process.join(20)
    use("parent")
