"""A backend with jobs in every state, for the pages to show."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import neoq
from neoq.job import Job

PATIENCE = 15.0


class PrinterJammed(Exception):
    """Why some jobs are dead."""


class Shop:
    """What stands in the backend: the ids of its jobs, by state."""

    def __init__(self, backend: neoq.Backend, text: str = "") -> None:
        self.backend = backend
        self.text = text
        self.ids: dict[str, int] = {}
        self._number = 0
        self._release = threading.Event()
        self._started = threading.Event()

    def fill(self) -> None:
        """Add jobs and run some, so that there is one of each state, and something that needs a hand."""
        backend, text = self.backend, self.text
        backend.listen("emails" + text, self._handle, concurrency=2)
        backend.listen_cron("0 3 * * *", self._handle, queue="nightly" + text)
        options: dict[str, Any] = {"meta": {"trace" + text: "00-1" + text}}
        done = {
            "succeeded": self.add("ok", kind="welcome" + text, key="ada" + text, **options),
            "dead": self.add("declined", kind="charge" + text, max_retries=0, **options),
            "retrying": self.add("declined", max_retries=3),
        }
        jams = [self.add("jammed", max_retries=0) for _ in range(3)]
        backend.start()
        for job in (*done.values(), *jams):
            self._until_tried(job)
        cancelled = self.add("ok", run_after=3600)
        backend.cancel(cancelled.id)
        running = self.add("held")
        assert self._started.wait(PATIENCE)
        scheduled = self.add("ok", run_after=7200)
        waiting = self._waiting_letter()
        self.ids = {state: job.id for state, job in done.items()}
        self.ids |= {"cancelled": cancelled.id, "running": running.id, "scheduled": scheduled.id}
        self.ids |= {"pending": waiting.id, "jammed": jams[0].id}

    def add(self, what: str, **options: Any) -> Job:
        """Add a job of the queue that is listened to, which then does what the first word says."""
        self._number += 1  # no two jobs are equal
        payload = {
            "do": what,
            "n": self._number,
            "to" + self.text: "ada@example.com" + self.text,
            "items": [{"name": "café " + self.text, "price": 12.5, "id": 2**60}],
            "password": "hunter2",
        }
        return self.backend.enqueue("emails" + self.text, payload, **options)

    def _waiting_letter(self) -> Job:
        """A job that nobody runs: where no listener is needed, its queue has none; in memory it is paused."""
        queue = "letters" + self.text
        if isinstance(self.backend, neoq.MemBackend):
            self.backend.listen(queue, self._handle)
            self.backend.pause(queue)
        return self.backend.enqueue(queue, {"to": "ada@example.com" + self.text})

    def close(self) -> None:
        """End the job that is running, and the backend."""
        self._release.set()
        self.backend.shutdown()

    def _handle(self, job: Job) -> dict[str, str]:
        what = job.payload["do"] if job.payload else "ok"
        if what == "held":
            self._started.set()
            self._release.wait()
        if what == "jammed":
            raise PrinterJammed(f"no paper in tray 2 {self.text}")
        if what == "declined":
            raise ValueError(f"card declined {self.text}")
        return {"sent" + self.text: "yes" + self.text}

    def _until_tried(self, job: Job) -> None:
        for seen in self.backend.watch(job.id, timeout=PATIENCE):
            if seen.finished_at is not None or seen.status == "retrying":
                return


@contextmanager
def shop(backend: neoq.Backend, text: str = "") -> Iterator[Shop]:
    """Fill a backend, and close it at the end; ``text`` is part of every name and text in it."""
    filled = Shop(backend, text)
    try:
        filled.fill()
        yield filled
    finally:
        filled.close()
