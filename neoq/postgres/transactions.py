"""The caller's own transaction: a psycopg, SQLAlchemy or Django connection as one way to execute SQL.

No framework is imported: what a connection can do says what it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from neoq.errors import BackendError, UnsupportedError
from neoq.postgres.connections import Connection, Connections, Values
from neoq.postgres.portable import portable, row_of
from neoq.postgres.rows import BINARY, LISTS, Arrays

_TAKES = (
    "transaction takes a psycopg Connection, an SQLAlchemy Connection or Session, or a Django connection, to "
    "the database that has the jobs"
)
# A server's start is told in microseconds: no two servers that run have the same. Its address would not do,
# nor what it was copied from: one server has many names, and a copy keeps its original's.
_WHICH = """
    select (extract(epoch from pg_catalog.pg_postmaster_start_time()) * 1000000)::bigint,
        pg_catalog.current_database()::text,
        coalesce(pg_catalog.host(pg_catalog.inet_server_addr()) || ':' || pg_catalog.inet_server_port(), '')
"""


class Execute(Protocol):
    """Executes a statement and returns its rows; ``columns`` as in `portable`."""

    def __call__(self, statement: str, values: Values = (), columns: str = "") -> list[Any]:
        """Execute it."""


class Transaction:
    """Executes statements inside a transaction on a connection of our own."""

    arrays: Arrays = BINARY

    def __init__(self, connections: Connections, connection: Connection) -> None:
        self._connections = connections
        self._connection = connection

    def __call__(self, statement: str, values: Values = (), columns: str = "") -> list[Any]:  # noqa: ARG002
        """Execute a statement; returns its rows."""
        try:
            cursor = self._connection.cursor(binary=True)
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []
        except psycopg.Error as error:
            raise self._connections.wrapped(error) from error


class CallerTransaction(Transaction):
    """Executes statements inside a caller's transaction, whatever its session is set to."""

    arrays = LISTS

    def __init__(self, connections: Connections, connection: Any) -> None:
        self._connections = connections
        self.driver, self._execute = _executor(connection)

    def __call__(self, statement: str, values: Values = (), columns: str = "") -> list[Any]:
        """Execute a statement; returns its rows."""
        try:
            rows = self._execute(*portable(statement, values, columns))
        except Exception as error:
            cause = driver_error(error)
            if cause is not None:
                raise self._connections.wrapped(_of_psycopg_3(cause)) from error
            raise BackendError(f"the statement failed in the caller's transaction: {error}") from error
        return [row_of(row[0], columns) for row in rows]


class _Database(NamedTuple):
    """One database of one server that runs."""

    started: int
    name: str


class Home:
    """The database that has the jobs: a transaction of any other is refused.

    Another that has neoq's tables would take a job, and its id would be that of another job here.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._ours: _Database | None = None
        self._known: weakref.WeakKeyDictionary[Any, _Database] = weakref.WeakKeyDictionary()

    def join(self, transaction: Any) -> CallerTransaction:
        """A way to execute statements inside a caller's transaction; UnsupportedError for one elsewhere."""
        joined = CallerTransaction(self._connections, transaction)
        if self._ours is not None and self._known_of(joined.driver) == self._ours:
            return joined
        # What was known may date from before a failover of our server, or of theirs behind a PgBouncer.
        theirs, where = self._ask(joined)
        if theirs != self._ours:
            self._ours, here = self._ask(self._execute)
            if theirs != self._ours:
                raise UnsupportedError(_elsewhere(theirs, where, self._ours, here))
        try:
            self._known[joined.driver] = theirs
        except TypeError:  # a driver's connection that nothing can be kept beside
            pass
        return joined

    def _known_of(self, driver: Any) -> _Database | None:
        try:
            return self._known.get(driver)
        except TypeError:
            return None

    def _execute(self, statement: str, values: Values = (), columns: str = "") -> list[Any]:  # noqa: ARG002
        return self._connections.execute(statement, values)

    @staticmethod
    def _ask(execute: Execute) -> tuple[_Database, str]:
        [(started, name, where)] = execute(_WHICH, (), "ntt")
        return _Database(started, name), where


def _elsewhere(theirs: _Database, where: str, ours: _Database, here: str) -> str:
    if theirs.name != ours.name:
        difference = f"the database {theirs.name!r}, and the jobs are in {ours.name!r}"
    else:
        difference = (
            f"a database {theirs.name!r} on another server{_at(where)}, and the jobs are in {ours.name!r} on "
            f"the server{_at(here)}"
        )
    return f"transaction is a connection to {difference}: they can be committed together only in one database"


def _at(where: str) -> str:
    return f" at {where}" if where else ""


_Run = Callable[[str, Sequence[Any]], list[Any]]


def _executor(connection: Any) -> tuple[Any, _Run]:
    """The driver's connection, and how to execute a statement on it."""
    if isinstance(connection, psycopg.Connection):
        return _of_psycopg(connection)
    if not hasattr(connection, "exec_driver_sql") and callable(getattr(connection, "connection", None)):
        connection = connection.connection()  # an SQLAlchemy Session
    if hasattr(connection, "exec_driver_sql"):
        return _of_sqlalchemy(connection)
    if hasattr(connection, "get_autocommit") and hasattr(connection, "cursor"):
        return _of_django(connection)
    raise UnsupportedError(f"transaction is {type(connection).__name__}; {_TAKES}")


def _of_psycopg(connection: psycopg.Connection[Any]) -> tuple[Any, _Run]:
    if connection.autocommit and connection.info.transaction_status == TransactionStatus.IDLE:
        raise UnsupportedError(
            "transaction is a connection in autocommit that is in no transaction: use it inside "
            "`with connection.transaction():`"
        )
    if connection.info.pipeline_status != PipelineStatus.OFF:
        raise UnsupportedError(
            "transaction is a connection in pipeline mode; enqueue outside of the pipeline"
        )

    def execute(statement: str, values: Sequence[Any]) -> list[Any]:
        with connection.cursor(row_factory=tuple_row) as cursor:  # the caller's row factory is for the caller
            cursor.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    return connection, execute


def _of_sqlalchemy(connection: Any) -> tuple[Any, _Run]:
    name = connection.dialect.name
    if name != "postgresql":
        raise UnsupportedError(f"transaction is an SQLAlchemy connection to {name}; {_TAKES}")
    driver = connection.connection.dbapi_connection
    if getattr(driver, "autocommit", False):
        raise UnsupportedError(
            "transaction is an SQLAlchemy connection in AUTOCOMMIT: give it one that has transactions"
        )

    def execute(statement: str, values: Sequence[Any]) -> list[Any]:
        # Not on the driver's connection below: SQLAlchemy would know of no transaction, and commit nothing.
        result = connection.exec_driver_sql(statement, tuple(values))
        return [tuple(row) for row in result.fetchall()] if result.returns_rows else []

    return driver, execute


def _of_django(connection: Any) -> tuple[Any, _Run]:
    if connection.vendor != "postgresql":
        raise UnsupportedError(f"transaction is a Django connection to {connection.vendor}; {_TAKES}")
    if connection.get_autocommit():
        raise UnsupportedError(
            "transaction is a Django connection that is in no transaction: use it inside "
            "`with transaction.atomic():`"
        )

    def execute(statement: str, values: Sequence[Any]) -> list[Any]:
        with connection.cursor() as cursor:
            cursor.execute(statement, tuple(values))
            return list(cursor.fetchall()) if cursor.description else []

    return connection.connection, execute


def driver_error(error: BaseException | None) -> Any:
    """The driver's error behind a framework's: psycopg's, or psycopg2's; None where there is none."""
    seen = 0
    while error is not None and seen < 5:
        if isinstance(error, psycopg.Error) or hasattr(error, "pgcode"):
            return error
        error, seen = getattr(error, "orig", None) or error.__cause__, seen + 1
    return None


def sqlstate_of(error: Any) -> str | None:
    """The code of a driver's error."""
    state: str | None = error.sqlstate if isinstance(error, psycopg.Error) else error.pgcode
    return state


def _of_psycopg_3(error: Any) -> psycopg.Error:
    """What psycopg would have raised where psycopg2 did."""
    if isinstance(error, psycopg.Error):
        return error
    try:
        return psycopg.errors.lookup(sqlstate_of(error) or "")(str(error))
    except KeyError:  # a code of our own, or none: then the server is gone
        kind = psycopg.OperationalError if sqlstate_of(error) is None else psycopg.DatabaseError
        return kind(str(error))
