"""Statements for a caller's own session, in a form that neither its settings nor its driver's change.

What a session is set to changes how bytes, floats, arrays and texts are written (standard_conforming_strings,
array_nulls, bytea_output, extra_float_digits, client_encoding), and an application may have its own way to
adapt them. So nothing but ASCII goes either way: arrays as JSON, bytes and texts in base64, floats as the
bytes of the wire.
"""

from __future__ import annotations

import re
import struct
from base64 import b64decode
from binascii import b2a_base64
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import orjson

_PLACE = re.compile(r"%(?:\((\w+)\))?s(?:::(\w+)(\[\])?)?")
_READ = {
    "bytea": "pg_catalog.decode({}, 'base64')",
    "text": "pg_catalog.convert_from(pg_catalog.decode({}, 'base64'), 'UTF8')",
}
_WRITE = {
    "n": "{}",  # what JSON has: whole numbers, arrays of them, booleans
    "f": "pg_catalog.encode(pg_catalog.float8send({}), 'hex')",
    "t": "pg_catalog.encode(pg_catalog.convert_to({}, 'UTF8'), 'base64')",
    "b": "pg_catalog.encode({}, 'base64')",
}
_FLOAT = struct.Struct("!d").unpack
_LOADS: dict[str, Callable[[Any], Any]] = {
    "n": lambda value: value,
    "f": lambda value: _FLOAT(bytes.fromhex(value))[0],
    "t": lambda value: b64decode(value).decode(),
    "b": b64decode,
}


def portable(
    statement: str, values: Sequence[Any] | Mapping[str, Any], columns: str
) -> tuple[str, list[Any]]:
    """A statement and its values for a caller's session, where all values go by their place.

    ``columns`` has a letter for the type of each column that it returns: n, f, t or b.
    """
    if isinstance(values, Mapping):
        values = [values[name] for name in _names_in(statement)]
    text, kinds = _translated(statement, tuple(value is None for value in values), columns)
    return text, [
        value if kind is None or value is None else _written(value, *kind)
        for kind, value in zip(kinds, values, strict=True)
    ]


def row_of(text: Any, columns: str) -> tuple[Any, ...]:
    """The row that a portable statement returned; drivers give its text as str, bytes or memoryview."""
    row = orjson.loads(text)
    return tuple(
        None if value is None else _LOADS[kind](value) for kind, value in zip(columns, row, strict=True)
    )


_Kind = tuple[str, bool] | None  # type and whether it is an array of it; None for what goes as it is


@lru_cache(maxsize=128)
def _names_in(statement: str) -> list[str]:
    return [found[1] for found in _PLACE.finditer(statement)]


@lru_cache(maxsize=128)
def _translated(statement: str, nulls: tuple[bool, ...], columns: str) -> tuple[str, list[_Kind]]:
    kinds: list[_Kind] = []

    def place(found: re.Match[str]) -> str:
        _, kind, array = found.groups()
        is_array = array is not None
        if nulls[len(kinds)] or not (is_array or kind in _READ):
            kinds.append(None)
            return "%s" if kind is None else f"%s::{kind}{array or ''}"
        kinds.append((kind, is_array))
        if not is_array:
            return _READ[kind].format("%s::text")
        item = _READ.get(kind, "{}::" + kind).format("item")
        given = "pg_catalog.json_array_elements_text(%s::text::json) as given (item)"
        return f"array(select {item} from {given})"  # noqa: S608

    text = _PLACE.sub(place, statement)
    if columns:
        names = [f"c{number}" for number in range(len(columns))]
        row = ", ".join(_WRITE[kind].format(name) for kind, name in zip(columns, names, strict=True))
        text = f"select pg_catalog.json_build_array({row})::text from ({text}) as result ({', '.join(names)})"  # noqa: S608
    return text, kinds


def _written(value: Any, kind: str, is_array: bool) -> str:
    if kind not in _READ:
        return orjson.dumps(value).decode()
    if not is_array:
        return _base64(value)
    return orjson.dumps([None if item is None else _base64(item) for item in value]).decode()


def _base64(value: str | bytes) -> str:
    data = value.encode() if isinstance(value, str) else value
    return b2a_base64(data, newline=False).decode("ascii")
