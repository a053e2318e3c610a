"""The tables and functions that PostgresBackend keeps in a schema of its own: numbered migrations.

``postgres_0001.sql`` and so on, each applied once, in order; all that are missing in one transaction, and
under an advisory lock: of many processes that begin at once one migrates, and a failure leaves nothing.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

from neoq.errors import BackendError

VERSION = 2
_LOCK = 5_462_193_407_311  # neoq's own, over all schemas


def version_of(connection: psycopg.Connection[Any], schema: str) -> int:
    """The version of the tables in a schema; 0 where there are none."""
    # Not by to_regclass: what it does not find it does not find again in this transaction.
    there = connection.execute(
        "select 1 from pg_class join pg_namespace n on n.oid = relnamespace"
        " where nspname = %s and relname = 'migrations'",
        (schema,),
    ).fetchone()
    if there is None:
        return 0
    query = sql.SQL("select max(version) from {}").format(sql.Identifier(schema, "migrations"))
    [version] = connection.execute(query).fetchone() or [0]
    return int(version or 0)


def check(connection: psycopg.Connection[Any], schema: str) -> None:
    """Refuse tables of another version."""
    version = version_of(connection, schema)
    _refuse_newer(version, schema)
    if version < VERSION:
        state = "has no tables of neoq" if not version else f"has version {version} of neoq's tables"
        raise BackendError(
            f"the schema {schema!r} {state}, and this neoq needs {VERSION}; call neoq.migrate(url) once, "
            "or leave migrate=True"
        )


def migrate(connection: psycopg.Connection[Any], schema: str) -> None:
    """Bring the tables of a schema up to date; does nothing where they are."""
    version = version_of(connection, schema)
    _refuse_newer(version, schema)
    if version == VERSION:
        return
    try:
        with connection.transaction():
            _apply(connection, schema)
    except psycopg.errors.InsufficientPrivilege as error:
        raise BackendError(
            f"this user may not make neoq's tables in the schema {schema!r} ({_first_line(error)}); let one "
            "who may call neoq.migrate(url), or: grant create on database ... to ...; nothing was changed"
        ) from error


def _apply(connection: psycopg.Connection[Any], schema: str) -> None:
    for setting in ("lock_timeout = '60s'", "statement_timeout = 0", "standard_conforming_strings = on"):
        connection.execute(sql.SQL("set local " + setting))
    connection.execute("select pg_advisory_xact_lock(%s)", (_LOCK,))
    version = version_of(connection, schema)  # another process may have been faster
    _refuse_newer(version, schema)
    name = sql.Identifier(schema)
    if not version:
        there = connection.execute("select 1 from pg_namespace where nspname = %s", (schema,)).fetchone()
        if there is None:  # "if not exists" would ask for the right to create it all the same
            connection.execute(sql.SQL("create schema {}").format(name))
    # The functions keep this path. Unless it is named, a caller's temporary tables come before all others.
    connection.execute(sql.SQL("set local search_path to {}, pg_temp").format(name))
    if not version:
        connection.execute(
            "create table migrations (version int primary key, applied_at timestamptz not null default now())"
        )
    for number in range(version + 1, VERSION + 1):
        connection.execute(_statements(number))
        connection.execute("insert into migrations (version) values (%s)", (number,))


def _statements(number: int) -> bytes:
    return resources.files("neoq").joinpath(f"postgres_{number:04}.sql").read_bytes()


def _refuse_newer(version: int, schema: str) -> None:
    if version > VERSION:
        raise BackendError(
            f"the schema {schema!r} has version {version} of neoq's tables and this neoq knows only "
            f"{VERSION}: it was used by a newer neoq; upgrade this one"
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
