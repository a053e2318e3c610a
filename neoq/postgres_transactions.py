"""The caller's own transaction: a psycopg, SQLAlchemy or Django connection as one way to execute SQL.

No framework is imported: what a connection can do says what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import tuple_row

from neoq.errors import BackendError, UnsupportedError
from neoq.postgres_connections import Connections

Execute = Callable[[str, Sequence[Any]], list[Any]]

_TAKES = (
    "transaction takes a psycopg Connection, an SQLAlchemy Connection or Session, or a Django connection, to "
    "the database that has the jobs"
)


class Joined:
    """Executes statements inside a caller's transaction."""

    def __init__(self, connections: Connections, connection: Any) -> None:
        self._connections = connections
        self._execute = _executor(connection)

    def __call__(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Execute a statement; returns its rows."""
        try:
            return self._execute(statement, values)
        except Exception as error:
            cause = driver_error(error)
            if cause is not None:
                raise self._connections.wrapped(_of_psycopg_3(cause)) from error
            raise BackendError(f"the statement failed in the caller's transaction: {error}") from error


def _executor(connection: Any) -> Execute:
    if isinstance(connection, psycopg.Connection):
        return _of_psycopg(connection)
    if not hasattr(connection, "exec_driver_sql") and callable(getattr(connection, "connection", None)):
        connection = connection.connection()  # an SQLAlchemy Session
    if hasattr(connection, "exec_driver_sql"):
        return _of_sqlalchemy(connection)
    if hasattr(connection, "get_autocommit") and hasattr(connection, "cursor"):
        return _of_django(connection)
    raise UnsupportedError(f"transaction is {type(connection).__name__}; {_TAKES}")


def _of_psycopg(connection: psycopg.Connection[Any]) -> Execute:
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

    return execute


def _of_sqlalchemy(connection: Any) -> Execute:
    name = connection.dialect.name
    if name != "postgresql":
        raise UnsupportedError(f"transaction is an SQLAlchemy connection to {name}; {_TAKES}")
    if getattr(connection.connection.dbapi_connection, "autocommit", False):
        raise UnsupportedError(
            "transaction is an SQLAlchemy connection in AUTOCOMMIT: give it one that has transactions"
        )

    def execute(statement: str, values: Sequence[Any]) -> list[Any]:
        # Not on the driver's connection below: SQLAlchemy would know of no transaction, and commit nothing.
        result = connection.exec_driver_sql(statement, tuple(values))
        return [tuple(row) for row in result.fetchall()] if result.returns_rows else []

    return execute


def _of_django(connection: Any) -> Execute:
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

    return execute


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
