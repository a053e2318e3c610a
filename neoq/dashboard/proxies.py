"""The request as its sender made it, where proxies that are trusted stand before the application."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HOST = re.compile(r"[A-Za-z0-9.-]+(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?")
_PREFIX = re.compile(r"(/[\w.~!$&'()*+,;=:@-]+)+", re.ASCII)


def behind(environ: dict[str, Any], trusted_proxies: int) -> dict[str, Any]:
    """A request as it reached the first of so many trusted proxies, by the X-Forwarded headers they added.

    Each proxy adds its client's address at the right end of X-Forwarded-For, so only that many addresses from
    there can be believed. Where fewer are there, the address is unknown. The headers are taken out, so that
    calling this twice does no harm. Without trusted proxies the request is what it was.
    """
    if trusted_proxies <= 0 or environ.get("neoq.behind"):
        return environ
    mended = {name: value for name, value in environ.items() if not name.startswith("HTTP_X_FORWARDED_")}
    mended["neoq.behind"] = True
    addresses = _values(environ, "FOR")
    mended["REMOTE_ADDR"] = addresses[-trusted_proxies] if len(addresses) >= trusted_proxies else ""
    host, scheme, prefix = (_of_first(environ, name, trusted_proxies) for name in ("HOST", "PROTO", "PREFIX"))
    if _HOST.fullmatch(host):
        mended["HTTP_HOST"] = host
    if scheme.lower() in {"http", "https"}:
        mended["wsgi.url_scheme"] = scheme.lower()
    prefix = prefix.rstrip("/")
    if _PREFIX.fullmatch(prefix):
        mended["SCRIPT_NAME"] = prefix + str(environ.get("SCRIPT_NAME", ""))
    return mended


def _values(environ: Mapping[str, Any], name: str) -> list[str]:
    given = str(environ.get(f"HTTP_X_FORWARDED_{name}", ""))
    return [part.strip() for part in given.split(",")] if given else []


def _of_first(environ: Mapping[str, Any], name: str, trusted_proxies: int) -> str:
    values = _values(environ, name)
    return values[-min(trusted_proxies, len(values))] if values else ""
