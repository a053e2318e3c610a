"""The progress writer: records for other processes what running jobs report, at most twice a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from neoq.clock import machine
from neoq.errors import BackendError
from neoq.job import Job
from neoq.outcome import Lease, lease_of
from neoq.store import Extended, Store
from neoq.threads.loop import Loop

if TYPE_CHECKING:
    from neoq.config import Config

WRITE_EVERY = 0.48  # seconds: with the way to the reader half a second


class ProgressWriter:
    """Writes the reports of all running jobs of this process in one call, where any has changed.

    The first report after a pause is written at once. A job that ends sooner than the next write is due costs
    no write of its own: its outcome carries its last report.
    """

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        running: Callable[[], Iterable[Job]],
        extended: Callable[[list[Lease], Extended], None],
        written: Callable[[list[int]], None],
    ) -> None:
        self._store = store
        self._log = config.log
        self._running = running
        self._extended = extended
        self._written = written
        self._known: dict[tuple[int, int], tuple[float, str]] = {}  # by id and token: as it was written
        self._reported = False
        self._written_at = -WRITE_EVERY
        self._loop = Loop("neoq-progress", self._turn, config.log, away=self._say_away, on_demand=True)

    def note_report(self) -> None:
        """A running job has reported."""
        if not self._reported:
            self._reported = True
            self._loop.wake()

    def close(self) -> None:
        """Write no more."""
        self._loop.close(1.0)

    def _say_away(self, error: BackendError, pause: float) -> None:
        self._log.debug("progress is written again in %.1f s: %s", pause, error)

    def _turn(self) -> float | None:
        if not self._reported:
            return None
        left = self._written_at + WRITE_EVERY - machine.monotonic()
        if left > 0:
            return left
        self._written_at = machine.monotonic()
        self._reported = False
        try:
            self._write()
        except BaseException:
            self._reported = True
            raise
        return None

    def _write(self) -> None:
        reports: dict[tuple[int, int], tuple[float, str]] = {}
        leases: list[Lease] = []
        for job in self._running():
            lease = lease_of(job)
            if lease.progress is not None:
                reports[lease.job_id, lease.token] = lease.progress
                if self._known.get((lease.job_id, lease.token)) != lease.progress:
                    leases.append(lease)
        if leases:
            self._extended(leases, self._store.extend(leases))
            self._written([lease.job_id for lease in leases])
        self._known = reports
