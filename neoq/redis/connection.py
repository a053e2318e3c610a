"""One Redis server, or what stands for one, as one process uses it: addresses, scripts, errors."""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from neoq.clock import machine
from neoq.errors import BackendError, BackendUnavailable, ConfigError
from neoq.redact import Hider, misread
from neoq.redis.scripts import Script, Scripts
from neoq.redis.wire import PACKS, Beginning, Wire, wire_of

if TYPE_CHECKING:
    from neoq.config import SafeLogger

Call = tuple[Script, Sequence[bytes], Sequence[Any]]

SCHEMES: tuple[str, ...] = (
    *("redis", "redis+unix", "redis+sentinel", "redis+cluster"),
    *("rediss", "rediss+sentinel", "rediss+cluster"),
)
DRIVER_ERRORS = (redis.RedisError, redis.exceptions.RedisClusterException)  # one is no kind of the other
_OLDEST = (6, 2)
_OLD_POOL = "command_name" in inspect.signature(redis.ConnectionPool.get_connection).parameters and (
    inspect.signature(redis.ConnectionPool.get_connection).parameters["command_name"].default
    is inspect.Parameter.empty
)
_FULL = "command not allowed when used memory"  # redis-py cuts off the code before it
_PORTS = {"sentinel": 26379}
_CONNECTIONS = 2**31 - 1  # that there may be, for there may be as many threads
_MOVES = 3  # attempts to find the node that has a key, while a cluster moves it
_NOT_ALLOWED = ("NOPERM", "ACL failure in script", "The user executing the script")  # of newer, older servers
_LOOKS = ("EVALSHA_RO", "EVAL_RO")
_NOT_NOW = ("LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS")


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


def has_broken(error: BackendError) -> bool:
    """Whether a connection broke, so that another one may do; what was asked on it may have happened."""
    return _has_broken(error.__cause__)


def _has_broken(error: BaseException | None) -> bool:
    return (
        isinstance(error, (redis.ConnectionError, OSError))
        and not isinstance(error, (redis.TimeoutError, redis.AuthenticationError))
        and "connecting to" not in str(error)
    )


def is_full(error: BackendError) -> bool:
    """Whether the server refused for want of memory."""
    return _FULL in str(error.__cause__)


def _evalsha(script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Sequence[Any]:
    return ("EVALSHA", script.digest, len(keys), *keys, *arguments)


def _eval(script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Sequence[Any]:
    return ("EVAL", script.text, len(keys), *keys, *arguments)


def _looking(command: Sequence[Any]) -> Sequence[Any]:
    """The same script, as a user may run it who may not write."""
    return (f"{command[0]}_RO", *command[1:])


def _knowing_looks(client: Any) -> Any:
    """A client of a cluster that finds the node for `_looking` by itself.

    Of other scripts redis-py knows the keys; of these it would ask the cluster for them at each call.
    """
    slot_of = client.determine_slot

    def slot(*command: Any) -> Any:
        return client.keyslot(command[3]) if command[0] in _LOOKS else slot_of(*command)

    client.determine_slot = slot
    return client


def _knows_no_looking(reply: Any) -> bool:
    """Whether the server refuses `_looking`: it is older, or this user may run scripts the other way only."""
    return (
        isinstance(reply, redis.ResponseError)
        and "eval" in (text := str(reply).lower())
        and (
            "unknown command" in text
            or (isinstance(reply, redis.exceptions.NoPermissionError) and "_ro'" in text)
        )
    )


def _unknown(reply: Any) -> bool:
    return isinstance(reply, redis.exceptions.NoScriptError)


def _moved(reply: Any) -> bool:
    """Whether a key is on another node of its cluster than we thought, or on its way there."""
    return isinstance(reply, redis.exceptions.AskError)


def _connection_of_pool(pool: Any) -> Any:
    try:
        return pool.get_connection("_") if _OLD_POOL else pool.get_connection()
    except BaseException:  # also an interrupt: the pool would pass on what was still to be answered
        pool.disconnect(inuse_connections=False)
        raise


def _hang_up(cluster: Any) -> None:
    """Close those connections of a cluster's client that nobody uses: an answer may still come on them."""
    for node in cluster.get_nodes():
        if node.redis_connection is not None:
            node.redis_connection.connection_pool.disconnect(inuse_connections=False)


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


class RedisConnection:
    """Scripts and commands for one address; safe to use from many threads, and opened anew after a fork."""

    def __init__(
        self,
        address: Address,
        *,
        socket_timeout: float,
        wait_replicas: int,
        tls: dict[str, Any],
        sentinel: dict[str, Any],
        log: SafeLogger,
    ) -> None:
        self.address = address
        user = [] if address.password else [address.username]
        self._hider = Hider([address.password, sentinel["password"], *user])
        self.cluster = address.kind == "cluster"
        self.broken = 0  # how often a connection broke
        self.broke_at = machine.monotonic()
        self._timeout = socket_timeout
        self._wait = wait_replicas
        self._tls = {"ssl": True, **tls} if address.tls else {}
        self._sentinel = sentinel
        self._log = log
        self._lock = threading.Lock()
        self._client: Any = None
        self._free: deque[Wire] = deque()  # connections that nobody uses at the moment
        self._looks_apart = True
        self.scripts: Scripts

    # -- open and close ---------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, and look whether this server may keep jobs."""
        try:
            self._client = self.new_client()
            info = self._info()
        except DRIVER_ERRORS as error:
            self.close()
            raise self.wrapped(error, connecting=True) from error
        except OSError as error:
            self.close()
            raise self.wrapped(error, connecting=True) from error
        try:
            self._check(info)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close what is open."""
        client, self._client = self._client, None
        while self._free:
            client.connection_pool.release(self._free.pop().connection)
        if client is not None:
            try:
                client.close()
            except (*DRIVER_ERRORS, OSError):
                pass

    def new_client(self, **changes: Any) -> Any:
        """A client of redis-py that repeats nothing by itself: what may be repeated, only we know."""
        address = self.address
        options: dict[str, Any] = {
            "socket_timeout": self._timeout,
            "socket_connect_timeout": self._timeout,
            "socket_keepalive": True,
            "username": address.username,
            "password": address.password,
            "protocol": 2,
            "max_connections": _CONNECTIONS,
            "retry": Retry(NoBackoff(), 0),
            "retry_on_error": [],
            **changes,
        }
        options |= self._tls
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
        ours |= self._tls | self._sentinel
        sentinel: Any = Sentinel  # untyped in the driver
        return sentinel(self.address.hosts, sentinel_kwargs=ours).master_for(
            self.address.service, db=self.address.db, **options
        )

    def _of_cluster(self, options: dict[str, Any]) -> Any:
        from redis import cluster

        if self._tls and "ssl_check_hostname" not in cluster.REDIS_ALLOWED_KEYS:  # dropped by 5.0 in silence
            cluster.REDIS_ALLOWED_KEYS += ("ssl_check_hostname",)  # type: ignore[assignment, unused-ignore]
        options.pop("retry_on_error")
        node: Any = cluster.ClusterNode  # untyped in the driver
        nodes = [node(host, port) for host, port in self.address.hosts]
        return _knowing_looks(cluster.RedisCluster(startup_nodes=nodes, **options))

    def _info(self) -> dict[str, Any]:
        info: dict[str, Any] = {}
        for section in ("server", "memory", "persistence"):
            try:
                found = self._client.info(section)
            except redis.exceptions.NoPermissionError as error:  # INFO is among the dangerous commands
                self._log.debug("the server at %s does not tell how it is set up: %s", self.address, error)
                return {}
            if self.cluster and found and all(isinstance(value, dict) for value in found.values()):
                found = next(iter(found.values()))
            info |= found
        return info

    def _check(self, info: dict[str, Any]) -> None:
        text = str(info.get("redis_version", ""))
        version = tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
        if info and version < _OLDEST:
            raise BackendError(
                f"the server at {self.address} is Redis {text}; jobs need Redis 6.2 or Valkey 7.2, or newer"
            )
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if policy.startswith("allkeys"):  # volatile-... evicts only what expires by itself: no job does
            problem = (
                f"the server at {self.address} evicts keys when it is full (maxmemory-policy {policy}), and "
                "jobs with them; set maxmemory-policy noeviction there, or keep jobs in a server of their own"
            )
            raise ConfigError([problem])
        if self._tls.get("ssl_cert_reqs") == "none":
            self._log.warning("the server at %s is not verified (tls_verify=none)", self.address)
        if info and not info.get("aof_enabled"):
            self._log.warning(
                "the server at %s keeps no append-only file: when it stops, jobs accepted since its last "
                "snapshot are lost; set appendonly yes there",
                self.address,
            )
        self.scripts = Scripts(version)
        try:
            self._load_scripts()
        except BackendError as error:
            if not isinstance(error.__cause__, redis.exceptions.NoPermissionError):
                raise
            self._log.debug("the server learns each script as it is first run: %s", error)

    def _load_scripts(self) -> None:
        """Make the server know the scripts: to read one as it is first run would hold it up."""
        scripts = list(vars(self.scripts).values())
        if self.cluster:
            for script in scripts:
                self._to_every_node(script)
            return
        known = self.commands([("SCRIPT", "EXISTS", *[script.digest for script in scripts])])[0]
        self.commands(
            [("SCRIPT", "LOAD", script.text) for script, has in zip(scripts, known, strict=True) if not has]
        )

    def _to_every_node(self, script: Script) -> None:
        try:
            self._client.script_load(script.text)
        except (*DRIVER_ERRORS, OSError) as error:
            raise self.wrapped(error) from error

    # -- calls ------------------------------------------------------------------------------------------

    def call(
        self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any], *, again: bool = True
    ) -> Any:
        """Run a script. ``again``: once more where the connection broke, for it is safe to."""
        [reply] = self._run(_evalsha, [(script, keys, arguments)], again=again)
        if isinstance(reply, redis.exceptions.NoScriptError):
            [reply] = self._run(_eval, [(script, keys, arguments)], again=again)
        if isinstance(reply, Exception):
            raise self.wrapped(reply) from reply
        return reply

    def _run(self, way: Callable[..., Sequence[Any]], calls: Sequence[Call], *, again: bool) -> list[Any]:
        """The replies to scripts; those that only look are sent so that a reader may run them."""
        if not (self._looks_apart and calls and calls[0][0].looks):
            return self._exchange([way(*call) for call in calls], again=again)
        replies = self._exchange([_looking(way(*call)) for call in calls], again=again)
        if any(map(_knows_no_looking, replies)):
            self._looks_apart = False
            replies = self._exchange([way(*call) for call in calls], again=again)
        return replies

    def call_many(self, calls: Sequence[Call], *, again: bool = True) -> list[Any]:
        """Run scripts in one round trip, each by itself; the first error of any is raised at the end."""
        replies = self.call_each(calls, again=again)
        for reply in replies:
            if isinstance(reply, BackendError):
                raise reply from reply.__cause__
        return replies

    def call_each(self, calls: Sequence[Call], *, again: bool = True) -> list[Any]:
        """As `call_many`; each error is in the place of a reply. All of them look, or none does."""
        replies = self._run(_evalsha, calls, again=again)
        unknown = [
            at for at, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)
        ]
        if unknown:
            replies_now = self._run(_eval, [calls[at] for at in unknown], again=again)
            for at, reply in zip(unknown, replies_now, strict=True):
                replies[at] = reply
        return [self.wrapped(reply) if isinstance(reply, Exception) else reply for reply in replies]

    def call_and_wait(self, script: Script, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """As `call`; returns once so many replicas have it as ``wait_replicas`` says."""
        if not self._wait:
            return self.call(script, keys, arguments)
        return self.call_together([(script, keys, arguments)])[0]

    def beginning(
        self, script: Script, keys: Sequence[bytes], first: Sequence[Any], more: int
    ) -> Beginning | None:
        """For calls that differ in their last arguments; None where they cannot be packed before."""
        if not PACKS or self.cluster or self._wait:
            return None
        return Beginning(_evalsha(script, keys, first), more)

    def call_packed(self, script: Script, command: bytes) -> Any:
        """As `call`, of what a `Beginning` has packed."""
        [reply] = self._exchange((command,))
        if isinstance(reply, redis.exceptions.NoScriptError):
            self._exchange([("SCRIPT", "LOAD", script.text)])
            [reply] = self._exchange((command,))
        if isinstance(reply, Exception):
            raise self.wrapped(reply) from reply
        return reply

    def call_together(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts on one queue with nothing between them: all are run, or none of them is.

        Each may fail by itself, and the first error of any is raised. Returns once so many replicas have it
        as ``wait_replicas`` says.
        """
        replies = self._transact(calls)
        if any(map(_unknown, replies)):  # the others ran; to say them again is safe
            for script in {call[0] for call in calls}:
                self._exchange([("SCRIPT", "LOAD", script.text)], near=calls[0][1][0])
            replies = self._transact(calls)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.wrapped(reply) from reply
        return replies

    def _transact(self, calls: Sequence[Call]) -> list[Any]:
        commands: list[Sequence[Any]] = [("MULTI",), *[_evalsha(*call) for call in calls], ("EXEC",)]
        if self._wait:
            commands.append(("WAIT", self._wait, int(self._timeout * 500)))
        replies = self._exchange(commands, near=calls[0][1][0])
        done = replies[len(calls) + 1]
        if isinstance(done, Exception):  # the first that was refused says why
            raise next(self.wrapped(reply) for reply in replies if isinstance(reply, Exception))
        if self._wait:
            self._check_confirmed(replies[-1])
        return list(done)

    def _check_confirmed(self, replicas: Any) -> None:
        if isinstance(replicas, Exception):
            problem = f"the server does not tell which replicas have them (wait_replicas): {replicas}"
        elif replicas < self._wait:
            problem = f"{replicas} replicas have confirmed it, not {self._wait} (wait_replicas)"
        else:
            return
        raise BackendUnavailable(f"the jobs are stored, but {problem}", outcome_unknown=True)

    def command(self, *arguments: Any) -> Any:
        """Run one command that only reads, or that is safe to repeat."""
        return self.commands([arguments])[0]

    def commands(self, commands: Sequence[Sequence[Any]], *, near: bytes | None = None) -> list[Any]:
        """Run commands that only read, or that are safe to repeat, in one round trip.

        In a cluster that needs a key that is ``near`` all of theirs: in its slot.
        """
        replies = self._exchange(commands, near=near)
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.wrapped(reply) from reply
        return replies

    def _exchange(
        self, commands: Sequence[Sequence[Any]], *, again: bool = True, near: bytes | None = None
    ) -> list[Any]:
        """The replies to some commands, the server's errors among them."""
        if not commands:
            return []
        attempts = 2 if again else 1
        perhaps_done = False
        while True:
            attempts -= 1
            try:
                return self._exchange_once(commands, near)
            except (*DRIVER_ERRORS, OSError) as error:
                self._broke()
                if not attempts or not _has_broken(error):
                    wrapped = self.wrapped(error)
                    if perhaps_done and isinstance(wrapped, BackendUnavailable):
                        wrapped.outcome_unknown = True  # whatever became of the second attempt
                    raise wrapped from error
                perhaps_done = True

    def _exchange_once(self, commands: Sequence[Sequence[Any]], near: bytes | None) -> list[Any]:
        client = self._client
        if client is None:
            raise BackendUnavailable("the connection to Redis is closed")
        if self.cluster:
            try:
                return self._through_cluster(client, commands, near)
            except BaseException:
                _hang_up(client)
                raise
        wire = self._take()
        try:
            replies = wire.exchange(commands)
        except BaseException:  # also an interrupt: what comes next on this connection answers nobody
            wire.close()
            client.connection_pool.release(wire.connection)
            raise
        self._free.append(wire)
        return replies

    def _take(self) -> Wire:
        """A connection that nobody uses: redis-py's pool would ask the system each time whether it lives."""
        try:
            return self._free.pop()
        except IndexError:
            return self.wire_of(self._client)

    def wire_of(self, client: Any) -> Wire:
        """A new connection of a client: of a cluster's to some node, for they pass calls on to each other."""
        if self.cluster:
            client = client.get_redis_connection(client.get_random_node())
        connection = _connection_of_pool(client.connection_pool)
        return wire_of(connection, managed=self.address.kind == "sentinel")

    def _through_cluster(
        self, client: Any, commands: Sequence[Sequence[Any]], near: bytes | None
    ) -> list[Any]:
        if near is not None:
            return self._on_one_node(client, commands, near)
        replies = []
        for command in commands:
            try:
                replies.append(client.execute_command(*command))
            except redis.ResponseError as error:
                replies.append(error)
        return replies

    def _on_one_node(self, client: Any, commands: Sequence[Sequence[Any]], near: bytes) -> list[Any]:
        """Send commands to the node that has a key, on one connection, and after it if it moves."""
        for _ in range(_MOVES):
            node = client.get_redis_connection(client.get_node_from_key(near))
            connection = _connection_of_pool(node.connection_pool)
            try:
                replies = Wire(connection).exchange(commands)
            except BaseException as error:
                connection.disconnect()
                if isinstance(error, redis.ConnectionError):
                    client.nodes_manager.initialize()  # another may have taken over
                raise
            finally:
                node.connection_pool.release(connection)
            if not any(map(_moved, replies)):
                break
            client.nodes_manager.initialize()
        return replies

    # -- errors -----------------------------------------------------------------------------------------

    def _broke(self) -> None:
        with self._lock:
            self.broken += 1
            self.broke_at = machine.monotonic()
        self._drop_free()  # they broke with this one, most likely, and the next attempt needs one that lives

    def _drop_free(self) -> None:
        client = self._client
        while True:
            try:
                wire = self._free.pop()
            except IndexError:
                return
            wire.close()
            if client is not None:
                client.connection_pool.release(wire.connection)

    def break_connections(self) -> None:
        """Break the connections that no call is using; that is noticed as they are used again."""
        if self.cluster:
            _hang_up(self._client)
        for wire in list(self._free):
            wire.close()

    def wrapped(self, error: Exception, *, connecting: bool = False) -> BackendError:
        """One of our errors for one of the driver's, which is its cause."""
        self._hider.error(error)
        text = self._hider.text(str(error)).partition(" : <")[0]  # then the driver shows its own objects
        at = self.address
        if isinstance(error, redis.exceptions.NoPermissionError) or text.startswith(_NOT_ALLOWED):
            wrapped: BackendError = BackendUnavailable(
                f"Redis at {at} does not let our user do this: {text}; give it the rights of a producer or a "
                'worker (ACL SETUSER; docs/redis.md has them under "A user with few rights")'
            )
        elif isinstance(error, redis.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
            wrapped = BackendUnavailable(
                f"Redis at {at} refuses us: {text}; check user and password in the URL "
                "(redis://user:password@host)"
            )
        elif _FULL in text:
            wrapped = BackendUnavailable(
                f"Redis at {at} is full (maxmemory); nothing of this was stored. Give it more memory, or "
                f"keep finished jobs for a shorter time (retention): {text}"
            )
        elif text.startswith(_NOT_NOW) or isinstance(
            error,
            (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError, redis.exceptions.AskError),
        ):
            replica = isinstance(error, redis.exceptions.ReadOnlyError)
            advice = "; it is a replica, so connect to its primary" if replica else ""
            wrapped = BackendUnavailable(f"Redis at {at} takes no jobs at the moment: {text}{advice}")
        elif isinstance(error, (redis.ConnectionError, redis.TimeoutError, OSError)):
            unknown = not connecting and "connecting to" not in text
            wrapped = BackendUnavailable(
                f"cannot reach Redis at {at}: {text}; {_advice(text)}",
                outcome_unknown=unknown,
            )
        elif isinstance(error, redis.exceptions.RedisClusterException):
            wrapped = BackendUnavailable(
                f"cannot reach the cluster at {at}: {text}; {_advice(text)}", outcome_unknown=not connecting
            )
        else:
            wrapped = BackendError(f"Redis at {at}: {text}")
        wrapped.__cause__ = error
        return wrapped
