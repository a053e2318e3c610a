"""What operators do to the jobs and queues of a database."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neoq.errors import BackendError
from neoq.job import DuplicateJobError
from neoq.postgres.add import duplicate_of, holder_in, is_duplicate
from neoq.postgres.arrays import int8s, uuids
from neoq.postgres.connections import Connections
from neoq.postgres.find import Finder
from neoq.postgres.rows import held
from neoq.postgres.statements import Statements
from neoq.postgres.wake import Notifier, payload_for
from neoq.record import Status
from neoq.store import Action, Changed
from neoq.wording.safe_logger import SafeLogger


class Operator:
    """Cancels, retries and deletes jobs, pauses queues, and notifies other processes of it."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        finder: Finder,
        notifier: Notifier,
        log: SafeLogger,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._finder = finder
        self._notifier = notifier
        self._log = log

    def change(self, ids: Sequence[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        if not ids:
            return Changed()
        statement, values = self._statements.run_now, {"ids": int8s(ids)}
        if action != "run":
            statement = self._statements.change
            values |= {"holds": uuids(self._holds(ids, action)), "action": action}
        try:
            rows = self._connections.execute(statement, values)
        except BackendError as error:
            if not is_duplicate(error):
                raise
            if len(ids) > 1:  # nothing was done: find those whose fingerprint is taken
                return self._change_each(ids, action)
            job_id = holder_in(error)
            raise duplicate_of(next(iter(self._finder.of_ids([job_id])), None), job_id) from None
        queues = {queue for _, queue, _ in rows}
        self._tell("c" if action == "cancel" else "r", queues)
        return Changed(
            frozenset(job_id for job_id, _, done in rows if done),
            frozenset(job_id for job_id, _, done in rows if not done),
            frozenset(queues),
        )

    def _holds(self, ids: Sequence[int], action: Action) -> list[bytes | None]:
        """The fingerprints that dead jobs take again as they are retried."""
        if action != "retry":
            return [None] * len(ids)
        dead = {job.id: job for job in self._finder.of_ids(ids) if job.status is Status.DEAD}
        return [held(dead[job_id]) if job_id in dead else None for job_id in ids]

    def _change_each(self, ids: Sequence[int], action: Action) -> Changed:
        """Change jobs in halves, without those that must be left as they are."""
        changed = Changed()
        middle = len(ids) // 2
        for half in (ids[:middle], ids[middle:]):
            try:
                changed |= self.change(half, action)
            except DuplicateJobError:
                continue
        return changed

    def set_paused(self, queue: str, paused: bool) -> None:
        """Pause or resume a queue."""
        self._connections.execute(self._statements.pause, {"queue": queue, "paused": paused})
        self._tell("p" if paused else "r", [queue])

    def _tell(self, kind: str, queues: Iterable[str]) -> None:
        """Notify other processes; a failure does not undo what was done."""
        try:
            self._connections.execute(*self._notifier.notification(payload_for(kind, queues)))
        except BackendError as error:
            self._log.warning("other processes were not notified and find out later: %s", error)
