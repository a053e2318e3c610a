"""The headers of each kind of answer: what a browser may load, run, keep and tell others."""

from __future__ import annotations

from typing import Literal

Kind = Literal["page", "static", "download", "metrics"]

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_ALWAYS = [
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Frame-Options", "DENY"),
]
_NO_STORE = ("Cache-Control", "no-store")
_OF_KIND = {
    "page": [
        ("Content-Security-Policy", _POLICY),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("X-Robots-Tag", "noindex, nofollow"),
        _NO_STORE,
    ],
    "static": [
        ("Content-Security-Policy", "default-src 'none'"),
        ("Cache-Control", "public, max-age=31536000, immutable"),
    ],
    # What a job holds is text to keep, and never a page of this site.
    "download": [
        ("Content-Security-Policy", "default-src 'none'; sandbox"),
        ("Content-Disposition", "attachment"),
        _NO_STORE,
    ],
    "metrics": [("Content-Security-Policy", "default-src 'none'; sandbox"), _NO_STORE],
}


def of(kind: Kind) -> list[tuple[str, str]]:
    """The headers of a kind of answer.

    "page" shows jobs, "download" saves a payload, "metrics" is read by programs. "static" never
    changes under its address, so its address has to contain its version.
    """
    return [*_ALWAYS, *_OF_KIND[kind]]
