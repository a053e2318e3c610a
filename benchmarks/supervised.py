"""What `neoq worker` promises: replacing processes under load, reloading, its probes, and its own cost.

Each measurement runs the command on an application that it writes into a folder of its own.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from contest import PATIENCE, Bar, Contest, Measures, percentile
from wait import STORES, url_for

ROOT = Path(__file__).parent.parent
EACH = 0.004  # seconds of a job: two processes with one thread each run 500 a second
APP = f"""
import os, time
import neoq

VERSION = 1
backend = neoq.connect(os.environ["NEOQ_URL"], autostart=False, lease=5, heartbeat=1)
ledger = os.open("ledger", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

@backend.listen("work", concurrency=1, timeout=None)
def work(job):
    os.write(ledger, f"{{job.payload['n']}} {{os.getpid()}} {{time.monotonic()}} {{VERSION}}\\n".encode())
    time.sleep({EACH})
"""


class Worker:
    """A running `neoq worker`, and the folder of its application."""

    def __init__(self, folder: Path, url: str, *arguments: str) -> None:
        self.folder = folder
        (folder / "app.py").write_text(APP, encoding="utf-8")
        self.environ = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "",  # as in production: the sources are compiled once
            "PYTHONPYCACHEPREFIX": str(Path(tempfile.gettempdir()) / f"neoq-bench-{os.getuid()}"),
            "NEOQ_URL": url,
            "NEOQ_RUNTIME_DIR": str(folder),
        }
        command = [sys.executable, "-m", "neoq", "worker", "app:backend", *arguments]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=folder, env=self.environ, stderr=log, stdin=subprocess.DEVNULL
            )

    def says(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until its log has a pattern so many times; the matches."""
        log = self.folder / "log"
        return until(lambda: found if len(found := re.findall(pattern, log.read_text())) >= times else [])

    def claims(self, processes: int) -> list[int]:
        """Wait until so many processes have begun to claim, ever; their pids."""
        return [int(pid) for pid in self.says(r"\((\d+)\) claims jobs", processes)]

    def ledger(self) -> list[tuple[int, int, float, str]]:
        """Of each attempt, in their order: the job, the process, the time, the version of the application."""
        try:
            lines = [line.split() for line in (self.folder / "ledger").read_text().splitlines()]
        except FileNotFoundError:
            return []
        attempts = [(int(line[0]), int(line[1]), float(line[2]), line[3]) for line in lines if len(line) == 4]
        return sorted(attempts, key=lambda attempt: attempt[2])


@contextmanager
def worker_on(store: str, *arguments: str, jobs: int = 0) -> Iterator[Worker]:
    """A worker on an empty store, or on one with jobs."""
    import neoq

    with tempfile.TemporaryDirectory() as folder, url_for(store) as url:
        with neoq.connect(url, autostart=False) as backend:
            enqueue(backend, jobs)
        worker = Worker(Path(folder), url, *arguments)
        try:
            yield worker
        finally:
            worker.process.terminate()
            worker.process.wait(PATIENCE)


def enqueue(backend: object, jobs: int) -> None:
    import neoq

    assert isinstance(backend, neoq.Backend)
    backend.enqueue_many([neoq.Job("work", {"n": n}, unique=False) for n in range(jobs)])


def until(condition: Callable[[], list[str]]) -> list[str]:
    """Wait until there is something."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        if found := condition():
            return found
        time.sleep(0.005)
    raise RuntimeError(f"not within {PATIENCE:.0f} s")


def check(worker: Worker, jobs: int) -> int:
    """Wait until each job has run; how many ran again."""
    until(lambda: ["all"] if len({attempt[0] for attempt in worker.ledger()}) == jobs else [])
    return len(worker.ledger()) - jobs


def gap(times: list[float]) -> float:
    """The longest time without the start of a job, in ms."""
    return max(after - before for before, after in itertools.pairwise(times)) * 1e3


def hups(store: str, quick: bool) -> Measures:
    """The longest gap before a HUP, and from it until all processes are replaced."""
    jobs = 2000 if quick else 6000
    with worker_on(store, "--processes", "2", jobs=jobs) as worker:
        worker.claims(2)
        time.sleep(0.5 if quick else 2.0)
        hung_up = time.monotonic()
        worker.process.send_signal(signal.SIGHUP)
        worker.claims(4)
        replaced = time.monotonic()
        if again := check(worker, jobs):
            raise RuntimeError(f"{again} jobs ran again")
        both = [attempt[2] for attempt in worker.ledger()]
        began = min(attempt[2] for attempt in worker.ledger() if attempt[1] == worker.claims(2)[1])
    before = [moment for moment in both if began <= moment <= hung_up]
    after = [moment for moment in both if hung_up <= moment <= replaced + 0.5]
    return {
        "jobs/s": len(before) / (hung_up - before[0]),
        "gap before ms": gap(before),
        "gap ms": gap(after),
        "replaced in s": replaced - hung_up,
    }


def kills(store: str, quick: bool) -> Measures:
    """From kill -9 of a child to the first job of the one that replaces it."""
    jobs = 1000 if quick else 3000
    with worker_on(store, "--processes", "2", jobs=jobs) as worker:
        first, other = worker.claims(2)
        time.sleep(0.5)
        killed = time.monotonic()
        os.kill(first, signal.SIGKILL)
        new = worker.claims(3)[2]
        again = check(worker, jobs)  # those whose end was not recorded yet
        ledger = worker.ledger()
        went_on = [moment for _, pid, moment, _ in ledger if pid == other and killed <= moment <= killed + 1]
        return {
            "replaced ms": (min(moment for _, pid, moment, _ in ledger if pid == new) - killed) * 1e3,
            "gap of the other ms": gap(went_on),
            "ran again": again,
        }


def reloads(store: str, quick: bool) -> Measures:
    """From the last of 100 changes to the first job that the new code runs, and how many restarts it took."""
    import neoq

    with worker_on(store, "--reload") as worker:
        worker.claims(1)
        with neoq.connect(worker.environ["NEOQ_URL"], autostart=False) as backend:
            taken: list[float] = []
            for version in range(2, 3 if quick else 5):
                for number in range(100):
                    saved = worker.folder / "app.py.new"
                    saved.write_text(APP.replace("VERSION = 1", f"VERSION = {version}") + f"# {number}\n")
                    saved.replace(worker.folder / "app.py")
                began = time.monotonic()
                while not any(attempt[3] == str(version) for attempt in worker.ledger()):
                    enqueue(backend, 1)
                    time.sleep(0.02)
                runs = next(attempt[2] for attempt in worker.ledger() if attempt[3] == str(version))
                taken.append((runs - began) * 1e3)
                worker.claims(version)
        restarts = len(worker.says("the processes are replaced"))
    return {"reload ms": percentile(taken, 0.5), "restarts for a burst": restarts / len(taken)}


def probes(store: str, quick: bool) -> Measures:
    """Probes of a worker under load, and `neoq health` beyond Python's own start, once it has run all."""
    jobs = 500 if quick else 2000
    with worker_on(store, "--processes", "2", "--port", "0", jobs=jobs) as worker:
        [port] = worker.says(r"probes at http://127\.0\.0\.1:(\d+)/")
        worker.claims(2)
        found: Measures = {}
        for what in ("livez", "readyz"):
            taken = [timed(lambda what=what: probe(int(port), what)) for _ in range(50 if quick else 300)]
            found |= {f"{what} p50 ms": percentile(taken, 0.5), f"{what} p99 ms": percentile(taken, 0.99)}
        check(worker, jobs)
        asks, plain = ["-m", "neoq", "health"], ["-c", "pass"]
        pairs = [
            [timed(lambda words=words: run(worker, words)) for words in (asks, plain)] for _ in range(10)
        ]
        found["health ms"] = percentile([ask - alone for ask, alone in pairs], 0.5)
        return found


def timed(work: Callable[[], object]) -> float:
    """How many ms it takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def probe(port: int, what: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET /{what} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = client.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200 "), answer


def run(worker: Worker, words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=worker.environ)


def takes(store: str, quick: bool) -> Measures:
    """Memory of the supervisor, and its CPU while nothing happens."""
    import psutil

    with worker_on(store, "--processes", "2") as worker:
        worker.claims(2)
        time.sleep(2.0)
        supervisor = psutil.Process(worker.process.pid)
        before, seconds = sum(supervisor.cpu_times()[:2]), 3.0 if quick else 20.0
        time.sleep(seconds)
        used = sum(supervisor.cpu_times()[:2]) - before
        return {"MB": supervisor.memory_info().rss / 2**20, "CPU %": 100 * used / seconds}


def contest(
    title: str,
    stores: tuple[str, ...],
    measure: Callable[[str, bool], Measures],
    *bars: tuple[str, str, float],
) -> Contest:
    promises = tuple(
        Bar(f"neoq worker on {store}: {promise}", metric, at_most=most, contender=store)
        for store in stores
        for promise, metric, most in bars
    )
    return Contest(title, stores, measure, promises, among=dict.fromkeys(stores))


CONTESTS = {
    "hup": contest(
        "HUP at 500 jobs/s over 2 processes",
        STORES,
        hups,
        ("no gap above 200 ms while processes are replaced", "gap ms", 200.0),
    ),
    "killed": contest(
        "Kill -9 of one of 2 processes at 500 jobs/s",
        STORES,
        kills,
        ("a killed process is replaced within 1 s", "replaced ms", 1000.0),
    ),
    "reload": contest(
        "From saving the application to running it",
        ("sqlite",),
        reloads,
        ("reloaded within 1 s", "reload ms", 1000.0),
        ("a burst of changes is one restart", "restarts for a burst", 1.0),
    ),
    "probes": contest(
        "Probes of a worker that runs 500 jobs/s",
        ("sqlite",),
        probes,
        ("/livez within 20 ms", "livez p99 ms", 20.0),
        ("/readyz within 20 ms", "readyz p99 ms", 20.0),
        ("neoq health within 60 ms beyond Python's own start", "health ms", 60.0),
    ),
    "supervisor": contest(
        "What the supervisor of 2 idle processes takes",
        ("sqlite",),
        takes,
        ("less than 25 MB", "MB", 25.0),
        ("no CPU when idle", "CPU %", 0.1),
    ),
}
