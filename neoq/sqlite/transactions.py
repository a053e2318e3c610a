"""Work on the jobs of a SQLite file inside a transaction of the caller's own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from neoq.errors import UnsupportedError
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.session import Session

T = TypeVar("T")


def write_within(file: SqliteFile, connection: Any, work: Callable[[Session], T]) -> T:
    """Do something to the jobs inside the transaction of a sqlite3.Connection to the same file."""
    _check_joinable(file, connection)
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        if not connection.in_transaction:
            cursor.execute("begin immediate")
        cursor.execute("savepoint neoq")
        try:
            file.make_tables_within(cursor)
            session = file.session_on(cursor)
            session.open()
            value = work(session)
            session.close()
        except BaseException:
            if connection.in_transaction:
                cursor.execute("rollback to neoq")
                cursor.execute("release neoq")
            raise
        cursor.execute("release neoq")
    except sqlite3.Error as error:
        raise file.wrapped(error) from error
    finally:
        cursor.close()
    return value


def _check_joinable(file: SqliteFile, connection: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        raise UnsupportedError(
            f"transaction is {type(connection).__name__}; jobs in a SQLite file can join only a "
            "sqlite3.Connection to that file"
        )
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        files = {name: path for _, name, path in cursor.execute("pragma database_list")}
    except sqlite3.Error as error:
        raise file.wrapped(error) from error
    finally:
        cursor.close()
    file.refuse_removed()
    if not files.get("main") or not _is_same_file(files["main"], file.path):
        raise UnsupportedError(
            f"transaction is a connection to {files.get('main') or 'memory'}, and the jobs are in "
            f"{file.path}: they can be committed together only in one file"
        )
    autocommits = connection.isolation_level is None or getattr(connection, "autocommit", -1) is True
    if autocommits and not connection.in_transaction:
        raise UnsupportedError(
            'transaction is a connection that is in none: execute "BEGIN IMMEDIATE" on it before'
        )


def _is_same_file(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
