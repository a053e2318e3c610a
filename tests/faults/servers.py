"""Servers that can be killed, started again and made to cut sessions; alike for Postgres and Redis."""

from __future__ import annotations

import random
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar
from urllib.parse import urlencode

from tests.servers import PostgresServer, RedisServer, running_server, started_server


class FaultyServer(ABC):
    """A server of one test, and what can befall it."""

    host: ClassVar[str] = "127.0.0.1"
    recovery: ClassVar[float]  # seconds within which a killed worker's job is run, by the usual settings
    port: int

    def url(self, port: int | None = None, **settings: str) -> str:
        """Where neoq finds it, or a proxy of it, with settings."""
        return f"{self._place(port or self.port)}?{urlencode(settings)}"

    @property
    def driver_url(self) -> str:
        """Where its driver finds it."""
        return self._place(self.port)

    @abstractmethod
    def _place(self, port: int) -> str: ...

    @abstractmethod
    def stop_at_once(self) -> None:
        """End it as a crash does."""

    @abstractmethod
    def start(self) -> None:
        """Start it again, with all that it had promised to keep."""

    @abstractmethod
    def cut_session(self, chance: random.Random) -> int:
        """End a session of somebody, whatever it is at; return how many there were to end."""


class Postgres(FaultyServer):
    recovery = 15.0

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self.port = server.port

    def _place(self, port: int) -> str:
        return f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def stop_at_once(self) -> None:
        self._server.stop(signal.SIGQUIT)

    def start(self) -> None:
        self._server.start()

    def cut_session(self, chance: random.Random) -> int:
        import psycopg

        with psycopg.connect(self.driver_url, autocommit=True) as connection:
            found = connection.execute(
                "select pid from pg_stat_activity where backend_type = 'client backend'"
                " and pid <> pg_backend_pid() order by pid"
            ).fetchall()
            if found:
                connection.execute("select pg_terminate_backend(%s)", chance.choice(found))
            return len(found) and 1


@contextmanager
def postgres() -> Iterator[FaultyServer]:
    """A Postgres server."""
    for server in started_server():
        yield Postgres(server)


class Redis(FaultyServer):
    """A Redis that has each command on the disk before it answers."""

    recovery = 30.0

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.port = server.port

    def _place(self, port: int) -> str:
        return f"redis://127.0.0.1:{port}/0"

    def stop_at_once(self) -> None:
        self._server.kill()

    def start(self) -> None:
        self._server.start()

    def cut_session(self, chance: random.Random) -> int:
        with self._server.client() as client:
            found = [entry["id"] for entry in client.client_list() if entry["cmd"] != "client|list"]
            return int(client.client_kill_filter(_id=chance.choice(found))) if found else 0


@contextmanager
def redis() -> Iterator[FaultyServer]:
    """A Redis, or Valkey, server."""
    with running_server("--appendonly", "yes", "--appendfsync", "always") as server:
        yield Redis(server)


SERVERS: dict[str, Callable[[], AbstractContextManager[FaultyServer]]] = {
    "postgres": postgres,
    "redis": redis,
}
