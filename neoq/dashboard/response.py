"""Response: what a page answers, and what the browser gets of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from neoq.dashboard.headers import Kind


@dataclass
class Response:
    """A whole answer."""

    body: bytes = b""
    status: int = 200
    content_type: str = "text/html; charset=utf-8"
    kind: Kind = "page"
    headers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status_line(self) -> str:
        """The status as WSGI takes it."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


@dataclass
class Page:
    """A template and the plain data that it shows. ``seen`` has the shared numbers that it was made from."""

    template: str
    data: Mapping[str, Any]
    status: int = 200
    seen: Iterable[Any] = ()


@dataclass
class Redirect:
    """Another page to go to, relative to the first one, and what it says there once."""

    to: str
    message: str | None = None
    failed: bool = False


@dataclass
class Reply:
    """A WSGI application that answers in place of the dashboard, such as a redirect to a login."""

    application: Callable[..., Iterable[bytes]]


class Refused(Exception):
    """A request that gets no page, and why."""

    def __init__(self, status: int, why: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.why = why
        self.headers = headers


Answer = Response | Page | Redirect
