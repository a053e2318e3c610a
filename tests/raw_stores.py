"""The bytes that a store keeps, past neoq: all of them read, or one value replaced by another."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import psycopg
import redis
from psycopg import sql

Client = redis.Redis | redis.RedisCluster


def as_bytes(value: Any) -> bytes:
    """A value of a table."""
    return value if isinstance(value, bytes) else str(value).encode()


# -- SQLite -----------------------------------------------------------------------------------------------


def dump_sqlite(connection: sqlite3.Connection) -> list[bytes]:
    """Every value of every table."""
    return [
        as_bytes(value)
        for table in _sqlite_tables(connection)
        for row in connection.execute(f'select * from "{table}"')
        for value in row
    ]


def replace_in_sqlite(connection: sqlite3.Connection, old: bytes | str, new: bytes | str) -> bool:
    """Put one value in the place of another, wherever that is; whether it is anywhere."""
    found = 0
    for table in _sqlite_tables(connection):
        for column in connection.execute(f'pragma table_info("{table}")').fetchall():
            name = column[1]
            found += connection.execute(
                f'update "{table}" set "{name}" = ? where "{name}" = ?', (new, old)
            ).rowcount
    connection.commit()
    return found > 0


def _sqlite_tables(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]


# -- Postgres ---------------------------------------------------------------------------------------------


def dump_postgres(connection: psycopg.Connection[Any], schema: str) -> list[bytes]:
    """Every value of every table of a schema."""
    return [
        as_bytes(value)
        for table in dict.fromkeys(table for table, _, _ in _columns(connection, schema))
        for row in connection.execute(sql.SQL("select * from {}").format(sql.Identifier(schema, table)))
        for value in row
    ]


def replace_in_postgres(
    connection: psycopg.Connection[Any], schema: str, old: bytes | str, new: bytes | str
) -> bool:
    """Put one value in the place of another, wherever that is; whether it is anywhere."""
    found = 0
    wanted = "bytea" if isinstance(old, bytes) else "text"
    for table, name, kind in _columns(connection, schema):
        if kind == wanted:
            update = sql.SQL("update {} set {name} = %s where {name} = %s")
            update = update.format(sql.Identifier(schema, table), name=sql.Identifier(name))
            found += connection.execute(update, (new, old)).rowcount
    connection.commit()
    return found > 0


def _columns(connection: psycopg.Connection[Any], schema: str) -> list[tuple[str, str, str]]:
    found = connection.execute(
        "select table_name, column_name, data_type from information_schema.columns"
        " join information_schema.tables using (table_schema, table_name)"
        " where table_schema = %s and table_type = 'BASE TABLE' order by 1",
        (schema,),
    )
    return found.fetchall()


# -- Redis ------------------------------------------------------------------------------------------------


def dump_redis(client: Client, prefix: str) -> list[bytes]:
    """Every key of a prefix, and all that is in it."""
    return [part for key in _keys(client, prefix) for part in (key, *_parts(client, key))]


def replace_in_redis(client: Client, prefix: str, old: bytes | str, new: bytes | str) -> bool:
    """Put one value in the place of another wherever that is in a hash, as a part of it, too."""
    before, after, found = as_bytes(old), as_bytes(new), False
    for key in _keys(client, prefix):
        if client.type(key) == b"hash":
            for name, value in client.hgetall(key).items():  # type: ignore[union-attr]
                if before in value:
                    found = True
                    client.hset(key, name, value.replace(before, after))
    return found


def _keys(client: Client, prefix: str) -> list[bytes]:
    return [
        key
        for key in client.scan_iter(count=1000)
        if key.startswith((b"{%b}" % prefix.encode(), b"{%b:" % prefix.encode()))
    ]


def _parts(client: Client, key: bytes) -> Iterator[bytes]:
    kind = client.type(key)
    if kind == b"hash":
        for pair in client.hgetall(key).items():  # type: ignore[union-attr]
            yield from pair
    elif kind == b"zset":
        yield from client.zrange(key, 0, -1)  # type: ignore[misc]
    elif kind == b"set":
        yield from client.smembers(key)  # type: ignore[misc]
    elif kind == b"list":
        yield from client.lrange(key, 0, -1)  # type: ignore[misc]
    elif kind == b"string":
        yield client.get(key)  # type: ignore[misc]
    else:
        raise AssertionError(f"{key!r} is a {kind!r}")
