"""Mask: hides what looks like a secret in payloads, results, meta and errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

HIDDEN = "••••••"
_NAMES = ("password", "passwd", "secret", "token", "authorization", "cookie", "api_key", "apikey")


class Mask:
    """Hides the values of keys that look like secrets."""

    def __init__(
        self, names: Iterable[str] | None = None, formatter: Callable[[Any], Any] | None = None
    ) -> None:
        self._names = (*_NAMES, *(name.lower() for name in names or ()))
        self._formatter = formatter

    def hides(self, key: str) -> bool:
        """Whether the value of a key is hidden."""
        return any(name in key.lower() for name in self._names)

    def value(self, value: Any) -> Any:
        """A value as it may be shown."""
        shown = self._value(value)
        return shown if self._formatter is None else self._formatter(shown)

    def text(self, text: str) -> str:
        """A text, such as an error, as it may be shown."""
        return text

    def _value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: HIDDEN if self.hides(str(key)) else self._value(one) for key, one in value.items()}
        return [self._value(one) for one in value] if isinstance(value, list) else value
