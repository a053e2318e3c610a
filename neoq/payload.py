"""Payloads and results: what may be in them, and how they are written as JSON."""

from __future__ import annotations

import enum
import math
from functools import cache
from types import NoneType
from typing import Any, NoReturn

import orjson

from neoq.errors import MissingKeyError, PayloadError

CODEC = 1  # how payload and result bytes are written: 1 is JSON with sorted keys
MAX_DEPTH = 100
EXACT = b"%b"  # copies bytes to their size: orjson's own keep the 4 KB that they were written into
SORTED = orjson.OPT_SORT_KEYS
SCALARS = frozenset({str, int, bool, NoneType})


@cache
def _blake2b() -> Any:
    from hashlib import blake2b  # on first use: importing it takes longer than all of this module

    return blake2b


def digest(queue: str, data: bytes) -> bytes:
    """A hash of a payload (as `encode_payload` wrote it) and its queue: BLAKE2b, 128 bits."""
    hashed: bytes = _blake2b()(queue.encode() + b"\0" + data, digest_size=16).digest()
    return hashed


def fingerprint(queue: str, data: bytes) -> str:
    """The fingerprint of a payload on a queue: its `digest` in hex."""
    return digest(queue, data).hex()


def fingerprint_of_kind(queue: str, kind: str, data: bytes) -> str:
    """The fingerprint of a payload of one kind of job on a queue."""
    return fingerprint(queue, kind.encode() + b"\0" + data)


def encode_payload(payload: Any, queue: str) -> bytes:
    """A payload as canonical JSON, or PayloadError naming the place that is not JSON."""
    if payload is None:
        return b"{}"
    try:
        if type(payload) is not dict or not SCALARS.issuperset(map(type, payload.values())):
            payload = _plain_object(payload, "payload", queue, 0)
        return EXACT % orjson.dumps(payload, None, SORTED)
    except orjson.JSONEncodeError:
        # orjson says what, never where; the walk finds the place, or makes plain what orjson refuses.
        return EXACT % orjson.dumps(_plain_object(payload, "payload", queue, 0), None, SORTED)


def encode_result(result: Any) -> bytes | None:
    """A handler's result as JSON (None for None), or PayloadError."""
    if result is None:
        return None
    return EXACT % orjson.dumps(_plain(result, "result", None, 0))


def encode_value(value: Any, path: str) -> bytes:
    """A value as JSON, None included, or PayloadError naming the place that is not JSON."""
    return EXACT % orjson.dumps(_plain(value, path, None, 0))


def sized_result(result: Any, limit: int) -> bytes | None:
    """A handler's result as JSON of at most ``limit`` bytes, or PayloadError."""
    data = encode_result(result)
    if data is not None and len(data) > limit:
        raise PayloadError(
            f"the result is {len(data):,} bytes as JSON, more than max_payload ({limit:,}): store the bulk "
            "elsewhere and return a reference to it"
        )
    return data


def refuse_size(data: bytes, limit: int, queue: str) -> NoReturn:
    """Refuse a payload of more than ``limit`` bytes."""
    raise PayloadError(
        f"the payload for queue {queue!r} is {len(data):,} bytes as JSON, more than max_payload "
        f"({limit:,}): store the bulk elsewhere and enqueue a reference to it",
        queue=queue,
    )


def _plain_object(value: Any, path: str, queue: str | None, depth: int) -> dict[str, Any]:
    if not issubclass(type(value), dict):
        raise PayloadError(
            f"{path} is {_describe(value)}; a payload is a dict of JSON values{_wrapped(value)}",
            path=path,
            queue=queue,
        )
    if depth > MAX_DEPTH:
        raise PayloadError(
            f"{path[:80]}... is nested deeper than {MAX_DEPTH} levels, or contains itself",
            path=path,
            queue=queue,
        )
    plain = {}
    for key, item in value.items():
        if not issubclass(type(key), str):
            raise PayloadError(
                f"{path} has the key {key!r}, {_describe(key)}; JSON keys are str{_as_key(key)}",
                path=path,
                queue=queue,
            )
        plain[check_text(key, f"a key of {path}", queue)] = _plain(item, f"{path}.{key}", queue, depth + 1)
    return plain


def _plain(value: Any, path: str, queue: str | None, depth: int) -> Any:
    """The value made of nothing but exact dict, list, str, int, float, bool and None."""
    if value is None or value is True or value is False:
        return value
    cls = type(value)  # not isinstance, which believes what a proxy says of its class
    if issubclass(cls, str):
        return check_text(value, path, queue)
    if issubclass(cls, int):
        return _integer(value, path, queue)
    if issubclass(cls, float):
        return _number(value, path, queue)
    if issubclass(cls, dict):
        return _plain_object(value, path, queue, depth)
    if issubclass(cls, (list, tuple)):
        if depth > MAX_DEPTH:
            _plain_object({}, path, queue, depth)
        return [_plain(item, f"{path}[{at}]", queue, depth + 1) for at, item in enumerate(value)]
    raise PayloadError(
        f"{path} is {_describe(value)}, which is not JSON; use str, int, float, bool, None, list or dict"
        f"{_advice(value)}",
        path=path,
        queue=queue,
    )


def check_text(value: str, path: str, queue: str | None) -> str:
    """A text that can be written as UTF-8, or PayloadError."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise PayloadError(
            f"{path} holds a lone surrogate at character {error.start}, which UTF-8 cannot carry; "
            'decode its source with errors="replace"',
            path=path,
            queue=queue,
        ) from None
    return value if value.__class__ is str else str.__str__(value)


def _integer(value: int, path: str, queue: str | None) -> int:
    if not -(2**63) <= value < 2**64:
        raise PayloadError(f"{path} is an integer beyond 64 bits; send it as a str", path=path, queue=queue)
    return int(value)


def _number(value: float, path: str, queue: str | None) -> float:
    if not math.isfinite(value):
        raise PayloadError(
            f"{path} is {value!r}, which JSON cannot carry; send None or a str", path=path, queue=queue
        )
    return float(value)


def _advice(value: Any) -> str:
    from neoq.wording.remedies import of_value  # where something is refused, and no sooner

    return f" ({_describe(value)}: send {of_value(value)})"


def _wrapped(value: Any) -> str:
    if issubclass(type(value), (str, int, float, list, tuple)):
        return ': {"name": ...}'
    return _advice(value)


def _as_key(key: Any) -> str:
    if key is None or issubclass(type(key), (tuple, bytes)):
        return ""
    return ": str(key)" if not issubclass(type(key), enum.Enum) else ": key.value or key.name"


def _describe(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeio' else 'a'} {name}"


COMPRESSED, SEALED = 1, 2  # bits of the first byte of a coded value, with which no JSON begins


CANNOT_OPEN = "(sealed, and no key of this process opens it)"


def is_coded(data: bytes | None) -> bool:
    """Whether a stored value is compressed or sealed, by a `Codec`: its first byte says so."""
    return bool(data) and 0 < data[0] <= COMPRESSED | SEALED  # type: ignore[index]


def read_json(data: bytes, job_id: int, queue: str) -> Any:
    """A stored value of a job. Raises MissingKeyError for one that is sealed, or compressed, still."""
    try:
        return orjson.loads(data)
    except ValueError:
        if not is_coded(data):
            raise
    raise MissingKeyError(
        f"job {job_id} of {queue} is sealed or compressed, and this process cannot open it: give its backend "
        "codec=Codec(keys=[...]) with the key that sealed it",
        queue=queue,
        job_id=job_id,
    )
