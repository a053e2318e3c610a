"""What the enqueue of a task costs beside the enqueue of its payload: both in turns on one empty store.

Nothing runs the jobs meanwhile.
"""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable
from contextlib import ExitStack

from contest import Bar, Contest, Measures, percentile
from wait import STORES, url_for

ROUNDS = 20
NUMBERS = itertools.count()  # no payload comes twice: a duplicate would be stored by tasks alone
EACH = {"memory": 5000, "sqlite": 200, "postgres": 200, "redis": 1000}  # enqueues of a round


def measure(name: str, quick: bool) -> Measures:
    import neoq

    tasks = neoq.Tasks(queue="tasks")

    @tasks.task(name="send")
    def send(to: str, subject: str = "hi", *, n: int = 0) -> int:
        return len(to) + len(subject) + n

    count = EACH[name] // (5 if quick else 1)
    with ExitStack() as stack:
        url = "memory://" if name == "memory" else stack.enter_context(url_for(name))
        backend = neoq.connect(url, autostart=False, queue_capacity=None)
        stack.callback(backend.shutdown, 0)
        backend.include(tasks)
        backend.listen("payloads", lambda job: len(job.payload))

        def of_a_task(n: int) -> None:
            send.enqueue("ada@example.com", n=n)

        def of_a_payload(n: int) -> None:
            backend.enqueue("payloads", {"to": "ada@example.com", "n": n})

        pairs = []
        for turn in range(-1, ROUNDS):
            turns = [of_a_task, of_a_payload]
            taken = {work: rate(work, count) for work in (turns if turn % 2 else turns[::-1])}
            if turn >= 0:  # the first warms up
                pairs.append([taken[work] for work in turns])
    return {
        "tasks/s": percentile([task for task, _ in pairs], 0.5),
        "payloads/s": percentile([payload for _, payload in pairs], 0.5),
        "ratio": percentile([task / payload for task, payload in pairs], 0.5),
    }


def rate(work: Callable[[int], None], count: int) -> float:
    gc.collect()
    began = time.perf_counter()
    for n in itertools.islice(NUMBERS, count):
        work(n)
    return count / (time.perf_counter() - began)


CONTESTS = {
    "tasks": Contest(
        "The enqueue of a task beside that of its payload",
        ("memory", *STORES),
        measure,
        tuple(
            Bar(f"tasks in {name}: at least {least} x payloads", "ratio", at_least=least, contender=name)
            for name, least in {"memory": 0.75, "postgres": 0.95, "redis": 0.95}.items()
        ),
        among=dict.fromkeys(("memory", *STORES)),
    ),
}
