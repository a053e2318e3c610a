"""One Redis server, or what stands for one, as one process uses it: addresses, scripts, errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from neoq.errors import BackendError, BackendUnavailable, ConfigError
from neoq.redis_scripts import Script, Scripts

if TYPE_CHECKING:
    from neoq.config import SafeLogger

Call = tuple[Script, Sequence[bytes], Sequence[Any]]

SCHEMES = ("redis", "rediss", "redis+unix", *("redis+sentinel", "rediss+sentinel"), "redis+cluster")
SCHEMES += ("rediss+cluster",)
_OLDEST = (6, 2)
_PORTS = {"sentinel": 26379}
_NOT_NOW = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS")


@dataclass(frozen=True)
class Address:
    """Where a URL says that the jobs are."""

    kind: str = ""  # "", "unix", "sentinel" or "cluster"
    hosts: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> Address:
        """Read a URL; ValueError says what it should be, and never repeats a password."""
        parts = urlsplit(url)
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
            query = dict(parse_qsl(parts.query))
            return cls(**address, path=unquote(parts.path), db=_db(query.get("db", "0")))  # type: ignore[arg-type]
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


def _host(text: str, default: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError("a host is missing: redis://localhost:6379")
    return parts.hostname, parts.port or default  # .port raises ValueError for what is none


class RedisConnection:
    """Scripts and commands for one address; safe to use from many threads, and opened anew after a fork."""

    def __init__(
        self,
        address: Address,
        *,
        socket_timeout: float,
        wait_replicas: int,
        tls: dict[str, Any],
        log: SafeLogger,
    ) -> None:
        self.address = address
        self.cluster = address.kind == "cluster"
        self.broken = 0  # how often a connection broke
        self.broke_at = time.monotonic()
        self._timeout = socket_timeout
        self._wait = wait_replicas
        self._tls = tls
        self._log = log
        self._lock = threading.Lock()
        self._client: Any = None
        self.scripts: Scripts

    # -- open and close ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and look whether this server may keep jobs."""
        try:
            self._client = self.new_client()
            info = self._info()
        except redis.RedisError as error:
            self.close()
            raise self.wrapped(error, connecting=True) from error
        except OSError as error:
            self.close()
            raise BackendUnavailable(f"cannot reach Redis at {self.address}: {error}") from error
        try:
            self._check(info)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close what is open."""
        client, self._client = self._client, None
        if client is not None:
            try:
                client.close()
            except (redis.RedisError, OSError):
                pass

    def new_client(self) -> Any:
        """A client of redis-py that repeats nothing by itself: what may be repeated, only we know."""
        address = self.address
        options: dict[str, Any] = {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "socket_keepalive": True,
            "username": address.username,
            "password": address.password,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
        }
        if address.tls:
            options |= {"ssl": True, **self._tls}
        if address.kind == "unix":
            for name in ("socket_connect_timeout", "socket_keepalive"):
                options.pop(name)
            return redis.Redis(unix_socket_path=address.path, db=address.db, **options)
        if address.kind == "sentinel":
            return self._through_sentinel(options)
        if address.kind == "cluster":
            return self._of_cluster(options)
        host, port = address.hosts[0]
        return redis.Redis(host=host, port=port, db=address.db, **options)

    def _through_sentinel(self, options: dict[str, Any]) -> Any:
        from redis.sentinel import Sentinel

        ours = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout", "protocol")}
        sentinel = Sentinel(self.address.hosts, sentinel_kwargs=ours)
        return sentinel.master_for(self.address.service, db=self.address.db, **options)

    def _of_cluster(self, options: dict[str, Any]) -> Any:
        from redis.cluster import ClusterNode, RedisCluster

        options.pop("retry_on_error")
        nodes = [ClusterNode(host, port) for host, port in self.address.hosts]
        return RedisCluster(startup_nodes=nodes, **options)

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for section in ("server", "memory", "persistence"):
            found = self._client.info(section)
            if self.cluster and found and all(isinstance(value, dict) for value in found.values()):
                found = next(iter(found.values()))
            info |= found
        return info

    def _check(self, info: dict[str, Any]) -> None:
        text = str(info.get("redis_version", ""))
        version = tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
        if version < _OLDEST:
            raise BackendError(
                f"the server at {self.address} is Redis {text}; jobs need 6.2 or newer, or Valkey 7.2 or newer"
            )
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy != "noeviction":
            raise ConfigError(
                [
                    f"the server at {self.address} evicts keys when it is full (maxmemory-policy {policy}), and "
                    "jobs with them; set maxmemory-policy noeviction there, or keep jobs in a server of their own"
                ]
            )
        if not info.get("aof_enabled"):
            self._log.warning(
                "the server at %s keeps no append-only file: when it stops, jobs accepted since its last "
                "snapshot are lost; set appendonly yes there",
                self.address,
            )
        self.scripts = Scripts(version)

    # -- calls ------------------------------------------------------------------------------------------

    def call(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any], *, again: bool = True
    ) -> Any:
        """Run a script. ``again``: once more where the connection broke, for it is safe to."""
        try:
            return self._evaluate(script, keys, arguments)
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            self._broke()
            if not again or isinstance(error, (redis.TimeoutError, redis.AuthenticationError)):
                raise self.wrapped(error) from error
        except redis.RedisError as error:
            raise self.wrapped(error) from error
        try:
            return self._evaluate(script, keys, arguments)
        except (redis.RedisError, OSError) as error:
            self._broke()
            raise self.wrapped(error) from error

    def _evaluate(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        try:
            return self._open_client().execute_command("EVALSHA", script.digest, len(keys), *keys, *arguments)
        except redis.exceptions.NoScriptError:
            return self._client.execute_command("EVAL", script.text, len(keys), *keys, *arguments)

    def _open_client(self) -> Any:
        if self._client is None:
            raise BackendUnavailable("the connection to Redis is closed")
        return self._client

    def call_many(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts in one round trip, each by itself; the first error of any is raised at the end."""
        if len(calls) == 1 or self.cluster:
            return [self.call(*call) for call in calls]
        for last in (False, True):
            try:
                return self._pipeline(calls)
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                self._broke()
                if last or isinstance(error, redis.TimeoutError):
                    raise self.wrapped(error) from error
            except redis.RedisError as error:
                raise self.wrapped(error) from error
        raise AssertionError

    def _pipeline(self, calls: Sequence[Call]) -> list[Any]:
        pipeline = self._open_client().pipeline(transaction=False)
        for script, keys, arguments in calls:
            pipeline.execute_command("EVALSHA", script.digest, len(keys), *keys, *arguments)
        replies = pipeline.execute(raise_on_error=False)
        failed: Exception | None = None
        for place, reply in enumerate(replies):
            if isinstance(reply, redis.exceptions.NoScriptError):
                replies[place] = self._evaluate(*calls[place])
            elif isinstance(reply, Exception):
                failed = failed or reply
        if failed is not None:
            raise failed
        return list(replies)

    def command(self, *arguments: Any) -> Any:
        """Run one command that only reads, or that is safe to repeat."""
        return self.commands([arguments])[0]

    def commands(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """Run commands that only read, or that are safe to repeat, in one round trip."""
        for last in (False, True):
            try:
                if len(commands) == 1 or self.cluster:
                    return [self._open_client().execute_command(*command) for command in commands]
                pipeline = self._open_client().pipeline(transaction=False)
                for command in commands:
                    pipeline.execute_command(*command)
                return list(pipeline.execute())
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                self._broke()
                if last or isinstance(error, redis.TimeoutError):
                    raise self.wrapped(error) from error
            except redis.RedisError as error:
                raise self.wrapped(error) from error
        raise AssertionError

    def call_and_wait(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """As `call`; returns once so many replicas have it as ``wait_replicas`` says."""
        if not self._wait:
            return self.call(script, keys, arguments)
        self.call(script, keys, arguments)  # safe to say twice; the second call waits for the first's effects
        client = self._open_client()
        try:
            if self.cluster:
                client = client.get_redis_connection(client.get_node_from_key(keys[0]))
            pipeline = client.pipeline(transaction=False)
            pipeline.execute_command("EVALSHA", script.digest, len(keys), *keys, *arguments)
            pipeline.execute_command("WAIT", self._wait, int(self._timeout * 500))
            reply, confirmed = pipeline.execute()
        except (redis.RedisError, OSError) as error:
            self._broke()
            raise self.wrapped(error) from error
        if confirmed < self._wait:
            raise BackendUnavailable(
                f"the jobs are stored, but {confirmed} replicas have confirmed it, not {self._wait} (wait_replicas)",
                outcome_unknown=True,
            )
        return reply

    # -- errors -----------------------------------------------------------------------------------------

    def _broke(self) -> None:
        with self._lock:
            self.broken += 1
            self.broke_at = time.monotonic()

    def wrapped(self, error: Exception, *, connecting: bool = False) -> BackendError:
        """One of our errors for one of the driver's, which is its cause."""
        text = str(error)
        at = self.address
        if isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
            wrapped: BackendError = BackendUnavailable(
                f"Redis at {at} refuses us: {text}; check user and password in the URL "
                "(redis://user:password@host), and what the user may do"
            )
        elif "OOM command" in text:
            wrapped = BackendUnavailable(
                f"Redis at {at} is full (maxmemory); nothing of this was stored. Give it more memory, or keep "
                "finished jobs for a shorter time (retention)"
            )
        elif text.startswith(_NOT_NOW) or isinstance(
            error, (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError)
        ):
            wrapped = BackendUnavailable(f"Redis at {at} takes no jobs at the moment: {text}")
        elif isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
            unknown = not connecting and "connecting to" not in text
            wrapped = BackendUnavailable(
                f"cannot reach Redis at {at}: {text}; is it running, and is the URL right?",
                outcome_unknown=unknown,
            )
        elif isinstance(error, redis.exceptions.RedisClusterException):
            wrapped = BackendUnavailable(
                f"cannot reach the cluster at {at}: {text}", outcome_unknown=not connecting
            )
        else:
            wrapped = BackendError(f"Redis at {at}: {text}")
        wrapped.__cause__ = error
        return wrapped
