"""The metrics for Prometheus: the levels of the store, and what this process has counted."""

from __future__ import annotations

import hmac

from neoq.dashboard.board import Board
from neoq.dashboard.request import Request
from neoq.dashboard.response import Response


def page(request: Request, board: Board) -> Response:
    """All metrics, for those who may look at every queue."""
    from neoq.metrics import exposition

    request.need_read()
    content_type, body = exposition(board.backend)
    return Response(body, content_type=content_type, kind="metrics")


def knows(request: Request, token: str | None) -> bool:
    """Whether a request has the token for metrics, as Prometheus sends it."""
    scheme, _, given = request.environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    if token is None or request.path != "metrics" or scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), token.encode())
