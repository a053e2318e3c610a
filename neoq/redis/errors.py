"""The errors of redis-py and of the server, and our errors for them."""

from __future__ import annotations

import redis

from neoq.errors import BackendError, BackendUnavailable
from neoq.redis.address import Address
from neoq.wording.redact import Hider

DRIVER_ERRORS = (
    redis.RedisError,
    redis.exceptions.RedisClusterException,
)  # neither is a subclass of the other
_FULL = "command not allowed when used memory"  # redis-py cuts off the code before it
_NOT_ALLOWED = (
    "NOPERM",
    "ACL failure in script",
    "The user executing the script",
)  # newer servers, older servers
_NOT_NOW = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS")


def has_broken(error: BackendError) -> bool:
    """Whether a connection broke. The command may have run, and may succeed on another connection."""
    return connection_broke(error.__cause__)


def connection_broke(error: BaseException | None) -> bool:
    """As `has_broken`, for an error of the driver."""
    return (
        isinstance(error, (redis.ConnectionError, OSError))
        and not isinstance(error, (redis.TimeoutError, redis.AuthenticationError))
        and "connecting to" not in str(error)
    )


def is_full(error: BackendError) -> bool:
    """Whether the server refused a write because its memory is full."""
    return _FULL in str(error.__cause__)


def wrapped(error: Exception, at: Address, hider: Hider, *, connecting: bool = False) -> BackendError:
    """One of our errors for one of the driver's, which is its cause."""
    hider.error(error)
    text = hider.text(str(error)).partition(" : <")[0]  # then the driver shows its own objects
    if isinstance(error, redis.exceptions.NoPermissionError) or text.startswith(_NOT_ALLOWED):
        problem: BackendError = BackendUnavailable(
            f"Redis at {at} does not let our user do this: {text}; give it the rights of a producer or a "
            'worker (ACL SETUSER; docs/redis.md has them under "A user with few rights")'
        )
    elif isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        problem = BackendUnavailable(
            f"Redis at {at} refuses us: {text}; check user and password in the URL "
            "(redis://user:password@host)"
        )
    elif _FULL in text:
        problem = BackendUnavailable(
            f"Redis at {at} is full (maxmemory); nothing of this was stored. Give it more memory, or "
            f"keep finished jobs for a shorter time (retention): {text}"
        )
    elif text.startswith(_NOT_NOW) or isinstance(
        error,
        (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError, redis.exceptions.AskError),
    ):
        replica = isinstance(error, redis.exceptions.ReadOnlyError)
        advice = "; it is a replica, so connect to its primary" if replica else ""
        problem = BackendUnavailable(f"Redis at {at} takes no jobs at the moment: {text}{advice}")
    elif isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
        unknown = not connecting and "connecting to" not in text
        problem = BackendUnavailable(
            f"cannot reach Redis at {at}: {text}; {_advice(text)}",
            outcome_unknown=unknown,
        )
    elif isinstance(error, redis.exceptions.RedisClusterException):
        problem = BackendUnavailable(
            f"cannot reach the cluster at {at}: {text}; {_advice(text)}", outcome_unknown=not connecting
        )
    else:
        problem = BackendError(f"Redis at {at}: {text}")
    problem.__cause__ = error
    return problem


def _advice(text: str) -> str:
    """What to do about a server that cannot be reached."""
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return (
            "its certificate is signed by nobody whom this machine trusts, or is another host's: see tls_ca "
            "and tls_verify"
        )
    if "SSL" in text or "ssl" in text:
        return "does it speak TLS there? Without it the URL begins with redis://, not rediss://"
    return "is it running, and is the URL right?"
