"""Sweeps: changes of all jobs that a filter takes, in pages of 500 and in the background."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from neoq.audit import filter_text
from neoq.dashboard.acting import recorded
from neoq.dashboard.search import steps, wanted_by
from neoq.errors import LookTimeoutError, NeoqError
from neoq.threads.lifecycle import start

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.dashboard.changes import Change
    from neoq.dashboard.finder import Finder
    from neoq.dashboard.mask import Mask
    from neoq.dashboard.request import Request
    from neoq.line import JobLine

_logger = logging.getLogger("neoq.dashboard")
PAGE = 500  # jobs of one call of the store, so that it holds nobody up for long
KEPT = 50  # sweeps that have ended, whose pages can still be looked at
COUNT_SECONDS = 0.5  # for which jobs are counted before a sweep
SAMPLE = 5
PAUSE = 0.02  # between two pages, so that workers claim


def pages(
    backend: Backend, change: Change, finder: Finder, mask: Mask, newest: int | None = None
) -> Iterator[list[JobLine]]:
    """The jobs that a filter takes and the change can change, newest first, in steps that may be empty.

    Those that were enqueued after ``newest`` are left, and those in whose errors the text that is searched
    for is hidden: how many these are would show what is hidden.
    """
    for found in steps(backend, wanted_by(backend, finder, change), PAGE, newest):
        yield [job for job in found if finder.shows(mask, job)]


def counted(
    backend: Backend, change: Change, finder: Finder, mask: Mask, known: int = 0
) -> tuple[int, bool, list[JobLine]]:
    """How many jobs a sweep would meet, whether that is all of them, and some of them.

    ``known`` is how many there are where that is counted anyway.
    """
    give_up = time.monotonic() + COUNT_SECONDS
    number = 0
    sample: list[JobLine] = []
    try:
        for page in pages(backend, change, finder, mask):
            number += len(page)
            sample = sample or page[:SAMPLE]
            if known and sample:
                return max(known, number), True, sample
            if time.monotonic() > give_up:
                return max(known, number), bool(known), sample
    except LookTimeoutError:
        return max(known, number), bool(known), sample
    return number, True, sample


class Sweep:
    """One change of all jobs that a filter takes: how far it is, and how to stop it.

    ``once`` names the form that asked for it, which is sent twice by a double click; ``newest`` is the newest
    job that it may change, ``total`` how many were counted before.
    """

    def __init__(
        self,
        change: Change,
        finder: Finder,
        request: Request,
        mask: Mask,
        *,
        newest: int | None = None,
        once: str = "",
        total: int | None = None,
    ) -> None:
        self.id = f"{os.getpid()}-{secrets.token_hex(8)}"
        self.change = change
        self.finder = finder
        self.newest = newest
        self.once = once
        self.total = total
        self._request = request
        self._mask = mask
        self.matched = self.changed = 0
        self.error: str | None = None
        self.took: float | None = None
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._ended = threading.Event()

    @property
    def queue(self) -> str | None:
        """The only queue that it is about, if there is one."""
        return self.finder.texts.get("queue")

    @property
    def state(self) -> str:
        """Whether it is "running" or "stopping", or how it ended: "done", "stopped" or "failed"."""
        if not self._ended.is_set():
            return "stopping" if self._stop.is_set() else "running"
        return "failed" if self.error else "stopped" if self._stop.is_set() else "done"

    def stop(self) -> None:
        """Let it end after the page that it is at."""
        self._stop.set()

    def wait(self, timeout: float) -> bool:
        """Wait until it has ended; whether it has."""
        return self._ended.wait(timeout)

    def run(self, backend: Backend) -> None:
        """Do it; whatever happens, it has ended afterwards."""
        try:
            what = filter_text(wanted_by(backend, self.finder, self.change))
            with recorded(
                self._request, backend.store, self.change.name, queue=self.queue, what=what
            ) as deed:
                for page in pages(backend, self.change, self.finder, self._mask, self.newest):
                    if self._stop.is_set():
                        break
                    if not page:
                        continue
                    self.matched += len(page)
                    self.changed += len(self.change.apply(backend, [job.id for job in page]))
                    deed.count = self.changed
                    self._stop.wait(PAUSE)
        except NeoqError as error:
            self.error = str(error)
        except Exception:
            _logger.exception("the dashboard cannot %s all that match", self.change.name)
            self.error = "an unexpected error, which the log of this process has"
        finally:
            self.took = time.monotonic() - self._began
            self._ended.set()


class Sweeps:
    """The sweeps of a process: those that run, and the last ones that have ended."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Sweep] = OrderedDict()

    def get(self, sweep_id: str) -> Sweep | None:
        """A sweep of this process."""
        return self._known.get(sweep_id)

    def known(self) -> list[Sweep]:
        """All that are kept, the oldest first."""
        return list(self._known.values())

    def running(self) -> list[Sweep]:
        """Those that have not ended."""
        return [sweep for sweep in self.known() if sweep.took is None]

    def stop(self, timeout: float) -> None:
        """Stop all, and wait for them, so that the record tells what each has done."""
        running = self.running()
        for sweep in running:
            sweep.stop()
        give_up = time.monotonic() + timeout
        for sweep in running:
            sweep.wait(max(0.0, give_up - time.monotonic()))

    def begin(self, backend: Backend, sweep: Sweep, ended: Callable[[], None]) -> Sweep:
        """Run a sweep in a thread of its own, or return the one that does the same or began by its form."""
        with self._lock:
            for known in self._known.values():
                same = known.finder == sweep.finder and known.change == sweep.change
                if same and (known.state == "running" or (sweep.once and known.once == sweep.once)):
                    return known
            self._known[sweep.id] = sweep
            while len(self._known) > KEPT and next(iter(self._known.values())).took is not None:
                self._known.popitem(last=False)

        def run() -> None:
            sweep.run(backend)
            ended()

        start(threading.Thread(target=run, name="neoq-dashboard-sweep", daemon=True))
        return sweep
