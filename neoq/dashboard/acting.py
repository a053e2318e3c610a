"""Acting: who changes something in the dashboard, for the entries of `Backend.audit`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from neoq import audit

if TYPE_CHECKING:
    from neoq.dashboard.request import Request
    from neoq.store import Store

VIA = "dashboard"
_UNKNOWN = "somebody"  # where access= names no user


def acting(request: Request) -> AbstractContextManager[None]:
    """Let each operation in the block leave an entry that names who asked for it."""
    return audit.acting_as(request.granted.user or _UNKNOWN, via=VIA)


@contextmanager
def recorded(
    request: Request, store: Store, action: str, *, queue: str | None = None, what: str = ""
) -> Iterator[audit.Deed]:
    """Let all that the block does leave one entry, of the count that it sets."""
    with acting(request), audit.recorded(store, action, queue=queue, what=what) as deed:
        yield deed
