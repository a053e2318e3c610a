"""Clients of redis-py for one address, and what a server must be to keep jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from redis import cluster
from redis.backoff import NoBackoff
from redis.retry import Retry

from neoq.errors import BackendError, ConfigError
from neoq.redis.address import Address

if TYPE_CHECKING:
    from neoq.wording.safe_logger import SafeLogger

_OLDEST = (6, 2)
_OLD_POOL = redis.VERSION < (5, 3)  # its pool takes the name of a command
_CONNECTIONS = 2**31 - 1  # no limit: the number of threads is the limit
_READ_ONLY = ("EVALSHA_RO", "EVAL_RO")


class Cluster(cluster.RedisCluster):
    """A client of a cluster that finds the node of a read-only script by the script's first key.

    redis-py would ask the cluster for it at each call.
    """

    def determine_slot(self, *command: Any) -> Any:
        """The slot of a command's keys."""
        if command[0] not in _READ_ONLY:
            return super().determine_slot(*command)
        slot_of: Any = self.keyslot  # untyped in the driver
        return slot_of(command[3])


class Clients:
    """Makes clients for one address."""

    def __init__(
        self, address: Address, *, socket_timeout: float, tls: dict[str, Any], sentinel: dict[str, Any]
    ) -> None:
        self.address = address
        self._timeout = socket_timeout
        self._tls = {"ssl": True, **tls} if address.tls else {}
        self._sentinel = sentinel

    @property
    def unverified(self) -> bool:
        """Whether the server's certificate is not looked at."""
        return self._tls.get("ssl_cert_reqs") == "none"

    def new(self, **changes: Any) -> Any:
        """A client that never repeats a command: only this package knows which ones are safe to repeat."""
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
        if (
            self._tls and "ssl_check_hostname" not in cluster.REDIS_ALLOWED_KEYS
        ):  # redis-py 5.0 drops it silently
            cluster.REDIS_ALLOWED_KEYS += ("ssl_check_hostname",)  # type: ignore[assignment, unused-ignore]
        options.pop("retry_on_error")
        node: Any = cluster.ClusterNode  # untyped in the driver
        nodes = [node(host, port) for host, port in self.address.hosts]
        return Cluster(startup_nodes=nodes, **options)


def connection_of_pool(pool: Any) -> Any:
    """A connected connection of a client's pool."""
    try:
        return pool.get_connection("_") if _OLD_POOL else pool.get_connection()
    except BaseException:  # also an interrupt: the pool would hand out a connection with a pending reply
        pool.disconnect(inuse_connections=False)
        raise


def disconnect_unused(cluster: Any) -> None:
    """Close the unused connections of a cluster's client: a late reply may still arrive on one of them."""
    for node in cluster.get_nodes():
        if node.redis_connection is not None:
            node.redis_connection.connection_pool.disconnect(inuse_connections=False)


def info_of(client: Any, address: Address, log: SafeLogger) -> dict[str, Any]:
    """The server's INFO; empty if our user may not ask for it."""
    info: dict[str, Any] = {}
    for section in ("server", "memory", "persistence"):
        try:
            found = client.info(section)
        except redis.exceptions.NoPermissionError as error:  # INFO is among the dangerous commands
            log.debug("the server at %s does not tell how it is set up: %s", address, error)
            return {}
        if address.kind == "cluster" and found and all(isinstance(value, dict) for value in found.values()):
            found = next(iter(found.values()))
        info |= found
    return info


def check_server(info: dict[str, Any], address: Address, log: SafeLogger) -> tuple[int, ...]:
    """The version of a server that may keep jobs; an error where it may not."""
    text = str(info.get("redis_version", ""))
    version = tuple(int(part) for part in text.split(".")[:3] if part.isdigit())
    if info and version < _OLDEST:
        raise BackendError(
            f"the server at {address} is Redis {text}; jobs need Redis 6.2 or Valkey 7.2, or newer"
        )
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy.startswith("allkeys"):  # volatile-... evicts only keys with a TTL, and no job has one
        problem = (
            f"the server at {address} evicts keys when it is full (maxmemory-policy {policy}), and "
            "jobs with them; set maxmemory-policy noeviction there, or keep jobs in a server of their own"
        )
        raise ConfigError([problem])
    if info and not info.get("aof_enabled"):
        log.warning(
            "the server at %s keeps no append-only file: when it stops, jobs accepted since its last "
            "snapshot are lost; set appendonly yes there",
            address,
        )
    return version
