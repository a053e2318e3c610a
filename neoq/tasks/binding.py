"""What a task's function takes: a call as a payload at enqueue, a payload as arguments when it runs."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from neoq.errors import ArgumentsError, InvalidJobError, NeoqError, PayloadError
from neoq.job import Job
from neoq.payload import EXACT, SCALARS, SORTED, encode_payload
from neoq.tasks.codec import ANY, Codec, Misfit, codec_of

_JOB_TEXTS = frozenset({"Job", "neoq.Job"})
_JSON_TYPES = {str: "string", bool: "true or false", dict: "object", list: "array", type(None): "null"}


class Binding:
    """The parameters of one function, each with its codec.

    The codecs are made at the first use, where an annotation names what is defined later. ``job`` is the
    parameter that is given the running job, if there is one: it is not part of the payload.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.name = name
        self._function = function
        signature = inspect.signature(function)
        self.job = self._job_in(signature)
        parameters = [one for one in signature.parameters.values() if one.name != self.job]
        self.signature = signature.replace(parameters=parameters)
        self._shown = _shown(self.signature)
        self._check(parameters)
        named = [one for one in parameters if one.kind is not one.VAR_KEYWORD]
        self._positional = tuple(one.name for one in named if one.kind is one.POSITIONAL_OR_KEYWORD)
        self._names = frozenset(one.name for one in named)
        self._required = frozenset(one.name for one in named if one.default is one.empty)
        self._defaults = {one.name: one.default for one in named if one.default is not one.empty}
        self._rest = next((one.name for one in parameters if one.kind is one.VAR_KEYWORD), None)
        self._codecs: dict[str, Codec] | None = None
        self._returns = ANY
        self._short: Callable[..., dict[str, Any] | None] = _no_short_way
        try:
            self._resolved()
        except NameError:  # of what is defined further down, or imported for type checkers only
            pass

    def _check(self, parameters: list[inspect.Parameter]) -> None:
        for one in parameters:
            if one.kind is one.POSITIONAL_ONLY:
                problem = f"the parameter {one.name} is positional-only; the arguments of a job have names"
            elif one.kind is one.VAR_POSITIONAL:
                problem = f"it takes *{one.name}; the arguments of a job have names: take a list"
            else:
                continue
            raise InvalidJobError(f"{self.name} cannot be a task: {problem}")
        if parameters and parameters[0].name in {"self", "cls"}:
            raise InvalidJobError(f"{self.name} cannot be a task: it is a method; make it a function")

    def _job_in(self, signature: inspect.Signature) -> str | None:
        hints: Mapping[str, Any] = {}
        try:
            hints = self._hints()
        except NameError:
            pass
        for name, one in signature.parameters.items():
            if hints.get(name, one.annotation) is Job or str(one.annotation) in _JOB_TEXTS:
                return name
        return None

    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self._function, include_extras=True)

    def _resolved(self) -> dict[str, Codec]:
        """The codec of each parameter that has an annotation, and of the result."""
        hints = self._hints()
        codecs: dict[str, Codec] = {}
        for name in self.signature.parameters:
            if name in hints:
                codecs[name] = codec_of(hints[name], f"the parameter {name} of {self.name}")
        try:
            self._returns = codec_of(hints.get("return", Any), "")
        except InvalidJobError:  # then the result is to be JSON, or it is not kept
            self._returns = ANY
        self._codecs = codecs
        if self._rest is None:
            self._short = _short_way(self.signature, codecs)
        return codecs

    def _of(self, name: str) -> Codec:
        codecs = self._codecs or self._resolved()
        return codecs.get(name if name in self._names else self._rest or name, ANY)

    def data(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], queue: str) -> bytes:
        """The payload of a call as it is stored; a call of nothing but texts and numbers goes a short way."""
        try:
            payload = self._short(*args, **kwargs)
            if payload is not None:
                return EXACT % orjson.dumps(payload, None, SORTED)
        except TypeError:  # the long way is to say what is wrong
            pass
        return encode_payload(self.payload(args, kwargs), queue)

    def payload(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name, as JSON; TypeError for a wrong call, PayloadError for a value."""
        payload = dict(zip(self._positional, args, strict=False)) | dict(kwargs)
        names = payload.keys()
        if (
            len(payload) != len(args) + len(kwargs)
            or not names >= self._required
            or not (names <= self._names or self._rest)
            or self.job in payload
        ):
            self._refuse(args, kwargs)
        for name, value in payload.items():
            codec = self._of(name)
            if value.__class__ not in codec.plain and codec is not ANY:
                try:
                    payload[name] = codec.encode(value, name)
                except Misfit as misfit:
                    raise PayloadError(f"{self.name}: {misfit}", path=name) from None
        return payload

    def _refuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}{self._shown}: {error}") from None
        raise TypeError(f"{self.name}{self._shown}: {self.job} is given by neoq: the running job")

    def canonical(self, payload: Mapping[str, Any]) -> bytes:
        """The arguments with the defaults of those that were not given: what a fingerprint is made of."""
        full = dict(payload)
        for name, value in self._defaults.items():
            if name not in full:
                try:
                    full[name] = self._of(name).encode(value, name)
                    encode_payload({name: full[name]}, "")
                except NeoqError:  # a default need not fit: it may be a mark of its own
                    full[name] = repr(value)
        return encode_payload(full, "")

    def arguments(self, job: Job) -> dict[str, Any]:
        """The arguments that a job brings to its function; ArgumentsError where they do not fit."""
        payload = job.payload
        names = payload.keys()
        try:
            if not names >= self._required:
                missing = sorted(self._required - names)
                raise Misfit(f"{', '.join(missing)} is missing")
            if not (names <= self._names or self._rest):
                raise Misfit(f"it has no parameter {', '.join(sorted(names - self._names))}")
            arguments = {}
            for name, value in payload.items():
                codec = self._of(name)
                fits = value.__class__ in codec.plain or codec is ANY
                arguments[name] = value if fits else codec.decode(value, name)
        except Misfit as misfit:
            raise ArgumentsError(
                f"the stored arguments do not fit the task {self.name}: {misfit}. Stored is "
                f"{_shape(payload)}, and the task takes {self._shown}; to run such jobs let it take both",
                queue=job.queue,
                job_id=job.id,
            ) from None
        if self.job is not None:
            arguments[self.job] = job
        return arguments

    def result(self, value: Any) -> Any:
        """What a function returned, as JSON where its return annotation says how."""
        if self._codecs is None:
            self._resolved()
        codec = self._returns
        try:
            return value if value is None or codec is ANY else codec.encode(value, "the result")
        except Misfit:  # then it is to be JSON as it is
            return value

    def read_result(self, value: Any) -> Any:
        """A stored result, as the function returned it."""
        if self._codecs is None:
            self._resolved()
        codec = self._returns
        return value if codec is ANY else codec.decode(value, "the result")


def _no_short_way(*_args: Any, **_kwargs: Any) -> None:
    """The short way of a function that has none."""


def _short_way(
    signature: inspect.Signature, codecs: Mapping[str, Codec]
) -> Callable[..., dict[str, Any] | None]:
    """A function of this signature: returns its arguments by name, or None where they want a closer look.

    It is made as dataclasses make theirs: Python binds a call to it several times faster than we could.
    """
    takes, lines, names = [], ["    payload = {}"], {}
    star = True
    for name, one in signature.parameters.items():
        if star and one.kind is one.KEYWORD_ONLY:
            takes.append("*")
            star = False
        optional = one.default is not one.empty
        takes.append(f"{name}=neoq_missing" if optional else name)
        if optional:
            lines.append(f"    if {name} is not neoq_missing:")
        indent = " " * (8 if optional else 4)
        lines += [
            f"{indent}if {name}.__class__ not in neoq_classes_{name}: return None",
            f"{indent}payload[{name!r}] = {name}",
        ]
        names[f"neoq_classes_{name}"] = codecs[name].plain & SCALARS if name in codecs else SCALARS
    namespace: dict[str, Any] = {**names, "neoq_missing": object()}
    source = "\n".join([f"def short_way({', '.join(takes)}):", *lines, "    return payload"])
    exec(source, namespace)  # noqa: S102  # nothing but names of parameters is in it
    made: Callable[..., dict[str, Any] | None] = namespace["short_way"]
    return made


class _Text:
    """An annotation that is written as a text, and shown without quotes."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _shown(signature: inspect.Signature) -> str:
    parameters = [
        one.replace(annotation=_Text(one.annotation)) if isinstance(one.annotation, str) else one
        for one in signature.parameters.values()
    ]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def _shape(payload: Mapping[str, Any]) -> str:
    """Names and types of stored arguments, and no values: these may be secrets."""
    shown = [f"{name}: {_JSON_TYPES.get(type(value), 'number')}" for name, value in payload.items()]
    return f"({', '.join(shown)})"
