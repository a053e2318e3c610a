"""Forgery: whether a POST comes from a page of the dashboard, and not from another site."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

COOKIE = "neoq_token"
FIELD = "token"


def refusal_of(environ: dict[str, Any], form: Mapping[str, str], cookies: Mapping[str, str]) -> str | None:
    """Why a POST is refused; None where it is not."""
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site is not None:
        return None if site == "same-origin" else "the request came from another site"
    if form.get(FIELD) and form.get(FIELD) == cookies.get(COOKIE):
        return None
    return "the form has no valid token; load the page again"


def token_of(environ: dict[str, Any]) -> tuple[str, str | None]:
    """The token for the forms of a page, and the cookie to set with it unless the browser has it."""
    del environ
    token = secrets.token_urlsafe(24)
    return token, f"{COOKIE}={token}; HttpOnly; SameSite=Strict"
