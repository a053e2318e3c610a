"""The tables and functions that PostgresBackend keeps in a schema of its own: numbered migrations.

``postgres/sql/0001.sql`` and so on, each applied once, in order; all that are missing in one transaction, and
under an advisory lock: of many processes that begin at once one migrates, and a failure leaves nothing.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

from neoq.errors import BackendError

VERSION = 10
SIGNS = (
    "jobs",
    "claim",
    "change",
    "readable_json",
    "history_found",
    "audit",
    "series",
    "steps",
    "groups",
    "limits",
)  # what each of the migrations has made: a table, a function or an index
_OF_GROUPS = ("groups", "members", "notes", "stopping", "tallies")
_OF_LIMITS = ("heads", "limits", "looks", "rates", "spent")
TABLES = frozenset(
    {
        "audit",
        "jobs",
        "history",
        "counters",
        "queues",
        "schedules",
        "series",
        "signalled",
        "steps",
        "ticks",
        "workers",
        *_OF_GROUPS,
        *_OF_LIMITS,
    }
)
MADE_LATER = {
    "audit": 6,
    "series": 7,
    "signalled": 8,
    "steps": 8,
    **dict.fromkeys(_OF_GROUPS, 9),
    **dict.fromkeys(_OF_LIMITS, 10),
}  # tables, and the migration that has made them where it was not the first
_LOCK = 5_462_193_407_311  # neoq's own, over all schemas
_FIRST = (
    "set local lock_timeout = '60s'",
    "set local statement_timeout = 0",
    "set local standard_conforming_strings = on",
    f"select pg_advisory_xact_lock({_LOCK})",
)
_RECORD = "insert into migrations (version) values ({}) on conflict (version) do nothing"


def version_of(connection: psycopg.Connection[Any], schema: str) -> int:
    """The version of the tables in a schema; 0 where there are none."""
    # Not by to_regclass: what it does not find it does not find again in this transaction.
    there = connection.execute(
        "select 1 from pg_class join pg_namespace n on n.oid = relnamespace"
        " where nspname = %s and relname = 'migrations'",
        (schema,),
    ).fetchone()
    if there is None:
        return _version_by_signs(connection, schema)
    query = sql.SQL("select max(version) from {}").format(sql.Identifier(schema, "migrations"))
    [version] = connection.execute(query).fetchone() or [0]
    return int(version) if version and version > 0 else _version_by_signs(connection, schema)


def _version_by_signs(connection: psycopg.Connection[Any], schema: str) -> int:
    """The version of tables that do not tell it, as after a script that has emptied all of them."""
    there = _tables_of(connection, schema)
    functions = connection.execute(
        "select proname from pg_proc join pg_namespace n on n.oid = pronamespace where nspname = %s",
        (schema,),
    ).fetchall()
    indexes = connection.execute(
        "select indexname from pg_indexes where schemaname = %s", (schema,)
    ).fetchall()
    names = there | {name for (name,) in [*functions, *indexes]}
    version = 0
    for sign in SIGNS:
        if sign not in names:
            break
        version += 1
    return version


def _tables_of(connection: psycopg.Connection[Any], schema: str) -> set[str]:
    query = """
        select relname from pg_class join pg_namespace n on n.oid = relnamespace
        where nspname = %s and relkind in ('r', 'p')
    """
    return {name for (name,) in connection.execute(query, (schema,))}


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


def script(connection: psycopg.Connection[Any], schema: str) -> list[str]:
    """The statements that `migrate` would run now."""
    if _is_up_to_date(connection, schema):
        return []
    return ["begin", *_FIRST, *_missing(connection, schema), "commit"]


def refuse_old(connection: psycopg.Connection[Any], where: str) -> None:
    """Raise BackendError for a server that is too old."""
    version = connection.info.server_version // 10000
    if version < 13:
        raise BackendError(f"{where} is PostgreSQL {version}; neoq needs 13 or newer")


def migrate(connection: psycopg.Connection[Any], schema: str) -> None:
    """Bring the tables of a schema up to date; does nothing where they are."""
    if _is_up_to_date(connection, schema):
        return
    version = version_of(connection, schema)
    try:
        with connection.transaction():
            for statement in _FIRST:
                connection.execute(statement.encode())
            for statement in _missing(connection, schema):  # now: another process may have been faster
                connection.execute(statement.encode())
    except psycopg.errors.InsufficientPrivilege as error:
        if version == VERSION:
            return  # all is there; a role with more rights may record the version
        raise BackendError(
            f"this user may not make neoq's tables in the schema {schema!r} ({_first_line(error)}); let one "
            "who may call neoq.migrate(url), or: grant create on database ... to ...; nothing was changed"
        ) from error


def _is_up_to_date(connection: psycopg.Connection[Any], schema: str) -> bool:
    version = version_of(connection, schema)
    _refuse_newer(version, schema)
    there = _tables_of(connection, schema)
    if version == VERSION and there >= {*TABLES, "migrations"} and _is_recorded(connection, schema):
        return True
    known = {table for table in TABLES if MADE_LATER.get(table, 1) <= version}
    missing = known - there
    if missing and missing != known:
        raise BackendError(
            f"the schema {schema!r} has lost the tables {', '.join(sorted(missing))} and has others of "
            "neoq's: restore them from a backup, or drop the others too and call neoq.migrate(url)"
        )
    return False


def _missing(connection: psycopg.Connection[Any], schema: str) -> list[str]:
    """The statements that bring the tables up to date."""
    version = version_of(connection, schema)
    _refuse_newer(version, schema)
    name = sql.Identifier(schema).as_string(connection)
    wanted = []
    if not _tables_of(connection, schema) & TABLES:
        version = 0  # whatever is recorded: somebody has dropped them
        wanted += _drop_remains(connection, schema)
    if not version:
        there = connection.execute("select 1 from pg_namespace where nspname = %s", (schema,)).fetchone()
        if there is None:  # "if not exists" would ask for the right to create it all the same
            wanted.append(f"create schema {name}")
    # The functions keep this path. Unless it is named, a caller's temporary tables come before all others.
    wanted.append(f"set local search_path to {name}, pg_temp")
    wanted.append(
        "create table if not exists migrations ("
        "version int primary key, applied_at timestamptz not null default now())"
    )
    for number in range(1, VERSION + 1):
        if number > version:
            wanted.append(_statements(number))
        wanted.append(_RECORD.format(number))
    return wanted


def _is_recorded(connection: psycopg.Connection[Any], schema: str) -> bool:
    """Whether the table of the migrations tells the version: somebody may have emptied it."""
    query = sql.SQL("select 1 from {} where version = %s").format(sql.Identifier(schema, "migrations"))
    return connection.execute(query, (VERSION,)).fetchone() is not None


def _drop_remains(connection: psycopg.Connection[Any], schema: str) -> list[str]:
    """The statements that drop what is left of us in a schema whose tables somebody has dropped."""
    ours = {name for number in range(1, VERSION + 1) for name in _functions_in(_statements(number))}
    query = """
        select proname, pg_get_function_identity_arguments(p.oid)
        from pg_proc p join pg_namespace n on n.oid = pronamespace where nspname = %s order by 1, 2
    """
    if connection.execute("select 1 from pg_namespace where nspname = %s", (schema,)).fetchone() is None:
        return []
    drops = [sql.SQL("drop sequence if exists {}").format(sql.Identifier(schema, "job_ids"))]
    drops += [
        sql.SQL("drop function {} ({})").format(sql.Identifier(schema, name), sql.SQL(arguments))
        for name, arguments in connection.execute(query, (schema,))
        if name in ours
    ]
    return [drop.as_string(connection) for drop in drops]


_functions_in = re.compile(r"^create (?:or replace )?function (\w+)", re.MULTILINE).findall


def _statements(number: int) -> str:
    return resources.files(__package__).joinpath(f"sql/{number:04}.sql").read_text(encoding="utf-8")


def _refuse_newer(version: int, schema: str) -> None:
    if version > VERSION:
        raise BackendError(
            f"the schema {schema!r} has version {version} of neoq's tables and this neoq knows only "
            f"{VERSION}: it was used by a newer neoq; upgrade this one"
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
