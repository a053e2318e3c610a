"""The dashboard inside of an application of a framework: its part of the request."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any


def at(environ: Mapping[str, Any], mount: str, page: str, body: bytes) -> dict[str, Any]:
    """The environ of a request for a page below a mount.

    ``mount`` is the path of the mount within the application, and ``body`` what was sent, which a framework
    may have read already.
    """
    return {
        **environ,
        "SCRIPT_NAME": str(environ.get("SCRIPT_NAME", "")) + _as_wsgi(mount),
        "PATH_INFO": "/" + _as_wsgi(page),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
    }


def _as_wsgi(text: str) -> str:
    return text.encode("utf-8", "replace").decode("latin-1")
