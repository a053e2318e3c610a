"""Enqueues with ``transaction=`` while a test holds a backend: their jobs run at the commit, on any backend.

A store that can join the transaction does. Elsewhere the job is stored at once and put off, and the end of
the transaction is watched: at the commit it becomes ready, at a rollback it is deleted.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from neoq.errors import UnsupportedError
from neoq.job import Job

if TYPE_CHECKING:
    from neoq.backend import Backend

PUT_OFF = 100 * 365 * 86400.0  # seconds
_DRIVERS = frozenset({"psycopg", "sqlalchemy"})
_TAKES = (
    "transaction takes a sqlite3.Connection, a psycopg Connection, an SQLAlchemy Connection or Session, or a "
    "Django connection"
)

Add = Callable[..., list[Job]]


class Outcome(Protocol):
    """How a transaction that is watched ends."""

    def over(self) -> bool:
        """Whether it has ended."""

    def committed(self) -> bool:
        """Whether that was a commit; asked once, when it is over."""


class Transactions:
    """The transactions of others in which jobs of one backend were enqueued."""

    def __init__(self, backend: Backend) -> None:
        self._store = backend.store
        self._clock = backend.engine.clock
        self.run: Callable[[], None] = lambda: None  # what is ready, after a commit
        self.on_rollback: list[Callable[[set[int]], None]] = []
        self._watched: list[_Watched] = []
        self._before: Any = None

    def add(self, add: Add, jobs: Sequence[Job], *, token: bytes, transaction: Any) -> list[Job]:
        """Add jobs in a transaction, or put them off until it ends."""
        if "transactions" in self._store.features:
            try:
                added = add(jobs, token=token, transaction=transaction)
            except UnsupportedError:  # it is to another database, or one that this store knows nothing of
                pass
            else:
                self._watch(transaction, added, joined=True)
                return added
        dues = [(job, job.due) for job in jobs if not job.waits]
        for job, due in dues:
            job.special = job.waits = True
            job.due = (due or self._clock.time()) + PUT_OFF
            job.asked_run_after = job.due, None
        added = add(jobs, token=token)
        put_off = {job.id for job, _ in dues}
        for job, due in dues:
            job.due, job.waits = due, False
        try:
            self._watch(transaction, added, joined=False, put_off=put_off)
        except BaseException:
            self._store.change([job.id for job in added if not job.duplicate], "delete")
            raise
        return added

    def _watch(
        self, transaction: Any, added: list[Job], *, joined: bool, put_off: Iterable[int] = ()
    ) -> None:
        new = {job.id for job in added if not job.duplicate}

        def end(committed: bool) -> None:
            if not committed:
                if not joined:
                    self._store.change(new, "delete")
                for tell in self.on_rollback:
                    tell(new)
                return
            if ready := sorted(new.intersection(put_off)):
                self._store.change(ready, "retry")
            self.run()

        if hasattr(transaction, "on_commit") and hasattr(transaction, "get_autocommit"):
            transaction.on_commit(_OnCommit(end))
            return
        outcome = _outcome_of(transaction, joined=joined)
        self._watched.append(_Watched(outcome, end))
        if sys.getprofile() != self._look:
            self._before = sys.getprofile()
            sys.setprofile(self._look)

    def _look(self, frame: FrameType, event: str, _argument: Any) -> None:
        """Python calls it at each call and return of this thread: one of them ends a transaction."""
        if not event.endswith(("return", "exception")):
            return
        if any(one.over() for one in self._watched) and not _is_in_driver(
            frame.f_back if event == "return" else frame
        ):
            self._settle()

    def _settle(self) -> None:
        over = [one for one in self._watched if one.over()]
        self._watched = [one for one in self._watched if one not in over]
        if not self._watched:
            sys.setprofile(self._before)
        for one in over:
            one.end(one.outcome.committed())

    def close(self) -> None:
        """Watch no more; what has not ended is as rolled back."""
        self._settle()
        left, self._watched = self._watched, []
        if left:
            sys.setprofile(self._before)
        for one in left:
            one.end(False)


class _Watched:
    def __init__(self, outcome: Outcome, end: Callable[[bool], None]) -> None:
        self.outcome = outcome
        self.end = end

    def over(self) -> bool:
        try:
            return self.outcome.over()
        except Exception:  # of a connection that was closed
            return True


class _OnCommit:
    """What Django calls after the commit. At a rollback it forgets it, so it goes."""

    def __init__(self, end: Callable[[bool], None]) -> None:
        self._end: Callable[[bool], None] | None = end

    def __call__(self) -> None:
        end, self._end = self._end, None
        if end is not None:
            end(True)

    def __del__(self) -> None:
        if self._end is not None:
            self._end(False)


def _is_in_driver(frame: FrameType | None) -> bool:
    """Whether a driver is at work, which may hold its locks."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _DRIVERS:
            return True
        frame = frame.f_back
    return False


def _outcome_of(transaction: Any, *, joined: bool) -> Outcome:
    if isinstance(transaction, sqlite3.Connection):
        return _OfSqlite(transaction, joined=joined)
    if hasattr(transaction, "pgconn"):
        return _OfPsycopg(transaction, joined=joined)
    if hasattr(transaction, "exec_driver_sql") or callable(getattr(transaction, "connection", None)):
        return _OfSqlalchemy(transaction)
    raise UnsupportedError(f"transaction is {type(transaction).__name__}; {_TAKES}")


class _OfSqlite:
    """A mark in a temporary table tells a commit from a rollback, of a savepoint too."""

    def __init__(self, connection: sqlite3.Connection, *, joined: bool) -> None:
        self._connection = connection
        self._mark: int | None = None
        if joined:
            return
        if not connection.in_transaction:
            if connection.isolation_level is None:
                raise UnsupportedError('transaction is a connection that is in none: execute "BEGIN" before')
            connection.execute("begin")
        connection.execute("create temp table if not exists neoq_testing (mark integer primary key)")
        self._mark = connection.execute("insert into temp.neoq_testing values (null)").lastrowid

    def over(self) -> bool:
        return not self._connection.in_transaction

    def committed(self) -> bool:
        if self._mark is None:
            return True
        try:
            query = "select 1 from temp.neoq_testing where mark = ?"
            return self._connection.execute(query, (self._mark,)).fetchone() is not None
        except sqlite3.Error:  # the table is gone, or the connection
            return False


class _OfPsycopg:
    """The same, for psycopg."""

    def __init__(self, connection: Any, *, joined: bool) -> None:
        self._connection = connection
        self._mark: Any = None
        if joined:
            return
        if connection.autocommit and self.over():
            raise UnsupportedError(
                "transaction is a connection in autocommit that is in no transaction: use it inside "
                "`with connection.transaction():`"
            )
        with connection.cursor() as cursor:
            cursor.execute("create temp table if not exists neoq_testing (mark serial)")
            cursor.execute("insert into pg_temp.neoq_testing default values returning mark::text")
            self._mark = self._first(cursor.fetchone())

    def over(self) -> bool:
        return self._connection.closed or self._connection.info.transaction_status in {0, 4}

    def committed(self) -> bool:
        if self._mark is None:
            return True
        connection = self._connection
        if connection.closed:
            return False
        try:
            with connection.cursor() as cursor:
                cursor.execute("select to_regclass('pg_temp.neoq_testing')::text")
                if self._first(cursor.fetchone()) is None:
                    return False
                cursor.execute("select 1 from pg_temp.neoq_testing where mark = %s::int", (self._mark,))
                return cursor.fetchone() is not None
        finally:
            if not connection.autocommit:
                connection.rollback()

    @staticmethod
    def _first(row: Any) -> Any:
        """The one value of a row, whatever the connection's row factory makes of rows."""
        return next(iter(row.values() if isinstance(row, dict) else row))


class _OfSqlalchemy:
    """SQLAlchemy tells of a commit and of a rollback itself."""

    def __init__(self, transaction: Any) -> None:
        connection = transaction
        if not hasattr(connection, "exec_driver_sql"):
            connection = transaction.connection()  # of a Session
        if connection.get_transaction() is None:
            connection.exec_driver_sql("select 1")  # begins one
        self._connection = connection
        self._transaction = connection.get_transaction()
        self._nested = connection.get_nested_transaction()
        self._committed: bool | None = None
        listen = sys.modules["sqlalchemy"].event.listen
        listen(connection, "commit", self._commit)
        listen(connection, "rollback", self._rollback)
        listen(connection, "rollback_savepoint", self._rollback_savepoint)

    def _commit(self, _connection: Any) -> None:
        if self._committed is None:
            self._committed = True

    def _rollback(self, _connection: Any) -> None:
        self._committed = False

    def _rollback_savepoint(self, _connection: Any, _name: str, _context: Any) -> None:
        nested = self._nested
        if nested is not None and (
            not nested.is_active or self._connection.get_nested_transaction() is nested
        ):
            self._committed = False

    def over(self) -> bool:
        if self._connection.closed or self._connection.get_transaction() is not self._transaction:
            return True
        return self._committed is False

    def committed(self) -> bool:
        return self._committed is True
