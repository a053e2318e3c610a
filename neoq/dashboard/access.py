"""Who may look at the dashboard, and what each may do: the answer to every request is found here."""

from __future__ import annotations

import base64
import hmac
import ipaddress
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from neoq.dashboard.proxies import behind

RIGHTS = frozenset({"retry", "cancel", "delete", "run", "pause", "limit", "reveal"})
"""All that a user of the dashboard may be allowed to do, beside reading."""

_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_FORWARDED = ("FORWARDED", "VIA", "X_FORWARDED_FOR", "X_FORWARDED_HOST", "X_REAL_IP")
_REFUSED = "You may not see this dashboard: its access= says so."
_MAX_USER = 100  # characters
_TAKES = (
    'it returns "none", "read", a set of rights, a mapping of queue names (and "*") to these, or an Access'
)
_log = logging.getLogger("neoq.dashboard")

Environ = dict[str, Any]


@dataclass(frozen=True)
class Access:
    """What a user may do, and the name of the user for the record of actions.

    ``rights`` is "none", "read", a set of rights (retry, cancel, delete, run, pause, limit, reveal), which
    includes reading, or a mapping of queue names and "*" (every other queue) to these.
    """

    rights: Any
    user: str | None = None


@dataclass(frozen=True)
class Granted:
    """What the sender of one request may do. None in place of a set of rights: not even read."""

    user: str | None = None
    others: frozenset[str] | None = None  # on the queues that are not named
    queues: Mapping[str, frozenset[str] | None] = field(default_factory=dict)
    refusal: str | None = None  # why the sender may see nothing
    challenge: str | None = None  # what a refusal asks a browser for: the value of WWW-Authenticate
    reply: Callable[..., Any] | None = None  # a WSGI application that answers in place of a refusal

    def _of(self, queue: str) -> frozenset[str] | None:
        return self.queues.get(queue, self.others)

    def may_read(self, queue: str | None = None) -> bool:
        """Whether the sender may see a queue and its jobs; without a queue: every queue."""
        if queue is not None:
            return self._of(queue) is not None
        return self.others is not None and None not in self.queues.values()

    @property
    def sees_something(self) -> bool:
        """Whether there may be a queue that the sender may see."""
        return self.others is not None or any(rights is not None for rights in self.queues.values())

    def may(self, right: str, queue: str | None = None) -> bool:
        """Whether the sender has a right on a queue; without a queue: on every queue."""
        if queue is not None:
            return right in (self._of(queue) or ())
        return all(right in (rights or ()) for rights in (self.others, *self.queues.values()))

    def may_somewhere(self, right: str) -> bool:
        """Whether the sender has a right on some queue, so that a page offers it."""
        return any(right in (rights or ()) for rights in (self.others, *self.queues.values()))

    def readable(self, queues: Iterable[str]) -> list[str]:
        """The queues among these that the sender may see."""
        return [queue for queue in queues if self.may_read(queue)]


class Loopback:
    """Lets in this machine only: a request from a loopback address that also asks for a local host.

    A page of another site that rebinds its name to 127.0.0.1 comes with its own name as the Host, and a
    request that a proxy passes on comes with the proxy's headers or by HTTP/1.0: both are refused.
    """

    def __init__(self, rights: Collection[str] = (), user: str | None = None) -> None:
        self.rights = frozenset(rights)
        self.user = user

    def __call__(self, environ: Environ) -> Access:
        """The rights of a local request, and "none" for any other."""
        return Access(self.rights if self.refusal_of(environ) is None else "none", self.user)

    def refusal_of(self, environ: Environ) -> str | None:
        """Why a request is refused, and what to do about it; None for a local one."""
        address, host = environ.get("REMOTE_ADDR", ""), environ.get("HTTP_HOST", "")
        passed_on = [name for name in _FORWARDED if f"HTTP_{name}" in environ]
        if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":  # no browser speaks it, and nginx does by default
            passed_on.append("HTTP/1.0")
        if _is_loopback(address) and _without_port(host) in _LOCAL_HOSTS and not passed_on:
            return None
        came = f"from {address or 'an unknown address'} for the host {host or 'without a name'}"
        through = f", through a proxy ({passed_on[0].replace('_', '-').title()})" if passed_on else ""
        return (
            f"Without access= the dashboard answers this machine only, as localhost, 127.0.0.1 or [::1]. "
            f"This request came {came}{through}. Pass access= to let others in: a function of the request "
            f"that says what its sender may do. The command takes --host with --password-file."
        )


class Password:
    """Lets in who knows one password, by HTTP's basic authentication; the user name is for the record."""

    challenge = 'Basic realm="neoq", charset="UTF-8"'

    def __init__(self, password: str, rights: Collection[str] = ()) -> None:
        if not password:
            raise ValueError("the password of the dashboard is empty, so that everybody would know it")
        self._password = password.encode()
        self.rights = frozenset(rights)

    def __call__(self, environ: Environ) -> Access:
        """The rights of a request with the password, and "none" for any other."""
        scheme, _, encoded = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
        if scheme.lower() != "basic":
            return Access("none")
        try:
            user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        except ValueError:
            return Access("none")
        if not hmac.compare_digest(password, self._password):
            return Access("none")
        return Access(self.rights, user.decode("utf-8", "replace") or None)

    def refusal_of(self, environ: Environ) -> str | None:  # noqa: ARG002
        """What a request without the password is answered."""
        return "This dashboard asks for its password."


def rights_of(
    environ: Environ, access: Callable[[Environ], Any] | None = None, trusted_proxies: int = 0
) -> Granted:
    """What the sender of a request may do, by an ``access`` function; without one this machine may read.

    A function that raises, or returns something else than it may, lets nobody in; the log says why. It may
    also return a WSGI application, such as a redirect to a login, which then answers the request.
    """
    environ = behind(environ, trusted_proxies)
    asked = Loopback() if access is None else access
    try:
        answer = asked(environ)
    except Exception as error:
        if callable(error):  # as the HTTP errors of Werkzeug are
            return Granted(refusal=_REFUSED, reply=error)
        _log.exception("access= of the dashboard raised for %s, which is refused", _place(environ))
        return Granted(refusal="The access= of this dashboard failed, so nobody is let in; see the log.")
    if callable(answer):
        return Granted(refusal=_REFUSED, reply=answer)
    try:
        granted = _granted(answer, environ)
    except ValueError as error:
        _log.error("access= of the dashboard returned %s for %s, which is refused", error, _place(environ))
        return Granted(
            refusal="The access= of this dashboard cannot be used, so nobody is let in; see the log."
        )
    if granted.sees_something:
        return granted
    refusal_of = getattr(asked, "refusal_of", None)
    refusal = refusal_of(environ) if callable(refusal_of) else None
    return Granted(
        user=granted.user, refusal=refusal or _REFUSED, challenge=getattr(asked, "challenge", None)
    )


def _granted(answer: Any, environ: Environ) -> Granted:
    rights, user = (answer.rights, answer.user) if isinstance(answer, Access) else (answer, None)
    user = _user_of(user or environ.get("REMOTE_USER"))
    if not isinstance(rights, Mapping):
        return Granted(user, _rights(rights))
    queues = {str(queue): _rights(its) for queue, its in rights.items()}
    others = queues.pop("*", None)
    return Granted(user, others, queues)


def _rights(given: Any) -> frozenset[str] | None:
    if given == "none":
        return None
    if given == "read":
        return frozenset()
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Collection):
        raise ValueError(f"{given!r:.80}; {_TAKES}")
    rights = [one for one in given if one != "read"]
    if unknown := ", ".join(
        f"{one!r:.40}" for one in rights if not isinstance(one, str) or one not in RIGHTS
    ):
        raise ValueError(f"the right {unknown}; there are {', '.join(sorted(RIGHTS))}")
    return frozenset(rights)


def _user_of(user: Any) -> str | None:
    """The name of a user as one line of text."""
    if user is None or user == "":
        return None
    text = str(user).encode("utf-8", "replace").decode()
    return "".join(one if one.isprintable() else "?" for one in text[:_MAX_USER])


def _is_loopback(address: str) -> bool:
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback


def _without_port(host: str) -> str:
    name, colon, port = host.strip().lower().rpartition(":")
    return name if colon and (port.isdigit() or not port) and not name.endswith(":") else host.strip().lower()


def _place(environ: Environ) -> str:
    """The request, for the log: its method and path, without the query."""
    path = str(environ.get("SCRIPT_NAME", "")) + str(environ.get("PATH_INFO", ""))
    return f"{str(environ.get('REQUEST_METHOD', ''))[:10]!r} {path[:200]!r}"
