"""View: makes HTML of a template and the data of a page, all of it or one region."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from neoq.dashboard.filters import FILTERS
from neoq.dashboard.request import Request

_HERE = Path(__file__).parent
STATIC = _HERE / "static"
_REGION = re.compile(r"[a-z][a-z0-9-]*")
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_TIMES = re.compile(r"(<time [^>]*>)[^<]*(</time>)")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(FILTERS)
    environment.globals.update(region=_region_attributes)
    return environment


def html_of(request: Request, template: str, data: Mapping[str, Any]) -> tuple[str, bool]:
    """The page, or the region of it that the request names, and whether it is the region.

    The region of the id ``queue-list`` is the block ``region_queue_list`` of its template.
    """
    found = _environment().get_template(template)
    wanted = request.region or ""
    block = _block_of(found, f"region_{wanted.replace('-', '_')}") if _REGION.fullmatch(wanted) else None
    if block is None:
        return found.render(data), False
    return "".join(block(found.new_context(dict(data)))), True


def _block_of(template: Template, name: str) -> Any:
    return template.blocks.get(name)


def etag_of(html: str) -> str:
    """The ETag of a region. How long ago a time was does not count: the script keeps that up to date."""
    steady = _TIMES.sub(r"\1\2", html).encode("utf-8", "replace")
    return f'"{hashlib.sha256(steady).hexdigest()[:24]}"'


def _region_attributes(name: str, request: Request, every: int = 0) -> Markup:
    """The attributes of an element that refreshes itself, at most once in so many seconds."""
    return Markup(
        'id="{0}" data-live data-every="{2}" hx-get="{1}" hx-trigger="neoq:refresh" hx-target="this" '
        'hx-select="#{0}" hx-swap="morph:outerHTML"'
    ).format(name, request.here, every)


class StaticFile(NamedTuple):
    """A file of the folder static, as it is and packed; ``version`` is the hash of what it holds."""

    body: bytes
    packed: bytes
    content_type: str
    version: str


def static_file(name: str) -> StaticFile | None:
    """A file of the folder static; names that anybody may ask for are not remembered."""
    return _read(name) if name in _names() else None


@cache
def _names() -> frozenset[str]:
    return frozenset(path.name for path in STATIC.iterdir() if path.suffix in _TYPES)


@cache
def _read(name: str) -> StaticFile:
    path = STATIC / name
    body = path.read_bytes()
    version = hashlib.sha256(body).hexdigest()[:12]
    return StaticFile(body, gzip.compress(body, mtime=0), _TYPES[path.suffix], version)


def static_url(request: Request, name: str) -> str:
    """A link to a static file, which is another one when the file has changed."""
    found = static_file(name)
    return request.url(f"static/{name}", {"v": found.version if found else None})
