"""The dashboard: pages that show a backend and steer it, as a plain WSGI callable. Extra ``dashboard``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neoq.dashboard.access import Access

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from neoq.backend import Backend
    from neoq.dashboard.app import Dashboard

__all__ = ["Access", "wsgi"]


def wsgi(
    backend: Backend,
    *,
    access: Callable[[dict[str, Any]], Any] | None = None,
    title: str = "neoq",
    mask: Iterable[str] | None = None,
    formatter: Callable[[Any], Any] | None = None,
    trusted_proxies: int = 0,
) -> Dashboard:
    """A WSGI application that shows a backend; mount it wherever you serve one.

    ``access(environ)`` says what a request may do: ``"none"``, ``"read"``, a set of "retry", "cancel",
    "delete", "run", "pause", "limit" and "reveal", a mapping of queue names and "*" to these, or an `Access`.
    Without it only this machine may read, and nobody may change anything. ``title`` stands at the top of
    each page. ``mask`` names more keys whose values are hidden, and ``formatter`` may change what is shown
    of a payload, a result or meta. ``trusted_proxies`` is how many proxies in front set X-Forwarded-*.
    """
    from neoq.dashboard.app import Dashboard

    return Dashboard(
        backend,
        access=access,
        title=title,
        mask=mask,
        formatter=formatter,
        trusted_proxies=trusted_proxies,
    )
