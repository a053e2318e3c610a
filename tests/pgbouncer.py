"""A real PgBouncer in transaction mode before the tests' PostgreSQL server, where the system has one."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.servers import free_port, other_user

PATIENCE = 10.0
INI = """
[databases]
* = host={host} port={port} user={user} {password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 500
default_pool_size = 20
"""

needs_pgbouncer = pytest.mark.skipif(
    shutil.which("pgbouncer") is None, reason="this system has no pgbouncer; apt install pgbouncer"
)


@pytest.fixture(scope="session")
def pgbouncer_url(postgres_url: str) -> Iterator[str]:
    """The URL of the session's database, through a PgBouncer."""
    given = {name: value for name, value in conninfo_to_dict(postgres_url).items() if value}
    server = {"host": "127.0.0.1", "port": 5432, "user": "postgres", "dbname": "postgres", **given}
    server["password"] = f"password={given['password']}" if "password" in given else ""
    listen = free_port()
    directory = Path(tempfile.mkdtemp(prefix="neoq-pgbouncer-"))
    directory.chmod(0o755)
    settings = directory / "pgbouncer.ini"
    settings.write_text(INI.format(**server, listen=listen))
    process = subprocess.Popen(
        ["pgbouncer", settings], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **other_user()
    )
    try:
        url = f"postgresql://{server['user']}@127.0.0.1:{listen}/{server['dbname']}"
        _await(url)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)
        shutil.rmtree(directory)


def _await(url: str) -> None:
    give_up = time.monotonic() + PATIENCE
    while True:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)
