"""Limits for the text of errors, in a store and in the log: a message may contain a whole page."""

from __future__ import annotations

from collections.abc import Callable

MAX_TYPE = 1024  # bytes of an exception's class
MAX_ERROR = 8 * 1024  # bytes of an exception's message
MAX_TRACEBACK = 64 * 1024  # bytes
_MAX_CHAIN = MAX_TRACEBACK // MAX_ERROR  # exceptions


def cut(text: str, limit: int) -> str:
    """Shorten a text of more than ``limit`` bytes to its beginning, a mark and its end."""
    if len(text) * 4 <= limit:
        return text
    size = len(text.encode("utf-8", "surrogatepass"))
    if size <= limit:
        return text
    tail = limit // 4
    head = _part(text[: limit - tail], limit - tail, last=False)
    end = _part(text[-tail:], tail, last=True) if tail else ""
    return f"{head}\n... [cut here: {size:,} bytes in all] ...\n{end}"


def _part(text: str, limit: int, *, last: bool) -> str:
    data = text.encode("utf-8", "surrogatepass")
    if len(data) <= limit:
        return text
    data = data[-limit:] if last else data[:limit]
    return data.decode("utf-8", "ignore")  # drops a character that was cut in two


def shortened(error: BaseException) -> BaseException:
    """The exception for a log: itself, or a copy with less text if it or its chain is very long."""
    sizes = [len(_text_of(one)) + len(_notes_of(one)) for one in _chain_of(error)]
    if max(sizes) <= MAX_ERROR and sum(sizes) <= MAX_TRACEBACK:
        return error
    return _stand_in(error, _MAX_CHAIN)


def _chain_of(error: BaseException) -> list[BaseException]:
    chain, seen = [error], {id(error)}
    for one in chain:  # the loop appends to it
        grouped = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        for other in (one.__cause__, one.__context__, *grouped):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                chain.append(other)
    return chain


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:  # an exception's own code may do anything
        return "<its message could not be read>"


def _notes_of(error: BaseException) -> str:
    try:
        return "\n".join(map(str, error.__notes__))
    except BaseException:  # most exceptions have no notes
        return ""


def _stand_in(error: BaseException, left: int) -> BaseException:
    """A copy of an exception: its class's name, traceback and causes, and a part of its text."""
    cls = type(error)
    names = {"__module__": _module_of(cls), "__qualname__": _qualname_of(cls)}
    other: BaseException = type(class_name(cls), (Exception,), names)(cut(_text_of(error), MAX_ERROR))
    if notes := _notes_of(error):
        other.add_note(cut(notes, MAX_ERROR))
    if left > 1 and error.__cause__ is not None:
        other.__cause__ = _stand_in(error.__cause__, left - 1)
    elif left > 1 and error.__context__ is not None and not error.__suppress_context__:
        other.__context__ = _stand_in(error.__context__, left - 1)
    other.__traceback__ = error.__traceback__
    return other


# These descriptors ignore what a metaclass overrides.
class_name: Callable[[type], str] = type.__dict__["__name__"].__get__
_module_of, _qualname_of = (type.__dict__[name].__get__ for name in ("__module__", "__qualname__"))


def full_name(cls: type) -> str:
    """The name of a class with its module, unless that is builtins."""
    module, name = _module_of(cls), _qualname_of(cls)
    return str(name) if module == "builtins" else f"{module}.{name}"
