"""Celery's chord, DBOS' steps and BullMQ's flows, each set up as its own documentation recommends.

BullMQ runs in node, which finds it and ioredis in a folder node_modules above, or where NODE_PATH says.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from contest import PATIENCE, Measures, payloads
from on_servers import RUNNERS, URL, Timed

FLOWS = Path(__file__).with_name("flows.js")


class Peer:
    package: str | None = None
    store = ""
    has_batches = has_steps = False

    def absent(self) -> bool:
        """Whether something else than its Python package is missing."""
        return False

    def batch(self, count: int) -> Measures:
        """Add a batch, then run it; it has ended when its callback has run."""
        raise NotImplementedError

    def callbacks(self, turns: int, members: int) -> list[float]:
        """The milliseconds from the end of the last member to the start of the callback, of each batch."""
        raise NotImplementedError

    def steps(self, count: int, steps: int, runners: int) -> Measures:
        """Run workflows of some steps."""
        raise NotImplementedError


class Chord(Peer):
    """A chord of Celery on Redis, with threads, as neoq has them."""

    package, store, has_batches = "celery", "redis", True

    def batch(self, count: int) -> Measures:
        from celery import chord

        handled, called = Timed(count), threading.Event()
        app, work, then = self.app(handled.note, called.set)
        start = time.perf_counter()
        chord((work.s(payload) for payload in payloads(count)), then.si())()
        added = time.perf_counter() - start
        self.start(app)
        handled.wait()
        if not called.wait(PATIENCE):
            raise RuntimeError("the callback did not run")
        ran = handled.seconds
        handled.check()
        return rates(count, added, ran)

    def callbacks(self, turns: int, members: int) -> list[float]:
        from celery import chord

        ends: list[float] = []
        waits: list[float] = []
        sealed, called = threading.Event(), threading.Event()

        def work_once(payload: dict[str, Any]) -> None:
            sealed.wait(PATIENCE)
            ends.append(time.perf_counter())

        def call() -> None:
            waits.append((time.perf_counter() - max(ends)) * 1e3)
            called.set()

        app, work, then = self.app(work_once, call)
        self.start(app)
        for turn in range(turns):
            chord((work.s(payload) for payload in payloads(members)), then.si())()
            sealed.set()
            if not called.wait(PATIENCE):
                raise RuntimeError(f"callback {turn} did not run")
            ends.clear()
            sealed.clear()
            called.clear()
            time.sleep(0.01)
        return waits

    def app(self, note: Any, call: Any) -> tuple[Any, Any, Any]:
        from celery import Celery

        app = Celery("bench", broker=os.environ[URL], backend=os.environ[URL])
        app.conf.update(worker_hijack_root_logger=False, broker_connection_retry_on_startup=True)

        @app.task(name="work")  # type: ignore[untyped-decorator]
        def work(payload: dict[str, Any]) -> None:
            note(payload)

        @app.task(name="then")  # type: ignore[untyped-decorator]
        def then() -> None:
            call()

        return app, work, then

    def start(self, app: Any) -> None:
        from celery.contrib.testing.worker import start_worker

        self.worker = start_worker(
            app,
            concurrency=RUNNERS,
            pool="threads",
            loglevel="ERROR",
            perform_ping_check=False,
            shutdown_timeout=30,
        )
        self.worker.__enter__()


class DBOSSteps(Peer):
    """Workflows of DBOS on Postgres, called in threads: its queues are not measured."""

    package, store, has_steps = "dbos", "postgres", True

    def steps(self, count: int, steps: int, runners: int) -> Measures:
        from dbos import DBOS

        DBOS(config={"name": "bench", "system_database_url": os.environ[URL], "log_level": "ERROR"})
        done: list[int] = []

        @DBOS.step()  # type: ignore[untyped-decorator]
        def note(number: int) -> int:
            done.append(number)
            return number

        @DBOS.workflow()  # type: ignore[untyped-decorator]
        def work(job: int) -> int:
            for number in range(steps):
                note(number)
            return job

        DBOS.launch()
        with ThreadPoolExecutor(runners) as pool:
            list(pool.map(work, range(runners)))  # each thread has its connection before the time counts
            done.clear()
            start = time.perf_counter()
            ended = list(pool.map(work, range(count)))
            seconds = time.perf_counter() - start
        if ended != list(range(count)) or len(done) != count * steps:
            raise RuntimeError(f"{len(done):,} of {count * steps:,} steps ran")
        return {"jobs": count, "steps": len(done), "steps/s": len(done) / seconds}


class BullMQFlows(Peer):
    """Flows of BullMQ on Redis, in a node process of their own."""

    store, has_batches = "redis", True

    def absent(self) -> bool:
        node = shutil.which("node")
        found = node and subprocess.run(
            [node, "-e", "require.resolve('bullmq'); require.resolve('ioredis')"],
            capture_output=True,
            check=False,
            cwd=FLOWS.parent,
        )
        return not found or found.returncode != 0

    def batch(self, count: int) -> Measures:
        found = self.run("batch", count, 1)
        return rates(count, found["added"], found["ran"])

    def callbacks(self, turns: int, members: int) -> list[float]:
        waits: list[float] = self.run("callbacks", members, turns)["waits"]
        return waits

    def run(self, what: str, members: int, turns: int) -> Any:
        command = ["node", str(FLOWS), os.environ[URL], what, str(members), str(turns), str(RUNNERS)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 3, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout.splitlines()[-1])


def rates(count: int, added: float, ran: float) -> Measures:
    return {"jobs": count, "added/s": count / added, "run/s": count / ran, "both/s": count / (added + ran)}


PEERS: dict[str, Peer] = {"Celery's chord": Chord(), "BullMQ's flow": BullMQFlows(), "DBOS": DBOSSteps()}
