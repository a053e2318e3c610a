"""Hides secrets in what jobs hold: values of keys that look like secrets, and passwords in texts."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import orjson

from neoq.dashboard.secret_names import is_secret
from neoq.dashboard.secret_texts import hide
from neoq.wording.redact import MASK

Formatter = Callable[[str, Any, Any], Any]
Names = str | re.Pattern[str] | Iterable[str] | Callable[[str], "bool | None"]
_FAILED = "(the formatter failed; see the log)"
_PAIR = re.compile(r"(?:^|\.)[0-9]+\.(?:value|1)$")  # the value of a pair in a list
_LONG = 100  # characters; of a longer key the beginning and the end are looked at
_DEEP = 200  # levels; JSON that is nested deeper is hidden as a whole
_log = logging.getLogger("neoq.dashboard")


class Mask:
    """Hides what looks like a secret, for those who may not reveal it.

    ``names`` are more keys to hide: a regular expression that is searched in a key, names, or a function of
    a key, which returns True to hide its value, False to show it and None to leave it to the mask.

    ``formatter(field, value, job)`` changes what is shown, for everybody: ``field`` is "payload", "result",
    "meta", "progress", "preview" (of a list), "error" or "traceback". What it returns is masked in its turn.
    """

    def __init__(self, names: Names | None = None, formatter: Formatter | None = None) -> None:
        self._asked = _asker(names)
        self._formatter = formatter

    # -- what is shown ------------------------------------------------------------------------------------

    def value(self, value: Any, *, field: str = "payload", job: Any = None, revealed: bool = False) -> Any:
        """A value of JSON as it may be shown; ``revealed`` for those who may see secrets."""
        value = self._formatted(field, value, job)
        return value if revealed else self._value(value, 0)

    def text(self, text: str | None, *, field: str = "error", job: Any = None, revealed: bool = False) -> str:
        """A text as it may be shown: an error, a traceback, the first kilobyte of a payload."""
        text = self._formatted(field, text or "", job)
        text = text if isinstance(text, str) else str(text)
        return text if revealed else self._string(text, 0)

    # -- which keys are hidden ----------------------------------------------------------------------------

    def hides(self, name: str) -> bool:
        """Whether the value of a key is hidden."""
        name = unicodedata.normalize("NFKC", name)
        asked = None if self._asked is None else self._asked(name)
        if asked is not None:
            return asked
        return is_secret(name if len(name) <= _LONG else f"{name[:_LONG]} {name[-_LONG:]}")

    def refusal_of(self, path: str, value: str = "") -> str | None:
        """Why jobs cannot be found by a value at a path of their payload; None where they can.

        A filter that answers whether a hidden value is the one that was guessed would show it.
        """
        parts = path.split(".")
        hidden = next((part for part in [*parts, path] if self.hides(part)), None)
        if hidden is None and _PAIR.search(path):
            hidden = parts[-1]
        if hidden is not None:
            return f"The value of {hidden!r:.80} is hidden, so jobs cannot be found by it."
        if self._string(value, 0) != value:
            return "A part of this value is hidden, so jobs cannot be found by it."
        return None

    def finds(self, wanted: str, text: str | None) -> bool:
        """Whether a text that was searched for is also in what is shown of an error."""
        return wanted in self.text(text)

    # -- the parts ----------------------------------------------------------------------------------------

    def _formatted(self, field: str, value: Any, job: Any) -> Any:
        if self._formatter is None:
            return value
        try:
            return self._formatter(field, value, job)
        except Exception:
            _log.exception("the formatter of the dashboard raised for the %s of job %s", field, _id_of(job))
            return _FAILED

    def _value(self, value: Any, depth: int) -> Any:
        if depth > _DEEP:
            return MASK
        if isinstance(value, Mapping):
            return {name: self._of_key(str(name), its, depth) for name, its in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._item(one, depth + 1) for one in value]
        return self._string(value, depth) if isinstance(value, str) else value

    def _item(self, value: Any, depth: int) -> Any:
        """An item of a list; one of a name and a value is what environments and headers are lists of."""
        names: list[Any] = []
        if isinstance(value, Mapping) and value.get("value"):
            names = [value.get("name"), value.get("key")]
        elif isinstance(value, list) and len(value) == 2 and isinstance(value[1], str):
            names = value[:1]
        if any(isinstance(name, str) and self.hides(name) for name in names):
            return [value[0], MASK] if isinstance(value, list) else {**value, "value": MASK}
        return self._value(value, depth)

    def _of_key(self, name: str, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool) or value in ("", [], {}):
            return value  # there is nothing to hide
        if self.hides(name) and not (_is_number(value) and name.lower().endswith("tokens")):
            return MASK
        return self._value(value, depth + 1)

    def _string(self, text: str, depth: int) -> str:
        if text.lstrip()[:1] in ("{", "["):
            try:
                parsed = orjson.loads(text)
            except ValueError:
                return hide(text, self.hides)
            shown = self._value(parsed, depth + 1)
            return text if shown == parsed else orjson.dumps(shown).decode()
        return hide(text, self.hides)


def _asker(names: Names | None) -> Callable[[str], bool | None] | None:
    if names is None:
        return None
    if isinstance(names, (str, re.Pattern)):
        try:
            found = re.compile(names, re.IGNORECASE) if isinstance(names, str) else names
        except re.error as error:
            raise ValueError(f"mask is {names!r:.80}, which is no regular expression: {error}") from None
        return lambda name: True if found.search(name) else None
    if callable(names):
        return _guarded(names)
    wanted = {str(name).casefold() for name in names}
    return lambda name: True if name.casefold() in wanted else None


def _guarded(asked: Callable[[str], bool | None]) -> Callable[[str], bool | None]:
    def hides(name: str) -> bool | None:
        try:
            answer = asked(name)
        except Exception:
            _log.exception("mask= of the dashboard raised for a key, whose value is hidden")
            return True
        return None if answer is None else bool(answer)

    return hides


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _id_of(job: Any) -> Any:
    return getattr(job, "id", None)
