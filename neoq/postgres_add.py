"""How jobs get into PostgreSQL: one statement each time, and what to do where its reply was lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from neoq.errors import BackendError, BackendUnavailable, DuplicateJobError
from neoq.job import Job
from neoq.postgres_arrays import uuids
from neoq.postgres_commit import GroupCommit
from neoq.postgres_connections import Connections
from neoq.postgres_jobs import BINARY, LISTS, Statements, accept, add_values, find_query, job_of
from neoq.postgres_listen import Announcer, news
from neoq.postgres_transactions import Execute, Joined

GROUP_PATIENCE = "100ms"  # for a fingerprint that another transaction holds, while others wait for the commit
DUPLICATE = "NQ001"
_REMEMBERED = 5000

Rows = list[tuple[Any, ...]]


class Adder:
    """Adds the jobs of one process."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        announcer: Announcer,
        *,
        forgets: bool,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._announcer = announcer
        self._forgets = forgets  # what has ended leaves no trace: a lost reply cannot be found out then
        self._group: GroupCommit[tuple[Job, bytes], Job] = GroupCommit(self._commit)
        self._tokens = _Tokens()
        self.queues: set[str] = set()  # that the server knows
        self.last_id = 0  # of a job that was there before whatever is added next

    # -- in a transaction of our own --------------------------------------------------------------------

    def known(self, token: bytes) -> list[Job] | None:
        """The jobs that an add with this token has stored or met before."""
        ids = self._tokens.get(token)
        return None if ids is None else _in_order(ids, self._find(self._execute, ids))

    def add_one(self, job: Job, token: bytes) -> Job:
        """Add a job, in one commit with those of other threads."""
        added = self._group((job, token))
        if token:
            self._tokens.put(token, [added.id])
        return added

    def add_many(self, jobs: Sequence[Job], token: bytes) -> list[Job]:
        """Add jobs, all or none."""
        added = self._insert(jobs, [token or None] * len(jobs), None)
        if token:
            self._tokens.put(token, [job.id for job in added])
        return added

    def _commit(self, items: Sequence[tuple[Job, bytes]]) -> Sequence[Job | BaseException]:
        """Add the jobs of several threads; each by itself where they cannot go together."""
        if len(items) > 1:
            try:
                return self._insert(
                    [job for job, _ in items], [token or None for _, token in items], GROUP_PATIENCE
                )
            except BackendUnavailable as error:
                if error.outcome_unknown:
                    raise
            except BackendError:
                pass
        return [self._tried(job, token) for job, token in items]

    def _tried(self, job: Job, token: bytes) -> Job | BaseException:
        try:
            [added] = self._insert([job], [token or None], None)
            return added
        except BackendError as error:
            return error

    def _insert(self, jobs: Sequence[Job], tokens: Sequence[bytes | None], patience: str | None) -> list[Job]:
        queues = {job.queue for job in jobs}
        new = queues - self.queues
        notify = self._announcer.with_commit(queues)
        values = add_values(
            jobs, tokens, BINARY, new_queues=list(new), notify=notify, patience=patience
        )
        rows = self._add_rows(jobs, tokens, values)
        self.queues |= new
        if notify is None:
            self._announcer.afterwards(queues)
        return self._with_holders(self._execute, jobs, accept(jobs, rows))

    def _add_rows(self, jobs: Sequence[Job], tokens: Sequence[bytes | None], values: tuple[Any, ...]) -> Rows:
        last_id = self.last_id
        try:
            return self._execute(self._statements.add, values)
        except BackendUnavailable as error:
            if not error.outcome_unknown or None in tokens:
                raise
            return self._find_out(jobs, tokens, values, last_id, error)
        except BackendError as error:
            if _sqlstate(error) == DUPLICATE:
                raise self._duplicate(self._execute, error) from None
            raise

    def _with_holders(self, execute: Execute, jobs: Sequence[Job], holders: Sequence[int]) -> list[Job]:
        """The jobs, and in place of duplicates snapshots of those that were there."""
        ids = [job_id for job_id in holders if job_id]
        if not ids:
            self.last_id = max(self.last_id, jobs[-1].id or 0)
            return list(jobs)
        found = self._find(execute, ids)
        added = []
        for job, job_id in zip(jobs, holders, strict=True):
            if job_id:
                holder = found[job_id]._copy()
                holder.duplicate = True
                added.append(holder)
            else:
                added.append(job)
        return added

    # -- where a reply was lost -------------------------------------------------------------------------

    def _find_out(
        self,
        jobs: Sequence[Job],
        tokens: Sequence[bytes | None],
        values: tuple[Any, ...],
        last_id: int,
        lost: BackendUnavailable,
    ) -> Rows:
        """What became of an add whose reply was lost; done again where nothing did.

        Raises the first error where it cannot be told.
        """
        if not self._connections.await_end(".add("):  # it may still be committed
            raise lost
        sought = uuids(list(set(tokens)))
        rows = self._execute(self._statements.added_by, (last_id, sought, last_id, sought))
        if len(rows) == len(jobs):
            return [(None, *row[1:], False) for row in rows]
        if rows or self._forgets:  # some met holders, or have run and are forgotten
            raise lost
        return self._execute(self._statements.add, values)

    # -- in a transaction of the caller's ---------------------------------------------------------------

    def introduce(self, queues: set[str]) -> None:
        """Let the server know queues, at once: where a caller's transaction did it, all would wait for its end."""
        new = queues - self.queues
        if new:
            self._execute(self._statements.introduce, (sorted(new),))
            self.queues |= new

    def add_joined(self, joined: Joined, jobs: Sequence[Job]) -> list[Job]:
        """Add jobs inside a caller's transaction; its commit tells other processes, and this one."""
        queues = {job.queue for job in jobs}
        new = queues - self.queues
        values = add_values(jobs, [], LISTS, new_queues=list(new), notify=news("r", queues))
        refuses = any(job.on_duplicate == "raise" for job in jobs)
        if refuses:
            joined("savepoint neoq")
        try:
            rows = joined(self._statements.add, values)
        except BackendError as error:
            if refuses and _sqlstate(error) == DUPLICATE:
                joined("rollback to savepoint neoq")
                raise self._duplicate(joined, error) from None
            raise
        if refuses:
            joined("release savepoint neoq")
        return self._with_holders(joined, jobs, accept(jobs, rows))

    # -- holders ----------------------------------------------------------------------------------------

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> Rows:
        return self._connections.execute(statement, values)

    def _find(self, execute: Execute, ids: Sequence[int]) -> dict[int, Job]:
        query, values = find_query(
            self._statements, ids=set(ids), queue=None, status=None, limit=len(ids), after=None
        )
        return {row[0]: job_of(row) for row in execute(query, values)}

    def _duplicate(self, execute: Execute, error: BackendError) -> DuplicateJobError:
        cause = error.__cause__
        assert isinstance(cause, psycopg.Error)
        job_id = int(cause.diag.message_detail or 0)
        return duplicate_of(self._find(execute, [job_id]).get(job_id), job_id)


def duplicate_of(holder: Job | None, job_id: int) -> DuplicateJobError:
    """The error for a fingerprint that is taken."""
    if holder is None:  # it has ended just now, and is forgotten
        holder = Job("unknown")
        holder.id = job_id
    return DuplicateJobError(
        f"job {holder.id} of {holder.queue!r} has that fingerprint and is {holder.status.name}", job=holder
    )


def _sqlstate(error: BackendError) -> str | None:
    return error.__cause__.sqlstate if isinstance(error.__cause__, psycopg.Error) else None


def _in_order(ids: Sequence[int], found: dict[int, Job]) -> list[Job]:
    return [found[job_id] for job_id in ids if job_id in found]


class _Tokens:
    """The adds of late, so that one which is repeated adds nothing."""

    def __init__(self) -> None:
        self._new: dict[bytes, list[Any]] = {}
        self._old: dict[bytes, list[Any]] = {}

    def get(self, token: bytes) -> list[Any] | None:
        """The ids of an add."""
        return self._new.get(token) or self._old.get(token)

    def put(self, token: bytes, ids: Iterable[Any]) -> None:
        """Remember an add, and forget the older ones now and then."""
        if len(self._new) >= _REMEMBERED:
            self._old, self._new = self._new, {}
        self._new[token] = list(ids)
