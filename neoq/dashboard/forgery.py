"""Whether a request that changes something was sent by a page of the dashboard, and not by another site."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

FIELD = "token"
"""The field of each form with the token."""

_COOKIE = "neoq_token"
_TOKEN = re.compile(r"[A-Za-z0-9_-]{32}")
_SAFE = frozenset({"GET", "HEAD"})
_PORTS = {"http": 80, "https": 443}
_AGAIN = "Open the page of the dashboard anew and try again from there."


def refusal_of(
    environ: Mapping[str, Any], form: Mapping[str, str], cookies: Mapping[str, str] | None = None
) -> str | None:
    """Why a request may be forged, and what to do about it; None for one that may go on.

    Browsers say in Sec-Fetch-Site where a request comes from, but only over https and to localhost. Else they
    send the Origin of the page. What sends neither, or the Origin "null", needs the token of the form, which
    is in a cookie too: another site can read neither.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if environ.get("REQUEST_METHOD") in _SAFE:
        return _refusal_of_look(environ, site)
    if site == "same-origin":
        return None
    if site is not None:
        return f"Another site sent this request (Sec-Fetch-Site: {site!r:.40}), so nothing was done. {_AGAIN}"
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and origin != "null":
        return _refusal_of_origin(environ, origin)
    given = form.get(FIELD, "")
    kept = (cookies_of(environ) if cookies is None else cookies).get(_cookie_of(environ), "")
    if _TOKEN.fullmatch(kept) and hmac.compare_digest(given.encode("utf-8", "replace"), kept.encode()):
        return None
    return f"This request has no valid token, so nothing was done. Cookies must be allowed. {_AGAIN}"


def token_of(environ: Mapping[str, Any]) -> tuple[str, str | None]:
    """The token for the forms of a page, and the value of Set-Cookie if the browser has no token yet."""
    name = _cookie_of(environ)
    kept = cookies_of(environ).get(name, "")
    if _TOKEN.fullmatch(kept):
        return kept, None
    token = secrets.token_urlsafe(24)
    secure = "; Secure" if _is_https(environ) else ""
    return token, f"{name}={token}; Path=/; HttpOnly; SameSite=Strict{secure}"


def cookies_of(environ: Mapping[str, Any]) -> dict[str, str]:
    """The cookies of a request; those of other applications may hold anything."""
    pairs = (part.strip().partition("=") for part in str(environ.get("HTTP_COOKIE", "")).split(";"))
    return {name: value for name, equals, value in pairs if equals}


def _refusal_of_look(environ: Mapping[str, Any], site: str | None) -> str | None:
    """Refuse what another site embeds or fetches; a link to the dashboard is followed."""
    navigates = environ.get("HTTP_SEC_FETCH_MODE", "navigate") == "navigate"
    if site in {"same-site", "cross-site"} and not navigates:
        return "Another site may link to the dashboard, and not load parts of it."
    return None


def _refusal_of_origin(environ: Mapping[str, Any], origin: str) -> str | None:
    host = environ.get("HTTP_HOST", "")
    if _is_same(environ, origin, host):
        return None
    return (
        f"This request was sent by {origin!r:.200} to the host {host!r:.200}, so nothing was done. "
        "If these are one site, a proxy changed the Host: let it pass the Host on, or send X-Forwarded-Host "
        "and set trusted_proxies."
    )


def _is_same(environ: Mapping[str, Any], origin: str, host: str) -> bool:
    """Whether an origin is the host that was asked for; a proxy that ends TLS may stand between."""
    try:
        sender, asked = urlsplit(origin), urlsplit(f"//{host}")
        default = _PORTS[sender.scheme]
        same_port = (sender.port or default) == (asked.port or default)
    except (ValueError, KeyError):
        return False
    if sender.username is not None or asked.username is not None or sender.path or not sender.hostname:
        return False
    if _is_https(environ) and sender.scheme != "https":
        return False
    return sender.hostname == asked.hostname and same_port


def _is_https(environ: Mapping[str, Any]) -> bool:
    return bool(environ.get("wsgi.url_scheme") == "https")


def _cookie_of(environ: Mapping[str, Any]) -> str:
    """The name of the cookie; no other host and no plain http can set one that begins with __Host-."""
    return f"__Host-{_COOKIE}" if _is_https(environ) else _COOKIE
