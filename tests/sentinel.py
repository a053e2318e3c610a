"""A Redis server, a replica of it, and a sentinel that makes the one the other's master when that dies."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from tests.servers import RedisServer, binary, free_port, running_server

PATIENCE = 30.0


class Watched:
    """The servers that a sentinel watches over."""

    def __init__(self, servers: list[RedisServer], port: int) -> None:
        self.servers = servers
        self._port = port
        self.url = f"redis+sentinel://127.0.0.1:{port}/jobs"

    def await_replica(self) -> None:
        """Wait until the replica has what the master has, and the sentinel knows it."""
        master = self.master()
        [replica] = [server for server in self.servers if server is not master]
        with redis.Redis(port=self._port, protocol=2) as watcher, replica.client() as client:
            _eventually(lambda: client.info("replication").get("master_link_status") == "up", "it follows")
            _eventually(lambda: any(map(_lives, watcher.sentinel_slaves("jobs"))), "a replica is known")

    def master(self) -> RedisServer:
        """The server that is the master by now."""
        with redis.Redis(port=self._port, protocol=2) as watcher:
            _, port = watcher.sentinel_get_master_addr_by_name("jobs")
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """Kill the master, and wait until its replica has become the master."""
        killed = self.master()
        [other] = [server for server in self.servers if server is not killed]
        killed.kill()
        with other.client() as client:
            _eventually(lambda: client.info("replication")["role"] == "master", "the replica is the master")
        _eventually(lambda: self.master() is other, "the sentinel says so")

    def revive(self) -> None:
        """Start the killed one as a replica, sooner than the sentinel would make it one."""
        master = self.master()
        [replica] = [server for server in self.servers if server is not master]
        replica.start()
        with replica.client() as client:
            client.replicaof("127.0.0.1", str(master.port))


def _lives(replica: dict[str, object]) -> bool:
    return not replica["is_sdown"] and not replica["is_disconnected"]


def _eventually(holds: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            if holds():
                return
        except redis.RedisError:
            pass
        assert time.monotonic() < give_up, f"in vain until {what}"
        time.sleep(0.02)


@contextmanager
def watched_servers(directory: Path, *options: str) -> Iterator[Watched]:
    """A master, its replica, and a sentinel that knows both."""
    options = (*options, "--repl-diskless-sync-delay", "0")
    with (
        running_server(*options) as master,
        running_server(*options, "--replicaof", f"127.0.0.1 {master.port}") as replica,
    ):
        with replica.client() as client:  # the sentinel asks at its beginning, and then every ten seconds
            _eventually(lambda: client.info("replication")["master_link_status"] == "up", "it follows")
        with _sentinel_of(master, directory) as port:
            watched = Watched([master, replica], port)
            watched.await_replica()
            yield watched


@contextmanager
def _sentinel_of(server: RedisServer, directory: Path) -> Iterator[int]:
    port = free_port()
    file = directory / "sentinel.conf"
    file.write_text(
        f"port {port}\nbind 127.0.0.1\nsentinel monitor jobs 127.0.0.1 {server.port} 1\n"
        "sentinel down-after-milliseconds jobs 500\nsentinel failover-timeout jobs 3000\n"
    )
    with (directory / "sentinel.log").open("wb") as log:
        process = subprocess.Popen([binary(), str(file), "--sentinel"], stdout=log, stderr=log, cwd=directory)
        try:
            yield port
        finally:
            process.kill()
            process.wait(PATIENCE)
