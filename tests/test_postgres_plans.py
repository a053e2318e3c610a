"""The plans of the statements in PostgreSQL do not depend on what its statistics say, which are often old."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

import neoq

JOBS, GIVEN = 3000, 300
FILL = f"""
    insert into jobs (
        id, run_after, created_at, token, priority, status, uniqueness, codec, queue, payload, key
    )
    select n, 0, 0, 7, 0, 2, 0, 1, 'q', convert_to('{{}}', 'UTF8'), n from generate_series(1, {JOBS}) n
"""
READ = """
    select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables
    where schemaname = current_schema() and relname = 'jobs'
"""
IDS = "%(ids)s::bigint[]"
TOKENS = f"array_fill(7::bigint, array[{GIVEN}])"
NAMES = f"array_fill('step:a'::text, array[{GIVEN}])"
DATA = f"array_fill('1'::bytea, array[{GIVEN}])"
TIMES = f"array_fill(1::float8, array[{GIVEN}])"


@pytest.fixture
def schema(postgres_url: str, new_schema: str) -> str:
    """A schema with neoq's tables."""
    neoq.migrate(postgres_url, schema=new_schema)
    return new_schema


@pytest.fixture
def connection(postgres_url: str, schema: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a schema whose many jobs run, where the statistics say that there is none."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(sql.SQL("set search_path to {}").format(sql.Identifier(schema)))
        connection.execute("set plan_cache_mode = force_custom_plan")  # as for the first calls of a session
        connection.execute("alter table jobs set (autovacuum_enabled = off)")
        connection.execute(FILL.encode())
        connection.execute("delete from jobs")
        connection.execute("vacuum (analyze) jobs")
        connection.execute(FILL.encode())
        yield connection


@pytest.mark.parametrize(
    "call",
    [
        f"succeed({IDS}, {TOKENS}, {TIMES}, {TIMES}, null, 0, false)",
        f"succeed({IDS}, {TOKENS}, {TIMES}, {TIMES}, null, 0, true)",
        f"succeed_counted({IDS}, {TOKENS}, {TIMES}, {TIMES}, null, 0, true)",
        f"succeed_stepped({IDS}, {TOKENS}, {TIMES}, {TIMES}, null, 0, true)",
        f"extend(1, {IDS}, {TOKENS}, {TIMES}, null)",
        f"extend(1, {IDS}, {TOKENS}, null, null)",
        f"record_steps({IDS}, {TOKENS}, '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}')",
        f"record_steps({IDS}, {TOKENS}, null, {NAMES}, {DATA}, null, null, null)",
        f"settle_steps({IDS}, null)",
    ],
)
def test_what_is_given_is_found_by_its_index(connection: psycopg.Connection[Any], call: str) -> None:
    """A call reads the rows that it is given, and not all that there are."""
    ids = list(range(1, JOBS + 1, JOBS // GIVEN))
    with connection.transaction():
        [[before]] = connection.execute(READ).fetchall()
        connection.execute(f"select * from {call}".encode(), {"ids": ids})
        [[after]] = connection.execute(READ).fetchall()
    assert GIVEN <= after - before <= 3 * GIVEN


def test_no_statement_is_compiled(postgres_url: str, schema: str) -> None:
    """Functions that switch plans off switch the compiler off: it takes such plans for very long ones."""
    query = """
        select array_to_string(proconfig, ' ') from pg_proc
        where pronamespace = %s::regnamespace and proconfig is not null
    """
    with psycopg.connect(postgres_url) as connection:
        settings = [text for (text,) in connection.execute(query, (schema,)) if "enable_" in text]
    assert len(settings) > 20
    assert [text for text in settings if "jit=off" not in text] == []


PLANNED_ONCE = {"claim", "limited_claim", "record_steps", "succeed", "succeed_counted", "succeed_stepped"}


def test_what_each_job_needs_is_planned_once_in_a_session(postgres_url: str, schema: str) -> None:
    """These functions keep the plans of their statements: planning would cost a short call most."""
    query = """
        select proname, array_to_string(proconfig, ' ') from pg_proc
        where pronamespace = %s::regnamespace and proname = any (%s)
            and (proname <> 'claim' or pronargs = 9)
    """
    with psycopg.connect(postgres_url) as connection:
        found = dict(connection.execute(query, (schema, list(PLANNED_ONCE))).fetchall())
    assert set(found) == PLANNED_ONCE
    assert all("plan_cache_mode=force_generic_plan" in settings for settings in found.values())
