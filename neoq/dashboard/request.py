"""Request: what a browser asks, read from a WSGI environ."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from neoq.dashboard.access import Granted
from neoq.dashboard.response import Refused

MAX_BODY = 1_000_000  # bytes
MAX_FIELDS = 5_000  # of a form or a query
_FORM = "application/x-www-form-urlencoded"


class Fields(dict[str, str]):
    """The fields of a query or a form: the last value of each, and all of them by `all`."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for key, value in self.pairs if key == name]

    def text(self, name: str) -> str | None:
        """The value of a field without the space around it, None where it is empty."""
        return self.get(name, "").strip() or None


@dataclass
class Request:
    """What a browser asks. ``path`` has no slash in front; ``granted`` is set before a page sees it."""

    environ: dict[str, Any]
    method: str
    path: str
    query: Fields
    granted: Granted = field(default_factory=lambda: Granted(refusal="nobody has looked yet"))

    @classmethod
    def of(cls, environ: dict[str, Any]) -> Request:
        """The request of an environ."""
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace")
        query = _fields(environ.get("QUERY_STRING", ""))
        return cls(environ, environ.get("REQUEST_METHOD", "GET").upper(), path.removeprefix("/"), query)

    @cached_property
    def form(self) -> Fields:
        """The fields of a POST; Refused where they cannot be read."""
        kind = self.environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
        if kind not in {_FORM, ""}:
            raise Refused(415, f"A form is sent as {_FORM}.")
        try:
            length = int(self.environ.get("CONTENT_LENGTH") or 0)
        except ValueError:
            raise Refused(400, "Content-Length is not a number.") from None
        if length > MAX_BODY:
            raise Refused(413, f"The form is larger than {MAX_BODY:,} bytes.")
        return _fields(self.environ["wsgi.input"].read(max(length, 0)).decode("utf-8", "replace"))

    @cached_property
    def cookies(self) -> dict[str, str]:
        """The cookies that the browser sent."""
        try:
            found = SimpleCookie(self.environ.get("HTTP_COOKIE", ""))
        except CookieError:
            return {}
        return {name: morsel.value for name, morsel in found.items()}

    @property
    def region(self) -> str | None:
        """The id of the only part of the page that is wanted, as htmx names it."""
        return self.environ.get("HTTP_HX_TARGET") if "HTTP_HX_REQUEST" in self.environ else None

    @property
    def root(self) -> str:
        """The way from this page to the first one, for relative links."""
        return "../" * self.path.count("/")

    @property
    def here(self) -> str:
        """This view, relative to itself."""
        return self.url(self.path, self.query.pairs)

    def url(self, path: str, query: Any = ()) -> str:
        """A link to another page; fields that are None are left out."""
        pairs = query.items() if isinstance(query, dict) else query
        text = urlencode([(key, value) for key, value in pairs if value is not None], quote_via=quote)
        return (self.root + path or "./") + (f"?{text}" if text else "")

    def need_read(self, queue: str | None = None) -> None:
        """Refuse a request that may not look at a queue, or at all of them."""
        if not self.granted.may_read(queue):
            choose = "" if queue is not None else " Choose one of those on the page of queues."
            raise Refused(403, f"You may not look at {_named(queue)}.{choose}")

    def need(self, right: str, queue: str | None = None) -> None:
        """Refuse a request that may not do something to a queue, or to all of them."""
        if not self.granted.may(right, queue):
            raise Refused(403, f"You have no right to {right} in {_named(queue)}.")


def _named(queue: str | None) -> str:
    return "all queues" if queue is None else f"queue {queue}"


def _fields(text: str) -> Fields:
    try:
        return Fields(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="replace"))
    except ValueError:
        raise Refused(400, f"The form has more than {MAX_FIELDS:,} fields.") from None
