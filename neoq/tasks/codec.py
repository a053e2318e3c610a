"""How the values of a parameter travel: by its annotation, as JSON and back.

A codec is made once for an annotation. It never coerces: a value that does not fit is a `Misfit`, which names
the place. What travels as JSON by itself is passed on as it is.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import types
import typing
from collections import abc
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple, get_args, get_origin
from uuid import UUID

import orjson

from neoq.errors import InvalidJobError, NeoqError

Convert = Callable[[Any, str], Any]  # takes a value, and the place that a Misfit names

_WIRE = ("string", "number", "true or false", "null", "array", "object")
_STRING, _NUMBER, _TRUTH, _NULL, _ARRAY, _OBJECT = _WIRE
_ANYTHING = frozenset(_WIRE)


class Misfit(NeoqError):
    """A value does not fit the annotation of its parameter."""


class Codec(NamedTuple):
    """Both ways of an annotation.

    ``wire`` are the types of JSON that it writes, ``plain`` the classes whose instances fit and travel as
    they are. ``asis`` tells that all values travel as they are.
    """

    name: str
    encode: Convert
    decode: Convert
    wire: frozenset[str]
    plain: frozenset[type] = frozenset()
    asis: bool = False


def codec_of(annotation: Any, where: str) -> Codec:
    """The codec of an annotation that is resolved; InvalidJobError for one whose values cannot travel."""
    annotation = _bare(annotation)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        return _union(annotation, arguments, where)
    if origin is typing.Literal:
        return _literal(annotation, arguments)
    for base, make in _CONTAINERS:
        if (origin or annotation) in base:
            return make(annotation, arguments, where)
    if isinstance(annotation, type):
        for test, make in _CLASSES:
            if test(annotation):
                return make(annotation, arguments, where)
    raise InvalidJobError(
        f"{where} is annotated {_name(annotation)}, whose values a job cannot carry; pass an id, or plain "
        "values: str, int, datetime, UUID, a dataclass, or a list or dict of these"
    )


def _bare(annotation: Any) -> Any:
    """An annotation without what says nothing about values."""
    while True:
        if get_origin(annotation) in {typing.Annotated, typing.Final, typing.Required, typing.NotRequired}:
            annotation = get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif hasattr(annotation, "__value__") and hasattr(annotation, "__type_params__"):
            annotation = annotation.__value__  # a `type` statement
        else:
            return annotation


def _name(annotation: Any) -> str:
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation.__qualname__
    return str(annotation).replace("typing.", "")


def _misfit(place: str, value: Any, wanted: str) -> Misfit:
    kind = type(value).__name__
    return Misfit(f"{place} is {'an' if kind[:1].lower() in 'aeio' else 'a'} {kind}, not {wanted}")


def _as_it_is(name: str, classes: tuple[type, ...], wire: str, *, but: type | None = None) -> Codec:
    def check(value: Any, place: str) -> Any:
        if not isinstance(value, classes) or (but is not None and isinstance(value, but)):
            raise _misfit(place, value, name)
        return value

    return Codec(name, check, check, frozenset({wire}), frozenset(classes), asis=True)


def _written(
    cls: type, wire: str, write: Callable[[Any], Any], read: Callable[[Any], Any], *, but: type | None = None
) -> Codec:
    """The codec of a class whose instances are written as a string or number."""

    def encode(value: Any, place: str) -> Any:
        if not isinstance(value, cls) or (but is not None and isinstance(value, but)):
            raise _misfit(place, value, cls.__name__)
        return write(value)

    def decode(value: Any, place: str) -> Any:
        fits = isinstance(value, str) if wire is _STRING else type(value) in {int, float}
        try:
            if fits:
                return read(value)
        except (ValueError, ArithmeticError, LookupError):
            pass
        raise Misfit(f"{place} is {value!r:.60}, which is no {cls.__name__}")

    return Codec(cls.__name__, encode, decode, frozenset({wire}))


_STR = _as_it_is("str", (str,), _STRING)
_INT = _as_it_is("int", (int,), _NUMBER)
ANY = Codec("Any", lambda value, _: value, lambda value, _: value, _ANYTHING, asis=True)
_SIMPLE: dict[Any, Codec] = {
    Any: ANY,
    object: ANY,
    str: _STR,
    int: _INT,
    bool: _as_it_is("bool", (bool,), _TRUTH),
    float: _as_it_is("float", (float, int), _NUMBER, but=bool),
    None: _as_it_is("None", (types.NoneType,), _NULL),
    types.NoneType: _as_it_is("None", (types.NoneType,), _NULL),
    datetime: _written(datetime, _STRING, datetime.isoformat, datetime.fromisoformat),
    date: _written(date, _STRING, date.isoformat, date.fromisoformat, but=datetime),
    time: _written(time, _STRING, time.isoformat, time.fromisoformat),
    timedelta: _written(
        timedelta, _NUMBER, timedelta.total_seconds, lambda seconds: timedelta(seconds=seconds)
    ),
    UUID: _written(UUID, _STRING, str, UUID),
    Decimal: _written(Decimal, _STRING, str, Decimal),
    bytes: _written(
        bytes,
        _STRING,
        lambda value: base64.b64encode(value).decode(),
        lambda text: base64.b64decode(text, validate=True),
    ),
}


def _literal(annotation: Any, arguments: tuple[Any, ...]) -> Codec:
    allowed = {(type(value), value): value for value in arguments}
    written = {key: value.value if isinstance(value, enum.Enum) else value for key, value in allowed.items()}
    read = {(type(value), value): allowed[key] for key, value in written.items()}
    name = _name(annotation)

    def encode(value: Any, place: str) -> Any:
        if isinstance(value, (dict, list)) or (type(value), value) not in written:
            raise Misfit(f"{place} is {value!r:.60}, not {name}")
        return written[type(value), value]

    def decode(value: Any, place: str) -> Any:
        if isinstance(value, (dict, list)) or (type(value), value) not in read:
            raise Misfit(f"{place} is {value!r:.60}, not {name}")
        return read[type(value), value]

    wire = frozenset(_wire_of(value) for value in written.values())
    return Codec(name, encode, decode, wire, asis=written == allowed)


def _wire_of(value: Any) -> str:
    if value is None:
        return _NULL
    return _TRUTH if isinstance(value, bool) else _STRING if isinstance(value, str) else _NUMBER


def _enum(cls: type[enum.Enum], _arguments: tuple[Any, ...], _where: str) -> Codec:
    """By value where all of these are str or int, by name otherwise."""
    flags = issubclass(cls, enum.Flag)
    by_value = flags or all(
        type(member.value) in {str, int} or isinstance(member.value, str) for member in cls
    )

    def encode(value: Any, place: str) -> Any:
        if not isinstance(value, cls):
            raise _misfit(place, value, cls.__name__)
        return value.value if by_value else value.name

    def decode(value: Any, place: str) -> Any:
        try:
            if not isinstance(value, (dict, list)):
                return cls(value) if by_value else cls[value]
        except (ValueError, KeyError):
            pass
        raise Misfit(f"{place} is {value!r:.60}, which is no {cls.__name__}")

    wire = {_wire_of(member.value) for member in cls} if by_value else {_STRING}
    return Codec(cls.__name__, encode, decode, frozenset({_NUMBER} if flags else wire))


def _union(annotation: Any, arguments: tuple[Any, ...], where: str) -> Codec:
    members = [codec_of(argument, where) for argument in arguments]
    name = _name(annotation)
    for at, one in enumerate(members):
        for other in members[:at]:
            if one.wire & other.wire and not (one.asis and other.asis):
                raise InvalidJobError(
                    f"{where} is annotated {name}, and {other.name} and {one.name} look the same as JSON "
                    f"({', '.join(sorted(one.wire & other.wire))}); annotate it with one of them"
                )

    def either(value: Any, place: str, way: str) -> Any:
        for member in members:
            try:
                return getattr(member, way)(value, place)
            except Misfit as misfit:
                failed = misfit
        if len(members) == 2 and types.NoneType in arguments and value is not None:
            member = members[0] if arguments[1] is types.NoneType else members[1]
            return getattr(member, way)(value, place)  # which says more of what is wrong
        raise _misfit(place, value, name) from failed

    return Codec(
        name,
        partial(either, way="encode"),
        partial(either, way="decode"),
        frozenset[str]().union(*(member.wire for member in members)),
        frozenset[type]().union(*(member.plain for member in members)),
        all(member.asis for member in members),
    )


def _list(annotation: Any, arguments: tuple[Any, ...], where: str) -> Codec:
    return _many(
        annotation, list, (list, tuple) if get_origin(annotation) in _LOOSE else (list,), arguments, where
    )


def _set(annotation: Any, arguments: tuple[Any, ...], where: str) -> Codec:
    frozen = (get_origin(annotation) or annotation) is frozenset
    return _many(annotation, frozenset if frozen else set, (set, frozenset), arguments, where, ordered=False)


def _many(
    annotation: Any,
    build: type,
    takes: tuple[type, ...],
    arguments: tuple[Any, ...],
    where: str,
    *,
    ordered: bool = True,
) -> Codec:
    item = codec_of(arguments[0], where) if arguments else ANY
    name = _name(annotation)

    def encode(value: Any, place: str) -> Any:
        if not isinstance(value, takes):
            raise _misfit(place, value, name)
        values: Any = value
        items = [item.encode(one, f"{place}[{at}]") for at, one in enumerate(values)]
        return items if ordered else sorted(items, key=_sort_key)  # equal sets have one fingerprint

    def decode(value: Any, place: str) -> Any:
        if not isinstance(value, list):
            raise _misfit(place, value, name)
        return build(item.decode(one, f"{place}[{at}]") for at, one in enumerate(value))

    return Codec(name, encode, decode, frozenset({_ARRAY}))


def _sort_key(value: Any) -> bytes:
    try:
        return orjson.dumps(value, None, orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # the payload's own check is to say what is wrong with it
        return b""


def _tuple(annotation: Any, arguments: tuple[Any, ...], where: str) -> Codec:
    if not arguments or (len(arguments) == 2 and arguments[1] is ...):
        return _many(annotation, tuple, (tuple,), arguments[:1], where)
    items = [codec_of(argument, where) for argument in arguments if argument != ()]
    name = _name(annotation)

    def each(value: Any, place: str, way: str) -> list[Any]:
        if len(value) != len(items):
            raise Misfit(f"{place} has {len(value)} items, not {len(items)}: {name}")
        return [
            getattr(item, way)(one, f"{place}[{at}]")
            for at, (item, one) in enumerate(zip(items, value, strict=True))
        ]

    def encode(value: Any, place: str) -> Any:
        if not isinstance(value, tuple):
            raise _misfit(place, value, name)
        return each(value, place, "encode")

    def decode(value: Any, place: str) -> Any:
        if not isinstance(value, list):
            raise _misfit(place, value, name)
        return tuple(each(value, place, "decode"))

    return Codec(name, encode, decode, frozenset({_ARRAY}))


def _dict(annotation: Any, arguments: tuple[Any, ...], where: str) -> Codec:
    key, item = (codec_of(argument, where) for argument in arguments) if arguments else (_STR, ANY)
    name = _name(annotation)
    number = key is _INT  # JSON's keys are strings
    if key is not ANY and not number and key.wire != {_STRING}:
        raise InvalidJobError(
            f"{where} is annotated {name}; the keys of a dict are str, int, or what travels as a string"
        )

    def encode(value: Any, place: str) -> Any:
        if not isinstance(value, abc.Mapping):
            raise _misfit(place, value, name)
        written = {}
        for one, of_it in value.items():
            text = key.encode(one, f"a key of {place}")
            written[str(int(text)) if number else text] = item.encode(of_it, f"{place}.{one}")
        return written

    def decode(value: Any, place: str) -> Any:
        if not isinstance(value, dict):
            raise _misfit(place, value, name)
        try:
            return {
                int(one) if number else key.decode(one, f"a key of {place}"): item.decode(
                    of_it, f"{place}.{one}"
                )
                for one, of_it in value.items()
            }
        except ValueError:
            raise Misfit(f"{place} has a key that is no int: {name}") from None

    return Codec(name, encode, decode, frozenset({_OBJECT}))


class _Field(NamedTuple):
    codec: Codec
    required: bool


class _Fields:
    """The fields of a class, each by its annotation. They are made at first use: a class may hold itself."""

    def __init__(self, cls: type, required: Mapping[str, bool], where: str) -> None:
        self.cls = cls
        self.name = cls.__name__
        self.where = where
        self.required = required
        self._made: dict[str, _Field] | None = None

    def made(self) -> dict[str, _Field]:
        """The codec of each."""
        if self._made is None:
            self._made = {}  # what is found while a field is made is the class itself
            hints = typing.get_type_hints(self.cls, include_extras=True)
            for name, required in self.required.items():
                codec = codec_of(hints.get(name, Any), f"{self.where}: {self.name}.{name}")
                self._made[name] = _Field(codec, required)
        return self._made

    def encode(self, values: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Their values as JSON."""
        fields = self.made()
        self.check_names(values, place)
        return {name: fields[name].codec.encode(value, f"{place}.{name}") for name, value in values.items()}

    def decode(self, value: Any, place: str) -> dict[str, Any]:
        """Their values from JSON."""
        if not isinstance(value, dict):
            raise _misfit(place, value, self.name)
        fields = self.made()
        self.check_names(value, place)
        return {name: fields[name].codec.decode(item, f"{place}.{name}") for name, item in value.items()}

    def check_names(self, values: Mapping[str, Any], place: str) -> None:
        """Refuse a field that is missing, and one that the class has not."""
        missing = [name for name, required in self.required.items() if required and name not in values]
        extra = [str(name) for name in values if name not in self.required]
        if missing or extra:
            told = [f"has no {name}" for name in missing] + [
                f"has {name}, which is no field" for name in extra
            ]
            raise Misfit(f"{place} {', '.join(told)} of {self.name}")


_made: dict[type, Codec] = {}


def _with_fields(
    cls: type, required: Mapping[str, bool], read: Callable[[Any], Mapping[str, Any]], where: str
) -> Codec:
    if cls in _made:
        return _made[cls]
    fields = _Fields(cls, required, where)
    typed = typing.is_typeddict(cls)

    def encode(value: Any, place: str) -> Any:
        if not isinstance(value, dict if typed else cls):
            raise _misfit(place, value, cls.__name__)
        return fields.encode(read(value), place)

    def decode(value: Any, place: str) -> Any:
        values = fields.decode(value, place)
        try:
            return values if typed else cls(**values)
        except (TypeError, ValueError) as error:  # of its own checks
            raise Misfit(f"{place} makes no {cls.__name__}: {error}") from error

    codec = _made[cls] = Codec(cls.__name__, encode, decode, frozenset({_OBJECT}))
    try:
        fields.made()  # here, where a wrong annotation is noticed early
    except NameError:
        pass
    except BaseException:
        del _made[cls]
        raise
    return codec


def _dataclass(cls: Any, _arguments: tuple[Any, ...], where: str) -> Codec:
    missing = dataclasses.MISSING
    fields = [field for field in dataclasses.fields(cls) if field.init]
    required = {field.name: field.default is missing and field.default_factory is missing for field in fields}
    return _with_fields(cls, required, lambda value: {name: getattr(value, name) for name in required}, where)


def _named_tuple(cls: Any, _arguments: tuple[Any, ...], where: str) -> Codec:
    required = {name: name not in cls._field_defaults for name in cls._fields}
    return _with_fields(cls, required, lambda value: dict(zip(required, value, strict=True)), where)


def _typed_dict(cls: Any, _arguments: tuple[Any, ...], where: str) -> Codec:
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except NameError:
        hints = dict.fromkeys(cls.__required_keys__ | cls.__optional_keys__)
    marks = {name: get_origin(hint) for name, hint in hints.items()}
    # Where annotations are texts the class takes all of its keys for required.
    required = {
        name: mark is typing.Required or (mark is not typing.NotRequired and name in cls.__required_keys__)
        for name, mark in marks.items()
    }
    return _with_fields(cls, required, lambda value: value, where)


def _faults_of(error: Any) -> str:
    """What pydantic found, in a line that shows no value."""
    found = error.errors() if hasattr(error, "errors") else ()
    return "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in found) or str(error)


def _pydantic(cls: Any, _arguments: tuple[Any, ...], _where: str) -> Codec:
    def encode(value: Any, place: str) -> Any:
        if not isinstance(value, cls):
            raise _misfit(place, value, cls.__name__)
        return value.model_dump(mode="json", by_alias=True, round_trip=True)

    def decode(value: Any, place: str) -> Any:
        try:
            return cls.model_validate_json(
                orjson.dumps(value)
            )  # a strict model takes text for a date only so
        except ValueError as error:
            raise Misfit(f"{place} makes no {cls.__name__}: {_faults_of(error)}") from error

    shapes = _ANYTHING if getattr(cls, "__pydantic_root_model__", False) else {_OBJECT}
    return Codec(cls.__name__, encode, decode, frozenset(shapes))


_LOOSE = frozenset({abc.Sequence, abc.Iterable, abc.Collection})
_CONTAINERS: tuple[tuple[frozenset[Any], Callable[..., Codec]], ...] = (
    (frozenset({list, abc.MutableSequence}) | _LOOSE, _list),
    (frozenset({set, frozenset, abc.Set, abc.MutableSet}), _set),
    (frozenset({tuple}), _tuple),
    (frozenset({dict, abc.Mapping, abc.MutableMapping}), _dict),
)
_CLASSES: tuple[tuple[Callable[[Any], bool], Callable[..., Codec]], ...] = (
    (lambda cls: issubclass(cls, enum.Enum), _enum),
    (typing.is_typeddict, _typed_dict),
    (lambda cls: issubclass(cls, tuple) and hasattr(cls, "_fields"), _named_tuple),
    (dataclasses.is_dataclass, _dataclass),
    (lambda cls: hasattr(cls, "__pydantic_validator__"), _pydantic),
)
