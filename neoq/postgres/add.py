"""How jobs get into PostgreSQL: one statement each time, and what to do where its reply was lost."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg
from psycopg.pq.abc import PGresult

from neoq.errors import BackendError, BackendUnavailable, NeoqError
from neoq.filter import Filter
from neoq.job import DuplicateJobError, Job
from neoq.postgres.arrays import byteas, texts, uuids
from neoq.postgres.connections import Connection, Connections, Values, is_alive
from neoq.postgres.members import closed, meet_members, print_of
from neoq.postgres.rows import (
    ADDED,
    BINARY,
    SNAPSHOT,
    Arrays,
    accept,
    add_values,
    find_query,
    held,
    job_of,
)
from neoq.postgres.statements import GROUP_PATIENCE, Statements
from neoq.postgres.transactions import Execute, Transaction, driver_error, sqlstate_of
from neoq.postgres.wake import Notifier, payload_for
from neoq.record import Status
from neoq.store import taken_by
from neoq.threads.group_commit import Call, GroupCommit

FEW = 4  # callers: not worth waiting for
DUPLICATE, CLOSED, KNOWN = REFUSALS = ("NQ001", "NQ002", "NQ003")
TRIES = 3  # to add a job whose holder has finished meanwhile
_REMEMBERED = 5000
_PRODUCERS = 1000  # of batches without a name, known at once
_TIME = struct.Struct("!d").unpack

Rows = list[tuple[Any, ...]]
Item = tuple[Job, bytes | None, bytes]  # what it holds, and its token


class Adder:
    """Adds the jobs of one process."""

    def __init__(
        self,
        connections: Connections,
        statements: Statements,
        notifier: Notifier,
        *,
        forgets: bool,
    ) -> None:
        self._connections = connections
        self._statements = statements
        self._notifier = notifier
        self._forgets = forgets  # finished jobs leave no trace, by which a lost reply could be made up for
        self._group: GroupCommit[Item, Job | None] = GroupCommit(self._commit, few=FEW)
        self._group_connection: Connection | None = None  # of whoever leads
        self._tokens = _Tokens()
        self._unnamed: set[int] = set()  # producers of batches without a name, the latest ones
        self.queues: set[str] = set()  # that the server knows
        self.last_id = 0  # the next job that is added has a higher id

    # -- in a transaction of our own --------------------------------------------------------------------

    def known(self, token: bytes) -> list[Job] | None:
        """The jobs that an add with this token has stored or met before."""
        ids = self._tokens.get(token)
        return None if ids is None else _in_order(ids, self._find(self._execute, ids))

    def add_one(self, job: Job, token: bytes) -> Job:
        """Add a job, in one commit with those of other threads where it is as plain as most are."""
        together = not job.special or (job.is_call and token and job.group is None)
        added = self._group((job, held(job), token)) if together else None
        if added is None:
            [added] = self._insert([job], [token or None])
            self.remember(token, [added])
        return added

    def add_many(self, jobs: Sequence[Job], token: bytes) -> list[Job]:
        """Add jobs, all or none."""
        added = self._insert(jobs, [token or None] * len(jobs))
        self.remember(token, added)
        return added

    def remember(self, token: bytes, added: Sequence[Job]) -> None:
        """Let an add that is repeated with this token return the same jobs."""
        if token:
            self._tokens.put(token, [job.id for job in added])

    def know_producer(self, producer: int, *, named: bool) -> None:
        """Make no prints of what this producer adds to a batch without a name."""
        if named:
            self._unnamed.discard(producer)
            return
        if len(self._unnamed) >= _PRODUCERS:
            self._unnamed.clear()  # prints that nobody needs only cost time
        self._unnamed.add(producer)

    def _commit(self, calls: Sequence[Call[Item, Job | None]]) -> None:
        added = self.add_together([call.item for call in calls])
        for call, job in zip(calls, added, strict=True):
            if job is not None:
                self._tokens.put(call.item[2], (job.id,))
            call.value, call.ended = job, True

    def add_together(self, items: Sequence[Item]) -> Sequence[Job | None]:
        """Add plain jobs of several threads; None for each that must be added by itself.

        That is a job that meets a holder or a lock. It is added alone, so that the others need not wait.
        """
        last_id = self.last_id
        try:
            return self._connection_of_group(items)
        except BackendUnavailable as error:
            if not error.outcome_unknown:
                return [None] * len(items)
            return self._find_out_each(items, last_id, error)
        except BackendError:  # perhaps one job caused it: nothing was stored, and each is added by itself
            if len(items) == 1:
                raise
            return [None] * len(items)

    def _connection_of_group(self, items: Sequence[Item]) -> list[Job | None]:
        connection = self._group_connection
        if connection is None or not is_alive(connection):
            connection = self._connect_group()
        try:
            return self._insert_plain(connection, items)
        except psycopg.Error as error:
            raise self._connections.lost_or_wrapped(error, connection) from error
        except BaseException:  # an interrupt: the state of the connection is unknown
            self._group_connection = None
            connection.close()
            raise

    def _connect_group(self) -> Connection:
        self.close()
        connection = self._connections.connect()
        try:
            if self._connections.direct:
                connection.execute(f"set lock_timeout = '{GROUP_PATIENCE}'")
        except BaseException as error:
            connection.close()
            if isinstance(error, psycopg.Error):
                raise self._connections.wrapped(error) from error  # nothing was sent that could be in doubt
            raise
        self._group_connection = connection
        return connection

    def _insert_plain(self, connection: Connection, items: Sequence[Item]) -> list[Job | None]:
        jobs, keys, tokens = zip(*items, strict=True)
        queues = {job.queue for job in jobs}
        self.name_queues(queues)
        notify = self._notifier.notify_in_commit(queues)
        if len(jobs) == 1:
            kind = jobs[0].kind
            of_kind = None if kind is None else kind.encode()
            values = (keys[0], tokens[0] or None, jobs[0].queue.encode(), jobs[0].body, of_kind)
        else:
            values = (
                uuids(keys).data,
                uuids(tokens if all(tokens) else [token or None for token in tokens]).data,
                texts([job.queue for job in jobs]).data,
                byteas([job.body for job in jobs]).data,
                texts([job.kind for job in jobs]).data,
            )
        told = () if notify is None else (notify.encode(),)
        name, statement = self._statements.plain(
            several=len(jobs) > 1, tell=notify is not None, direct=self._connections.direct
        )
        marks = [key or token for key, token in zip(keys, tokens, strict=True)]
        added = _accepted(jobs, marks, self._connections.prepared(connection, name, statement, values + told))
        if notify is None:
            self._notifier.notify_later(queues)
        self.last_id = max([self.last_id, *(job.id or 0 for job in added if job is not None)])
        return added

    def _insert(self, jobs: Sequence[Job], tokens: Sequence[bytes | None]) -> list[Job]:
        """Add any jobs, all or none, in a statement of their own."""
        holders = self._insert_or_meet(jobs, tokens)
        # Without a token: it would find what was stored above.
        return self._with_holders(
            self._execute, jobs, holders, lambda job: self._insert_or_meet([job], [None])
        )

    def _insert_or_meet(self, jobs: Sequence[Job], tokens: Sequence[bytes | None]) -> list[int]:
        """Add jobs; returns the id of the holder of each that was a duplicate, 0 for the others."""
        queues = {job.queue for job in jobs}
        self.name_queues(queues)
        notify = self._notifier.notify_in_commit(queues)
        values = add_values(jobs, tokens, BINARY, notify=notify, unnamed=self._unnamed)
        try:
            rows = self._add_rows(jobs, tokens, values)
        except BackendError as error:
            if not is_known_member(error):
                raise
            return meet_members(
                self._known_members(self._execute, jobs, BINARY),
                jobs,
                lambda rest, places: self._insert_or_meet(rest, [tokens[place] for place in places]),
            )
        if notify is None:
            self._notifier.notify_later(queues)
        return accept(jobs, rows)

    def _known_members(self, execute: Execute, jobs: Sequence[Job], arrays: Arrays) -> dict[int, int]:
        """The ids of the members of named batches that have the prints of jobs, by the places of these."""
        values = {
            "batches": arrays.texts([job.group for job in jobs]),
            "prints": arrays.uuids([print_of(job) for job in jobs]),
        }
        return {place - 1: member for place, member in execute(self._statements.known_members, values, "nn")}

    def name_queues(self, queues: set[str]) -> None:
        """Record queues on the server, once; not with the jobs, whose transaction may be a long one."""
        if not queues <= self.queues:
            self._execute(self._statements.name_queues, (list(queues),))
            self.queues |= queues

    def _add_rows(self, jobs: Sequence[Job], tokens: Sequence[bytes | None], values: dict[str, Any]) -> Rows:
        last_id = self.last_id
        try:
            return self._execute(self._statements.add_of(values), values)
        except BackendUnavailable as error:
            if not error.outcome_unknown or None in tokens:
                raise
            return self._find_out(jobs, tokens, values, last_id, error)
        except BackendError as error:
            if _sqlstate(error) not in {DUPLICATE, CLOSED}:
                raise
            raise self._refused(self._execute, error) from None

    def _with_holders(
        self,
        execute: Execute,
        jobs: Sequence[Job],
        holders: Sequence[int],
        again: Callable[[Job], list[int]],
    ) -> list[Job]:
        """The jobs, and in place of duplicates snapshots of those that were there.

        If the holder has since finished and been pruned, the job is added ``again``.
        """
        ids = [job_id for job_id in holders if job_id]
        if not ids:
            self.last_id = max(self.last_id, jobs[-1].id or 0)
            return list(jobs)
        found = self._find(execute, ids)
        for job, job_id in zip(jobs, holders, strict=True):
            if not job_id:
                found.setdefault(job.id or 0, job)
        added = []
        for job, met in zip(jobs, holders, strict=True):
            holder, tries = met, TRIES
            # Not a job that replaced its holder: the holder may have run with its payload already.
            while holder and holder not in found and tries and job.on_duplicate != "replace":
                [holder] = again(job)
                tries -= 1
                found |= self._find(execute, [holder]) if holder else {job.id or 0: job}
            added.append(_in_place_of(job, found.get(holder), holder) if holder else job)
        return added

    # -- where a reply was lost -------------------------------------------------------------------------

    def _find_out(
        self,
        jobs: Sequence[Job],
        tokens: Sequence[bytes | None],
        values: dict[str, Any],
        last_id: int,
        lost: BackendUnavailable,
    ) -> Rows:
        """The rows of an add whose reply was lost; it is repeated if it stored nothing.

        Raises the first error if that is unknown.
        """
        rows = self._stored(set(tokens), last_id, lost)
        if len(rows) == len(jobs):
            return [(None, *row[1:]) for row in rows]
        if rows or self._forgets:  # the missing ones were duplicates, or have finished and left no trace
            raise lost
        return self._execute(self._statements.add_of(values), values)

    def _find_out_each(
        self, items: Sequence[Item], last_id: int, lost: BackendUnavailable
    ) -> list[Job | None]:
        """As `_find_out`, for jobs of several threads: None for each that was not stored."""
        if not all(token for _, _, token in items):
            raise lost
        rows = {row[0].bytes: row for row in self._stored({token for _, _, token in items}, last_id, lost)}
        if self._forgets and len(rows) < len(items):
            raise lost
        for job, _, token in items:
            if token in rows:
                accept([job], [(None, *rows[token][1:])])
        return [job if token in rows else None for job, _, token in items]

    def _stored(self, tokens: Iterable[bytes | None], last_id: int, lost: BackendUnavailable) -> Rows:
        """The rows that adds with these tokens have stored."""
        values = {"last_id": last_id, "tokens": uuids(list(tokens))}
        try:
            if all(map(self._connections.await_end, (".jobs (", ".add(", "COMMIT"))):
                return self._execute(self._statements.added_by, values)
        except BackendUnavailable as error:
            raise lost from error
        raise lost  # it may still be committed

    def committed(self, token: bytes, add: Callable[[Transaction], list[Job]]) -> list[Job]:
        """What ``add`` returns, which adds jobs with this token in a transaction of our own.

        Where the reply to the commit was lost, it is repeated if that has stored nothing.
        """
        last_id, added = self.last_id, None
        try:
            with self._connections.use() as connection, connection.transaction():
                added = add(Transaction(self._connections, connection))
            return added  # noqa: RET504  # the commit comes between
        except BackendUnavailable as lost:
            if not lost.outcome_unknown or not token:
                raise
            stored = self._stored([token], last_id, lost)
            if stored and added is not None:
                return added
            if stored or self._forgets:
                raise
        return self.committed(b"", add)

    def close(self) -> None:
        """Close the connection of the group."""
        connection, self._group_connection = self._group_connection, None
        if connection is not None:
            connection.close()

    # -- in the caller's transaction --------------------------------------------------------------------

    def add_joined(
        self, joined: Transaction, jobs: Sequence[Job], tokens: Sequence[bytes | None] = ()
    ) -> list[Job]:
        """Add jobs inside a caller's transaction; its commit notifies all processes."""
        holders = self._join(joined, jobs, tokens)
        return self._with_holders(joined, jobs, holders, lambda job: self._join(joined, [job]))

    def _join(
        self, joined: Transaction, jobs: Sequence[Job], tokens: Sequence[bytes | None] = ()
    ) -> list[int]:
        """As `_insert_or_meet`."""
        queues = {job.queue for job in jobs}
        self.name_queues(queues)
        notify = payload_for("r", queues)
        values = add_values(jobs, tokens, joined.arrays, notify=notify, unnamed=self._unnamed)
        refuses = "producers" in values or any(
            job.on_duplicate == "raise" or job.uid is not None for job in jobs
        )
        if refuses:
            joined("savepoint neoq")
        try:
            rows = joined(self._statements.add_of(values), values, ADDED)
        except BackendError as error:
            if not refuses or _sqlstate(error) not in REFUSALS:
                raise
            joined("rollback to savepoint neoq")
            if not is_known_member(error):
                raise self._refused(joined, error) from None
            known = self._known_members(joined, jobs, joined.arrays)
            return meet_members(known, jobs, lambda rest, _: self._join(joined, rest))
        if refuses:
            joined("release savepoint neoq")
        return accept(jobs, rows)

    def duplicates(self, execute: Transaction, jobs: Sequence[Job]) -> set[int]:
        """The places of jobs whose fingerprints unfinished jobs have, or whose uids any jobs have."""
        arrays = execute.arrays
        values = {
            "queues": arrays.texts([job.queue for job in jobs]),
            "holds": arrays.uuids([held(job) for job in jobs]),
        }
        places = {place - 1 for (place,) in execute(self._statements.held, values, "n")}
        uids = [job.uid for job in jobs if job.uid is not None]
        if uids:
            named = execute(self._statements.named, {"uids": arrays.texts(uids)}, "t")
            known = {uid for (uid,) in named}
            places |= {place for place, job in enumerate(jobs) if job.uid in known}
        return places

    # -- holders ----------------------------------------------------------------------------------------

    def _execute(self, statement: str, values: Values = (), columns: str = "") -> Rows:  # noqa: ARG002
        return self._connections.execute(statement, values)

    def _find(self, execute: Execute, ids: Sequence[int]) -> dict[int, Job]:
        query, values = find_query(self._statements, Filter(ids=set(ids)), limit=len(ids))
        return {row[0]: job_of(row) for row in execute(query, values, SNAPSHOT)}

    def _refused(self, execute: Execute, error: BackendError) -> NeoqError:
        """What is raised for what the server has refused."""
        if _sqlstate(error) == CLOSED:
            return closed(holder_in(error))
        return self._duplicate(execute, error)

    def _duplicate(self, execute: Execute, error: BackendError) -> DuplicateJobError:
        job_id = holder_in(error)
        return duplicate_of(self._find(execute, [job_id]).get(job_id), job_id, uid_in(error))


def _accepted(jobs: Sequence[Job], keys: Sequence[bytes | None], result: PGresult) -> list[Job | None]:
    """Give jobs what the server gave them; None for each that it did not store.

    ``keys`` are what the rows are told apart by: what a job holds, or else its token.
    """
    value, number = result.get_value, result.ntuples
    if not number:
        return [None] * len(jobs)
    ids = {value(row, 2): value(row, 0) for row in range(number)}
    [now] = _TIME(value(0, 1))  # type: ignore[arg-type]
    added: list[Job | None] = []
    for job, key in zip(jobs, keys, strict=True):
        job_id = ids.pop(key, None)
        if job_id is None:
            added.append(None)
            continue
        job.id = int.from_bytes(job_id, "big")
        job.due = job.created = now
        added.append(job)
    return added


def _in_place_of(job: Job, holder: Job | None, job_id: int) -> Job:
    """What an enqueue returns for a duplicate: a snapshot of the holder, if it still exists."""
    duplicate = (holder or job).snapshot()
    if holder is None:  # it has finished and was pruned
        duplicate.id = job_id
        duplicate.status = Status.SUCCEEDED
    duplicate.duplicate = True
    return duplicate


def duplicate_of(holder: Job | None, job_id: int, uid: str | None = None) -> DuplicateJobError:
    """The error for a fingerprint that is taken, or a uid."""
    if holder is None:  # it has just finished, and was pruned
        holder = Job("unknown")
        holder.id = job_id
    return taken_by(holder, uid)


def _sqlstate(error: BackendError) -> str | None:
    cause = driver_error(error.__cause__)
    return None if cause is None else sqlstate_of(cause)


def is_duplicate(error: BackendError) -> bool:
    """Whether the server refused a fingerprint that is taken."""
    return _sqlstate(error) == DUPLICATE


def is_known_member(error: BackendError) -> bool:
    """Whether the server refused a member that a named batch has."""
    return _sqlstate(error) == KNOWN


def holder_in(error: BackendError) -> int:
    """The id of the job that has the fingerprint which was refused."""
    cause = driver_error(error.__cause__)
    return 0 if cause is None else int(cause.diag.message_detail or 0)


def uid_in(error: BackendError) -> str | None:
    """The uid that was refused, if it was not a fingerprint."""
    cause = driver_error(error.__cause__)
    return None if cause is None else cause.diag.message_hint


def _in_order(ids: Sequence[int], found: dict[int, Job]) -> list[Job]:
    return [found[job_id] for job_id in ids if job_id in found]


class _Tokens:
    """Recently used tokens, so that a repeated add stores nothing."""

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
