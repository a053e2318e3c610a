"""Where the jobs are: what the URL of a Redis server says."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from neoq.wording.redact import misread

SCHEMES: tuple[str, ...] = (
    *("redis", "redis+unix", "redis+sentinel", "redis+cluster"),
    *("rediss", "rediss+sentinel", "rediss+cluster"),
)
_PORTS = {"sentinel": 26379}


@dataclass(frozen=True)
class Address:
    """Where a URL says that the jobs are."""

    kind: str = ""  # "", "unix", "sentinel" or "cluster"
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL; ValueError says what it should be, and never repeats a password."""
        if problem := misread(url):
            raise ValueError(problem)
        parts = _split(url)
        scheme, _, kind = parts.scheme.partition("+")
        if parts.scheme not in SCHEMES:
            raise ValueError(f"it begins with one of {', '.join(f'{name}://' for name in SCHEMES)}")
        if parts.fragment:
            raise ValueError("it takes no fragment; write a # in a password as %23")
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        address = {
            "kind": kind,
            "username": unquote(username) or None,
            "password": unquote(password) or None,
            "tls": scheme == "rediss",
        }
        if kind == "unix":
            if hosts or not parts.path:
                raise ValueError("it names a socket by its path: redis+unix:///run/redis.sock")
            return cls(**address, path=unquote(parts.path))  # type: ignore[arg-type]
        path = [unquote(part) for part in parts.path.split("/") if part]
        servers = tuple(_host(text, _PORTS.get(kind, 6379)) for text in hosts.split(",") if text)
        service = ""
        if kind == "sentinel":
            if not path or not servers:
                raise ValueError("it names the sentinels and a service: redis+sentinel://host:26379/mymaster")
            service = path.pop(0)
        db = path.pop(0) if path else "0"
        if path or (kind == "cluster" and db != "0"):
            raise ValueError("after the hosts comes at most the number of a database (none in a cluster)")
        servers = servers or (("localhost", 6379),)
        if kind not in {"sentinel", "cluster"} and len(servers) > 1:
            raise ValueError("several hosts need redis+sentinel:// or redis+cluster://")
        return cls(**address, hosts=servers, service=service, db=_db(db))  # type: ignore[arg-type]

    def __str__(self) -> str:
        hosts = ", ".join(f"{host}:{port}" for host, port in self.hosts)
        return self.path or (f"{self.service} of {hosts}" if self.service else hosts)


def _db(text: str) -> int:
    if not text.isdigit():
        raise ValueError("a database is a number: redis://localhost:6379/0")
    return int(text)


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:  # its words may repeat a password
        pass
    raise ValueError(
        "it cannot be read; only an IPv6 address stands in brackets, elsewhere write %5B and %5D"
    )


def _host(text: str, default: int) -> tuple[str, int]:
    parts = _split(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing: redis://localhost:6379")
    try:
        return parts.hostname, parts.port or default
    except ValueError:  # its words may repeat a password
        pass
    raise ValueError(
        "a port is a number: redis://localhost:6379; a password is followed by an @ and the host: "
        "redis://user:password@localhost:6379"
    )
