"""The layers of the package: who may import whom, read from the sources.

Leaves import only leaves. Backends import leaves, the public face and their one driver, never each other.
The engine side imports leaves and itself, never a backend or a driver. What is heavy has one importer.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neoq"

LEAVES = {
    *("errors", "job", "config", "retry", "store", "clock", "mem_queues", "threads", "capacity"),
    *("frames", "stored", "results", "surroundings", "redact", "remedies", "urls", "reentry"),
    "at_exit",
    *("system", "sqlite_filelock"),
    *("group_commit", "loop"),
    *("boundary", "bounds"),
    "session",
    *("sqlite_schema", "sqlite_file", "sqlite_ledger", "sqlite_locks", "sqlite_place", "sqlite_rows"),
    *("sqlite_add", "sqlite_claim", "sqlite_settle", "sqlite_operate", "sqlite_look", "sqlite_transactions"),
    *("redis_keys", "redis_records", "redis_scripts", "redis_connection", "redis_wakes", "redis_queues"),
    *("redis_finding", "redis_adding", "redis_workers", "redis_pruning", "redis_wire", "redis_leased"),
    "redis_mending",
    *("postgres_add", "postgres_arrays", "postgres_connections", "postgres_jobs"),
    *(
        "postgres_listen",
        "postgres_portable",
        "postgres_schema",
        "postgres_search",
        "postgres_settle",
        "postgres_statements",
        "postgres_transactions",
    ),
}
ENGINE = {
    *("engine", "worker", "executor", "source", "fetcher", "settler", "keeper"),
    *("timeouts", "ticker", "shutdown"),
}

# Whoever is not named here imports the standard library only (and orjson, which serialises for all).
EVERYBODY = {"orjson"}
THIRD_PARTIES = {
    "cron": {"apscheduler", "cron_descriptor", "inflection"},
    "sqlite_backend": {"sqlite3"},
    "sqlite_file": {"sqlite3"},
    "sqlite_filelock": {"filelock"},
    "sqlite_ledger": {"sqlite3"},
    "sqlite_transactions": {"sqlite3"},
    "postgres_add": {"psycopg"},
    "postgres_arrays": {"psycopg"},
    "postgres_backend": {"psycopg"},
    "postgres_connections": {"psycopg"},
    "postgres_listen": {"psycopg"},
    "postgres_schema": {"psycopg"},
    "postgres_transactions": {"psycopg"},
    "redis_connection": {"redis"},
    "redis_wakes": {"redis"},
    "redis_wire": {"hiredis", "redis"},
    "testing": {"pytest"},
    "django": {"django", "django_tasks"},
    "flask": {"flask"},
}
SINGLE_USE = {"sqlite3"}  # in the standard library, and still a driver

NOT_AT_IMPORT = {
    "apscheduler",
    "asyncio",
    "concurrent.futures",
    "cron_descriptor",
    "django",
    "flask",
    "inflection",
    "logging",
    "multiprocessing",
    "psycopg",
    "psycopg_pool",
    "redis",
    "sqlite3",
    "tzlocal",
}


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """Name the part of the package that a file belongs to: job.py is "job", testing/plugin.py "testing"."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def files_of(parts: set[str]) -> list[Path]:
    return [path for path in source_files() if part_of(path) in parts]


def backend_files() -> list[Path]:
    return [path for path in source_files() if part_of(path).endswith("_backend")]


class Imports(ast.NodeVisitor):
    """The absolute names that a module imports, anywhere in it, but not under `if TYPE_CHECKING`."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.names: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            self.generic_visit(node)
            return
        for statement in node.orelse:
            self.visit(statement)

    def visit_Import(self, node: ast.Import) -> None:
        self.names.update(alias.name for alias in node.names)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            parents = self.package.split(".")
            module = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [module])])
        self.names.update(f"{module}.{alias.name}" for alias in node.names)


def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return imports_in(path.read_text(encoding="utf-8"), package)


def imports_in(source: str, package: str = "neoq") -> set[str]:
    imports = Imports(package)
    imports.visit(ast.parse(source))
    return imports.names


def own_parts(names: set[str]) -> set[str]:
    """The parts of neoq among the names; "__init__" for a name that only the package itself has."""
    parts = set()
    for name in names:
        package, _, rest = name.partition(".")
        if package == "neoq":
            part = rest.partition(".")[0]
            is_module = (PACKAGE / f"{part}.py").exists() or (PACKAGE / part).is_dir()
            parts.add(part if rest and is_module else "__init__")
    return parts


def third_parties(names: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in names} - {"neoq", "__future__"}
    return {top for top in tops if top not in sys.stdlib_module_names or top in SINGLE_USE}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", files_of(LEAVES), ids=name_of)
def test_leaves_import_only_leaves(path: Path) -> None:
    """A leaf imports no part of neoq but other leaves."""
    assert own_parts(imports_of(path)) <= LEAVES


@pytest.mark.parametrize("path", backend_files(), ids=name_of)
def test_backends_import_leaves_and_the_public_face(path: Path) -> None:
    """A backend imports leaves and `backend`, and no other backend."""
    assert own_parts(imports_of(path)) <= LEAVES | {"backend", part_of(path)}


@pytest.mark.parametrize("path", files_of(ENGINE), ids=name_of)
def test_the_engine_side_imports_leaves_and_itself(path: Path) -> None:
    """The engine side imports leaves, cron and itself: it works above any backend."""
    assert own_parts(imports_of(path)) <= LEAVES | ENGINE | {"cron"}


@pytest.mark.parametrize("path", files_of({"backend", "cron"}), ids=name_of)
def test_the_public_face_names_no_backend(path: Path) -> None:
    """`backend` and `cron` know no particular backend."""
    assert not [part for part in own_parts(imports_of(path)) if part.endswith("_backend")]


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_third_parties_have_one_importer(path: Path) -> None:
    """Drivers, frameworks, APScheduler and its companions are imported only by the part that is theirs."""
    assert third_parties(imports_of(path)) <= EVERYBODY | THIRD_PARTIES.get(part_of(path), set())


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_nothing_is_asynchronous(path: Path) -> None:
    """The library is synchronous: no part of it imports asyncio."""
    assert not {name for name in imports_of(path) if name.partition(".")[0] == "asyncio"}


@pytest.mark.skipif(not (PACKAGE / "__init__.py").exists(), reason="there is no package yet")
def test_importing_neoq_is_light() -> None:
    """`import neoq` brings in no driver, no framework, no scheduler and no asyncio."""
    program = "import sys; before = set(sys.modules); import neoq; print(*(set(sys.modules) - before))"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert run.returncode == 0, run.stderr
    assert not NOT_AT_IMPORT & set(run.stdout.split())


def test_imports_are_read_wherever_they_stand() -> None:
    """The reader of imports sees those in functions and relative ones, and skips those for types only."""
    source = """
import os.path
from . import mem_backend
from .job import Job
if TYPE_CHECKING:
    import redis
else:
    import json
def connect():
    from neoq.postgres.backend import PostgresBackend
    import psycopg
"""
    assert imports_in(source) == {
        "os.path",
        "neoq.mem_backend",
        "neoq.job.Job",
        "json",
        "neoq.postgres.backend.PostgresBackend",
        "psycopg",
    }
    assert imports_in("from ..errors import NeoqError", "neoq.testing") == {"neoq.errors.NeoqError"}
    assert third_parties({"psycopg.sql", "sqlite3", "json", "neoq.job"}) == {"psycopg", "sqlite3"}
