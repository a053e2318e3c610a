"""Django's contract of task backends: on the Django of this Python, and on the newest in another Python.

The programs are in contract/: a project has its settings for a whole process, so each runs in one of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NEWER = ("3.13", "3.12")  # Django 6 needs one of them
NEEDS = ("django>=6", "psycopg[binary]>=3.2", "pytest>=8.3", "pytest-timeout>=2.3")
NEEDS_OF_NEOQ = ("APScheduler>=3.11,<4", "cron-descriptor>=2", "inflection>=0.5", "orjson>=3.10")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "neoq-tests"


def newer_python() -> str | None:
    """A Python that the newest Django runs on, where this machine has one."""
    for version in NEWER:
        candidates = [shutil.which(f"python{version}")]
        candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
        for candidate in filter(None, candidates):
            told = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and told.stdout.startswith(f"Python {version}."):
                return candidate
    return None


@pytest.fixture(scope="module")
def newest_django() -> str:
    """The Python of a virtual environment with the newest Django, made once and kept in a cache."""
    if sys.version_info >= (3, 12):
        pytest.skip("the Django of this Python is the newest one already")
    base = newer_python()
    if base is None:
        pytest.skip(f"the newest Django is not tested: there is no Python {' or '.join(NEWER)} here")
    needs = [*NEEDS, *NEEDS_OF_NEOQ]
    name = hashlib.sha256("\n".join([base, *needs]).encode()).hexdigest()[:12]
    place, ready = CACHE / f"django-{name}", CACHE / f"django-{name}" / "ready"
    python = str(place / "bin" / "python")
    if not ready.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([base, "-m", "venv", "--clear", str(place)], check=True, timeout=50)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needs]
        done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=200)
        if done.returncode:
            pytest.skip(f"the newest Django is not tested: it cannot be installed: {done.stderr[-500:]}")
        ready.touch()
    return python


def run_contract(python: str, database: str, directory: Path) -> None:
    """Run the programs of contract/ in a Python, on a database."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("NEOQ_", "PYTEST"))}
    environ |= {"NEOQ_TEST_DATABASE": database, "PYTHONPATH": str(ROOT)}
    pytest_ = [
        python,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "-p",
        "no:valkey",
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
