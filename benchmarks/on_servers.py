"""What is measured on any server: drain, enqueue, idle latency, idle cost, and the cost of a long queue.

Each measurement begins with an empty server, whose URL is in the environment. Worker and server share the
machine. Where it matters, producers and idle workers have a process of their own.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Self

from contest import Handled, Measures, payloads, percentile
from server_contenders import OnServer, Payload
from servers import look_at

Among = Mapping[str, type[OnServer]]

URL = "NEOQ_BENCH_URL"
RUNNERS = 8
WARM_UP = 10  # jobs before those whose latency counts
GAP = 0.02  # seconds between two jobs: the slowest contender is idle again by then
BESIDE = Path(__file__).with_name("beside.py")


class Timed(Handled):
    """Notes also when the first job ran."""

    def __init__(self, expected: int) -> None:
        super().__init__(expected)
        self.began = 0.0

    def note(self, payload: Payload) -> None:
        if not self.began:
            self.began = time.perf_counter()
        super().note(payload)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began


def prepared(among: Among, name: str) -> OnServer:
    contender = among[name](os.environ[URL])
    contender.prepare()
    return contender


def drain(among: Among, counts: Mapping[str, int], name: str, quick: bool) -> Measures:
    """From the first job that runs to the last one that is recorded as done, everything enqueued before."""
    count = counts[name] // (10 if quick else 1)
    contender = prepared(among, name)
    server = look_at(os.environ[URL])
    contender.put_all(payloads(count))
    handled = Timed(count)
    gc.collect()
    cpu = time.process_time()
    contender.work(handled.note, RUNNERS)
    handled.wait()
    contender.settled()
    seconds = handled.seconds
    cpu = time.process_time() - cpu
    handled.check()
    return {
        "jobs": count,
        "jobs/s": count / seconds,
        "CPU \N{MICRO SIGN}s/job": cpu / count * 1e6,
        **server.per_job(count),
    }


def enqueue(among: Among, counts: Mapping[str, int], name: str, quick: bool, threads: int = 1) -> Measures:
    """Each thread enqueues one job after the other, each accepted before the next is sent."""
    count = counts[name] // (10 if quick else 1) // threads * threads
    contender = prepared(among, name)
    work = list(payloads(count))
    connected = threading.Barrier(threads + 1)

    def produce(part: list[Payload]) -> None:
        contender.put_each(part[:1])  # so that it has its connection before the time counts
        connected.wait()
        contender.put_each(part[1:])

    everyone = [threading.Thread(target=produce, args=(work[n::threads],)) for n in range(threads)]
    for thread in everyone:
        thread.start()
    gc.collect()
    connected.wait()
    start = time.perf_counter()
    for thread in everyone:
        thread.join()
    seconds = time.perf_counter() - start
    run_all(contender, count)
    return {"jobs": count, "jobs/s": (count - threads) / seconds}


def enqueue_many(among: Among, counts: Mapping[str, int], name: str, quick: bool) -> Measures:
    """Enqueue in thousands, or in whatever size is fastest."""
    count = counts[name] // (10 if quick else 1)
    contender = prepared(among, name)
    work = list(payloads(count))
    gc.collect()
    start = time.perf_counter()
    contender.put_all(work)
    seconds = time.perf_counter() - start
    run_all(contender, count)
    return {"jobs": count, "jobs/s": count / seconds}


def run_all(contender: OnServer, count: int) -> None:
    """Run the enqueued jobs, only to check that all of them exist."""
    handled = Handled(count)
    contender.work(handled.note, RUNNERS)
    handled.wait()
    contender.settled()
    handled.check()


def latency(among: Among, name: str, quick: bool) -> Measures:
    """From the call of enqueue in one process to the handler in another, where all are idle between jobs."""
    count = 60 if quick else 400
    handled = Handled(count)
    waits = [0.0] * count

    def handler(payload: Payload) -> None:
        waits[payload["n"]] = (time.perf_counter() - payload["at"]) * 1e3  # all processes share this clock
        handled.note(payload)

    contender = prepared(among, name)
    contender.work(handler, RUNNERS)
    with beside("produce", name, str(count), str(GAP)) as producer:
        handled.wait()
        producer.wait()
    handled.check()
    counted = waits[WARM_UP:]
    return {"jobs": len(counted), "p50 ms": percentile(counted, 0.5), "p99 ms": percentile(counted, 0.99)}


def idle(among: Among, name: str, quick: bool) -> Measures:
    """A worker that has run one job and waits for the next."""
    import psutil

    seconds = 3.0 if quick else 20.0
    prepared(among, name).stop()
    server = look_at(os.environ[URL])
    with beside("idle", name) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "idle\n", "the idle worker failed"
        time.sleep(1.0)  # whatever comes after the start
        process = psutil.Process(worker.pid)
        server.per_second(1)
        cpu = sum(process.cpu_times()[:2])
        time.sleep(seconds)
        cpu = sum(process.cpu_times()[:2]) - cpu
        found = server.per_second(seconds)
        resident = process.memory_info().rss
    return {"CPU %": cpu / seconds * 100, "resident MB": resident / 1e6, **found}


@contextmanager
def beside(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a producer or an idle worker in a process of its own."""
    command = [sys.executable, str(BESIDE), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def long_queue(among: Among, waiting: int, name: str, quick: bool) -> Measures:
    """Drain a part of a long queue and a short queue in turn; each ratio is of two runs side by side."""
    from servers import another

    waiting, part, turns = (waiting // 10, 1_000, 3) if quick else (waiting, 10_000, 7)
    short, long = os.environ[URL], another(os.environ[URL])
    server = look_at(long)
    for url, count in ((short, part), (long, waiting)):
        contender = among[name](url)
        contender.prepare()
        contender.put_all(payloads(count))
        contender.stop()
    seen: set[int] = set()
    pairs: list[tuple[float, float]] = []
    for turn in range(turns):
        if turn:
            contender = among[name](short)
            contender.put_all(payloads(part))
            contender.stop()
        at_short = drain_part(among, name, short, part, set())
        pairs.append((at_short, drain_part(among, name, long, part, seen)))
    return {
        "waiting": waiting,
        f"jobs/s at {part:,}": median(pair[0] for pair in pairs),
        f"jobs/s at {waiting:,}": median(pair[1] for pair in pairs),
        "ratio": median(pair[1] / pair[0] for pair in pairs),
        **server.at_the_end(),
    }


def drain_part(among: Among, name: str, url: str, part: int, seen: set[int]) -> float:
    """Run some of the waiting jobs, none that ran before; return how many a second."""
    handled = Timed(part)
    contender = among[name](url)
    contender.work(handled.note, RUNNERS)
    handled.wait()
    rate = part / handled.seconds
    contender.stop()
    numbers = set(handled.numbers)
    if len(numbers) != len(handled.numbers) or numbers & seen:
        raise RuntimeError("a job ran again")
    seen |= numbers
    return rate


def held_transaction(among: Among, name: str, quick: bool) -> Measures:
    """Jobs flow as fast as they can while another session's transaction keeps its snapshot.

    They flow for a while before, until the first vacuum has run (autovacuum_naptime is a minute): a new and
    small table is faster, whether a transaction is open or not.
    """
    import psycopg

    url = os.environ[URL]
    settling, usual, held = (1.0, 3.0, 6.0) if quick else (90.0, 20.0, 120.0)
    contender = prepared(among, name)
    with Flow(contender) as flow, psycopg.connect(url) as other:
        time.sleep(settling)
        before = flow.rate(usual)
        other.execute("set transaction isolation level repeatable read")
        other.execute("select pg_current_xact_id(), count(*) from pg_class")
        time.sleep(held * 3 / 4)
        during = flow.rate(held / 4)
        dead = dead_rows(url)
        other.rollback()
        cleared = flow.end()
    return {
        "jobs/s before": before,
        "jobs/s at its end": during,
        "ratio": during / before,
        "dead rows": dead,
        "cleared in s": cleared,
    }


class Flow:
    """A producer that keeps some thousand jobs waiting, and a worker that runs them."""

    BACKLOG = 2_000

    def __init__(self, contender: OnServer) -> None:
        self.contender = contender
        self.handled = Handled(sys.maxsize)
        self.accepted = 0
        self.ended = threading.Event()

    def __enter__(self) -> Self:
        self.contender.work(self.handled.note, RUNNERS)
        self.producer = threading.Thread(target=self.produce, daemon=True)
        self.producer.start()
        return self

    def produce(self) -> None:
        while not self.ended.is_set():
            if self.accepted - len(self.handled.numbers) > self.BACKLOG:
                time.sleep(0.005)
                continue
            self.contender.put_all(payloads(500, start=self.accepted))
            self.accepted += 500

    def rate(self, seconds: float) -> float:
        count, start = len(self.handled.numbers), time.perf_counter()
        time.sleep(seconds)
        return (len(self.handled.numbers) - count) / (time.perf_counter() - start)

    def end(self) -> float:
        """Add no more jobs, run the waiting ones, and return how long that took."""
        self.ended.set()
        self.producer.join()
        start = time.perf_counter()
        while len(self.handled.numbers) < self.accepted:
            if time.perf_counter() - start > 60:
                break
            time.sleep(0.01)
        seconds = time.perf_counter() - start
        self.handled.expected = self.accepted
        self.handled.check()
        return seconds

    def __exit__(self, *_: object) -> None:
        self.ended.set()


def dead_rows(url: str) -> int:
    import psycopg

    with psycopg.connect(url) as connection:
        connection.execute("select pg_stat_force_next_flush()")
        time.sleep(1.5)  # sessions report once a second
        row = connection.execute("select coalesce(sum(n_dead_tup), 0) from pg_stat_user_tables").fetchone()
        assert row is not None
        return int(row[0])
