"""Arrays as PostgreSQL reads them in binary, written at once: psycopg looks at each element by itself."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg.adapt import Dumper
from psycopg.pq import Format

_BOOL, _BYTEA, _INT8, _INT2, _INT4, _TEXT, _FLOAT8, _UUID = 16, 17, 20, 21, 23, 25, 701, 2950
_ARRAY_OF = {
    _BOOL: 1000, _BYTEA: 1001, _INT8: 1016, _INT2: 1005, _INT4: 1007, _TEXT: 1009, _FLOAT8: 1022, _UUID: 2951,
}  # fmt: skip
_HEADER = struct.Struct("!5i").pack  # dimensions, has nulls, type of the elements, length, first index
_LENGTH = struct.Struct("!i").pack
_NULL = _LENGTH(-1)
_OF_16 = _LENGTH(16)


class Array:
    """An array in the format of the wire."""

    __slots__ = ("data", "oid")

    def __init__(self, oid: int, number: int, items: Sequence[bytes], *, nulls: bool) -> None:
        self.oid = _ARRAY_OF[oid]
        if number:
            self.data = b"".join((_HEADER(1, nulls, oid, number, 1), *items))
        else:
            self.data = struct.pack("!3i", 0, 0, oid)


def _fixed(oid: int, code: str) -> Any:
    size = _LENGTH(struct.calcsize("!" + code))
    pack = struct.Struct("!" + code).pack

    def array(values: Sequence[Any]) -> Array:
        if None not in values:
            return Array(oid, len(values), [size + pack(value) for value in values], nulls=False)
        items = [_NULL if value is None else size + pack(value) for value in values]
        return Array(oid, len(values), items, nulls=True)

    return array


int2s = _fixed(_INT2, "h")
int4s = _fixed(_INT4, "i")
int8s = _fixed(_INT8, "q")
float8s = _fixed(_FLOAT8, "d")
bools = _fixed(_BOOL, "?")


def byteas(values: Sequence[bytes | None], oid: int = _BYTEA) -> Array:
    """An array of bytes."""
    if None not in values:
        return Array(oid, len(values), [_LENGTH(len(value)) + value for value in values], nulls=False)  # type: ignore[arg-type, operator]
    items = [_NULL if value is None else _LENGTH(len(value)) + value for value in values]
    return Array(oid, len(values), items, nulls=True)


def uuids(values: Sequence[bytes | None]) -> Array:
    """An array of uuid, each given as its 16 bytes."""
    if values and None not in values:
        return Array(_UUID, len(values), (_OF_16, _OF_16.join(values)), nulls=False)  # type: ignore[arg-type]
    return byteas(values, _UUID)


def texts(values: Sequence[str | None]) -> Array:
    """An array of text; most are of one queue's name, over and over."""
    if values and (text := values[0]) is not None and values.count(text) == len(values):
        data = text.encode()
        return Array(_TEXT, len(values), [(_LENGTH(len(data)) + data) * len(values)], nulls=False)
    return byteas([None if value is None else value.encode() for value in values], _TEXT)


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def get_key(self, obj: Array, format: Any) -> Any:  # noqa: A002, ARG002  # psycopg's name
        return (self.cls, obj.oid)

    def upgrade(self, obj: Array, format: Any) -> Dumper:  # noqa: A002, ARG002
        dumper = type(self)(self.cls)
        dumper.oid = obj.oid
        return dumper

    def dump(self, obj: Array) -> bytes:
        return obj.data


def register(connection: psycopg.Connection[Any]) -> None:
    """Let a connection send these arrays."""
    connection.adapters.register_dumper(Array, _ArrayDumper)
