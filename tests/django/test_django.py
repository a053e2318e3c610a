"""Django's contract of task backends: on the Django of this Python, and on the newest in another Python.

The programs are in contract/: a project has its settings for a whole process, so each runs in one of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def run_contract(python: str, database: str, directory: Path) -> None:
    """Run the programs of contract/ in a Python, on a database."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NEOQ_", "PYTEST"))}
    environ |= {"NEOQ_TEST_DATABASE": database, "PYTHONPATH": str(ROOT)}
    environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # what they do not use takes longer to import than Django
    pytest_ = [
        python,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "pytest_timeout",
    ]
    options = [
        "-c",
        os.devnull,
        "-o",
        "python_files=contract_*.py",
        "--import-mode=importlib",
        "--timeout=60",
    ]
    place = [
        "--rootdir",
        str(HERE / "contract"),
        "--confcutdir",
        str(HERE / "contract"),
        str(HERE / "contract"),
    ]
    done = subprocess.run(
        [*pytest_, *options, *place], cwd=directory, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
    assert " passed" in done.stdout


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    """The conninfo of a database of Postgres that is empty, and dropped at the end."""
    name = f"django_{os.getpid()}_{os.urandom(3).hex()}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
        yield psycopg.conninfo.make_conninfo(postgres_url, dbname=name)
        connection.execute(f"drop database {name} with (force)".encode())


def test_this_django_on_sqlite(tmp_path: Path) -> None:
    """Tasks of the Django of this Python keep the contract with their jobs in a SQLite file."""
    run_contract(sys.executable, str(tmp_path / "db.sqlite3"), tmp_path)


def test_this_django_on_postgres(database: str, tmp_path: Path) -> None:
    """Tasks of the Django of this Python keep the contract with their jobs in Postgres."""
    run_contract(sys.executable, database, tmp_path)


def test_the_newest_django_on_sqlite(newest_django: str, tmp_path: Path) -> None:
    """Tasks of the newest Django keep the contract with their jobs in a SQLite file."""
    run_contract(newest_django, str(tmp_path / "db.sqlite3"), tmp_path)


def test_the_newest_django_on_postgres(newest_django: str, database: str, tmp_path: Path) -> None:
    """Tasks of the newest Django keep the contract with their jobs in Postgres."""
    run_contract(newest_django, database, tmp_path)


pytestmark = pytest.mark.timeout(240)  # the first run makes a virtual environment
