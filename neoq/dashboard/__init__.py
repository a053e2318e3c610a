"""The dashboard: pages that show a backend and steer it, as a plain WSGI callable. Extra ``dashboard``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from neoq.dashboard.access import RIGHTS, Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from neoq.backend import Backend
    from neoq.dashboard.app import Dashboard
    from neoq.dashboard.mask import Formatter, Names

__all__ = ["RIGHTS", "Access", "wsgi"]


def wsgi(
    backend: Backend,
    *,
    access: Callable[[dict[str, Any]], Any] | None = None,
    title: str = "neoq",
    mask: Names | None = None,
    formatter: Formatter | None = None,
    trusted_proxies: int = 0,
) -> Dashboard:
    """A WSGI application that shows a backend; mount it wherever you serve one.

    ``access(environ)`` says what a request may do: ``"none"``, ``"read"``, a set of "retry", "cancel",
    "delete", "run", "pause", "limit" and "reveal", a mapping of queue names and "*" to these, or an `Access`.
    Without it only this machine may read, and nobody may change anything. ``title`` stands at the top of
    each page. ``mask`` is a pattern, names or a function for more keys whose values are hidden, and
    ``formatter(field, value, job)`` may change what is shown. ``trusted_proxies`` is how many proxies
    in front set X-Forwarded-*.
    """
    try:
        from neoq.dashboard.app import Dashboard
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"jinja2", "markupsafe"}:
            raise
        raise ModuleNotFoundError(
            "neoq.dashboard needs Jinja2, which is not installed: pip install 'neoq[dashboard]'",
            name=error.name,
        ) from None

    return Dashboard(
        backend,
        access=access,
        title=title,
        mask=mask,
        formatter=formatter,
        trusted_proxies=trusted_proxies,
    )
