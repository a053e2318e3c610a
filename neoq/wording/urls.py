"""Advice for URLs that no backend knows: those of other tools, and misspelt ones."""

from __future__ import annotations

import re
from collections.abc import Iterable

BEGINNINGS = "memory://, sqlite:///, postgresql:// or redis://"
_POSTGRES = "postgresql://user:password@host/database"
_REDIS = "redis://host:6379/0"
_SENTINEL = "redis+sentinel://host:26379/mymaster"
_SOCKET = "redis+unix:///run/redis.sock?db=0"
_FILE = "sqlite:///jobs.db, or sqlite:////var/lib/jobs.db for an absolute path"

_MEANT = {
    **dict.fromkeys(
        "postgis pgsql psql pg cockroachdb timescale timescaledb timescalegis postgresqls".split(), _POSTGRES
    ),
    **dict.fromkeys("valkey keydb dragonfly dragonflydb redis+tcp tcp".split(), _REDIS),
    **dict.fromkeys(
        "valkeys redis+ssl redis+tls redis-ssl redis+rediss keydbs".split(), "rediss://host:6379/0"
    ),
    **dict.fromkeys(
        "unix redis+socket socket redis-socket valkey+unix redis+uds unix+redis redis-unix".split(), _SOCKET
    ),
    **dict.fromkeys("sentinel redis-sentinel redissentinel valkey+sentinel".split(), _SENTINEL),
    **dict.fromkeys("rediscluster redis-cluster cluster valkey+cluster".split(), "redis+cluster://host:6379"),
    **dict.fromkeys("sqlite3 file sqlite+pysqlite spatialite sql".split(), _FILE),
    **dict.fromkeys("mem inmemory in-memory local".split(), "memory://"),
}
_NO_STORE = frozenset(
    """mysql mariadb amqp amqps rabbitmq mongodb mongodb+srv kafka sqs nats oracle mssql sqlserver http https
    memcached memcache beanstalk beanstalkd pulsar ws wss""".split()
)
_WORDS = {
    **_MEANT,
    "memory": "memory://",
    "redis": _REDIS,
    "rediss": "rediss://host:6379/0",
    "sqlite": _FILE,
    "postgresql": _POSTGRES,
    "postgres": _POSTGRES,
}


def advice(url: str, schemes: Iterable[str]) -> str:
    """The problem with a URL that has none of these schemes. It never repeats a password."""
    if not url:
        return f"the URL is empty; it must begin with {BEGINNINGS}. To keep jobs in memory write memory://"
    if url[0] in "'\"`<" or url[-1] in "'\"`>":
        return "the URL is in quotes; write it without them"
    scheme, separator, _ = url.partition("://")
    if separator and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,30}", scheme):
        return _of_scheme(scheme.lower(), schemes)
    return f"the URL does not begin with the scheme of a backend{_without_scheme(url)}"


def _of_scheme(scheme: str, schemes: Iterable[str]) -> str:
    meant = _MEANT.get(scheme) or _of_driver(scheme)
    start = f"no backend has the URL scheme {scheme}://"
    if meant is not None:
        return f"{start}; did you mean {meant.partition('://')[0]}://...? Write {meant}"
    if scheme.partition("+")[0] in _NO_STORE:
        return f"{start}; jobs are kept in memory, in a SQLite file, in Postgres or in Redis: {BEGINNINGS}"
    from neoq.wording.remedies import nearest

    near = nearest(scheme, schemes)
    return f"{start}; {f'did you mean {near}://...? A URL' if near else 'a URL'} begins with {BEGINNINGS}"


def _of_driver(scheme: str) -> str | None:
    """The equivalent of an SQLAlchemy URL, which names a driver."""
    database = scheme.partition("+")[0]
    if "+" not in scheme or database in {"redis", "rediss"}:
        return None
    return {"postgresql": _POSTGRES, "postgres": _POSTGRES, "sqlite": _FILE}.get(database)


def _without_scheme(url: str) -> str:
    word = re.match(r"[A-Za-z0-9+]*", url)
    begins = word[0].lower() if word else ""
    plain = len(url) <= 200 and "@" not in url and url.isprintable()
    if "dbname=" in url or "host=" in url:
        return "; pass a libpq connection string to PostgresBackend(...), or write a URL: " + _POSTGRES
    if re.fullmatch(r"file:.*|.*(\.db|\.sqlite3?|\.db3)", url, re.IGNORECASE | re.DOTALL):
        path = url.removeprefix("file:")
        file = f"sqlite:///{path}" if plain and "?" not in path else _FILE
        return f"; for a file write {file} (to keep jobs in memory, memory://)"
    if re.fullmatch(r"[\w.-]+:6379(/\d+)?", url):
        return f"; write redis://{url}"
    if re.fullmatch(r"[\w.-]+:26379", url):
        return f"; write {_SENTINEL}"
    if re.fullmatch(r"[\w.-]+:(5432|6432)(/\w*)?", url):
        return f"; write {_POSTGRES}"
    meant = _WORDS.get(begins)
    return f"; write {meant} (a URL begins with {BEGINNINGS})" if meant else f"; write {BEGINNINGS}"
