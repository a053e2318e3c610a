"""Access: who may reach the dashboard, and what they may do there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

RIGHTS = frozenset({"retry", "cancel", "delete", "run", "pause", "limit", "reveal"})
_LOOPBACK = ("127.", "::1", "::ffff:127.")
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}


@dataclass(frozen=True)
class Access:
    """What a request may do, and who makes it."""

    rights: str | Collection[str] | Mapping[str, str | Collection[str]]
    user: str | None = None


@dataclass(frozen=True)
class Granted:
    """What a request may do. ``queue`` None asks about all queues. ``refusal`` says why it may do nothing."""

    user: str | None = None
    refusal: str | None = None
    queues: Mapping[str, frozenset[str] | None] = field(default_factory=dict)  # None: nothing there

    def may_read(self, queue: str | None = None) -> bool:
        """Whether it may look at a queue, or at all of them."""
        return self.refusal is None and self._of(queue) is not None

    def may(self, right: str, queue: str | None = None) -> bool:
        """Whether it may do something to a queue, or to all of them."""
        return self.refusal is None and right in (self._of(queue) or ())

    def _of(self, queue: str | None) -> frozenset[str] | None:
        everywhere = self.queues.get("*")
        return everywhere if queue is None else self.queues.get(queue, everywhere)


def local(rights: Any = "read", user: str | None = None) -> Callable[[dict[str, Any]], Any]:
    """Access for this machine only: to a loopback address, by a name that no web page can take over."""

    def access(environ: dict[str, Any]) -> Any:
        host = environ.get("HTTP_HOST", "").lower().rpartition(":")[0] or environ.get("HTTP_HOST", "")
        here = environ.get("REMOTE_ADDR", "").startswith(_LOOPBACK) and host in _LOCAL_HOSTS
        return Access(rights, user) if here else "none"

    return access


def rights_of(
    environ: dict[str, Any], access: Callable[[dict[str, Any]], Any] | None, trusted_proxies: int
) -> Granted:
    """What a request may do."""
    del trusted_proxies
    answer = (local() if access is None else access)(environ)
    user = environ.get("REMOTE_USER")
    if isinstance(answer, Access):
        user, answer = answer.user or user, answer.rights
    if answer == "none":
        return Granted(user, "Give wsgi(access=...) a function that lets you in.")
    queues = answer if isinstance(answer, Mapping) else {"*": answer}
    return Granted(user, None, {queue: _set_of(rights) for queue, rights in queues.items()})


def _set_of(rights: Any) -> frozenset[str] | None:
    if rights == "none":
        return None
    return frozenset() if rights == "read" else frozenset(rights)
