"""Headers: what every answer says to the browser about what it may do with it."""

from __future__ import annotations

from typing import Literal

Kind = Literal["page", "static", "download", "metrics"]

_ALWAYS = [("X-Content-Type-Options", "nosniff"), ("Referrer-Policy", "same-origin")]


def of(kind: Kind) -> list[tuple[str, str]]:
    """The headers for a kind of answer."""
    if kind == "static":
        return [*_ALWAYS, ("Cache-Control", "public, max-age=31536000, immutable")]
    return [*_ALWAYS, ("Cache-Control", "no-store")]
