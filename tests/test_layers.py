"""The layers of the package: which part may import which, as the sources say; imports for types count.

Leaves stand at the top of the package, or in `threads` and `wording`, and import only leaves. The engine
imports leaves and itself. The backend imports both. A store imports leaves, `backend`, itself and its one
driver.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "neoq"

STORES = {"mem_backend", "memory", "sqlite", "postgres", "redis"}
# They import whatever they need, and nothing but another edge imports them.
EDGES = {"__main__", "cli", "dashboard", "django", "flask", "logs", "metrics", "tracing"}
NO_LEAVES = STORES | EDGES | {"__init__", "backend", "engine", "listening", "operations", "testing"}

# A part that is not named here imports the standard library only (and orjson, which serialises for all).
EVERYBODY = {"orjson"}
THIRD_PARTIES = {
    "cli": {"argcomplete", "setproctitle", "waitress", "watchfiles"},
    "codec": {"cryptography"},
    "cron": {"apscheduler", "cron_descriptor", "inflection"},
    "sqlite": {"sqlite3", "filelock"},
    "postgres": {"psycopg"},
    "redis": {"redis", "hiredis"},
    "testing": {"pytest", "sqlite3"},
    "dashboard": {"jinja2", "markupsafe"},
    "django": {"django", "django_tasks", "psycopg"},
    "flask": {"click", "flask"},
    "metrics": {"prometheus_client"},
    "tracing": {"opentelemetry"},
}
SINGLE_USE = {"sqlite3"}  # in the standard library, and still a driver

NOT_AT_IMPORT = {
    "apscheduler",
    "asyncio",
    "cryptography",
    "concurrent.futures",
    "cron_descriptor",
    "django",
    "flask",
    "inflection",
    "jinja2",
    "logging",
    "multiprocessing",
    "opentelemetry",
    "prometheus_client",
    "psycopg",
    "psycopg_pool",
    "redis",
    "sqlite3",
    "tzlocal",
}


def source_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: job.py is "job", testing/plugin.py "testing"."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in source_files()}
LEAVES = {part_of(path) for path in source_files()} - NO_LEAVES


@cache
def imports_of(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return imports_in(path.read_text(encoding="utf-8"), package)


def imports_in(source: str, package: str = "neoq") -> set[str]:
    """The absolute names that a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parents = package.split(".")
                module = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [module])])
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def modules_in(names: set[str]) -> Iterator[str]:
    """The modules of ours that names are, or are in."""
    for name in names:
        module = name
        while module not in MODULES and "." in module:
            module = module.rpartition(".")[0]
        if module in MODULES:
            yield module


def own_parts(path: Path) -> set[str]:
    """The parts of neoq that a file imports; "__init__" for a name that only the package itself has."""
    return {part_of(MODULES[module]) for module in modules_in(imports_of(path))}


def third_parties(names: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in names} - {"neoq", "__future__"}
    return {top for top in tops if top not in sys.stdlib_module_names or top in SINGLE_USE}


def files_of(parts: set[str]) -> list[Path]:
    return [path for path in source_files() if part_of(path) in parts]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", files_of(LEAVES), ids=name_of)
def test_leaves_import_only_leaves(path: Path) -> None:
    """A leaf imports no part of neoq but other leaves."""
    assert own_parts(path) <= LEAVES


@pytest.mark.parametrize("path", files_of({"engine"}), ids=name_of)
def test_the_engine_imports_leaves_and_itself(path: Path) -> None:
    """The engine imports leaves and itself: it works above any store."""
    assert own_parts(path) <= LEAVES | {"engine"}


@pytest.mark.parametrize("path", files_of({"backend", "listening", "operations"}), ids=name_of)
def test_the_public_face_knows_no_store(path: Path) -> None:
    """`backend`, `listening` and `operations` import leaves and the engine, and know no particular store."""
    assert own_parts(path) <= LEAVES | {"engine", "listening", "operations"}


@pytest.mark.parametrize("path", files_of(STORES), ids=name_of)
def test_stores_import_leaves_the_public_face_and_themselves(path: Path) -> None:
    """A store imports leaves, `backend` and itself: no other store, and nothing of the engine."""
    own = {"mem_backend", "memory"} if part_of(path) in {"mem_backend", "memory"} else {part_of(path)}
    assert own_parts(path) <= LEAVES | {"backend"} | own


@pytest.mark.parametrize("path", [path for path in source_files() if part_of(path) not in EDGES], ids=name_of)
def test_nothing_imports_an_edge(path: Path) -> None:
    """The command, and what joins neoq to other libraries, are edges: no other part of neoq imports them."""
    assert not own_parts(path) & EDGES


def test_there_is_no_circle() -> None:
    """No module of neoq imports itself by way of others, for types included."""
    imports = {
        module: set(modules_in(imports_of(path))) - {module, "neoq"} for module, path in MODULES.items()
    }
    while leaves := [module for module, needs in imports.items() if not needs & imports.keys()]:
        for module in leaves:
            del imports[module]
    assert not imports, f"a circle is among {sorted(imports)}"


# Names that begin with _ and are meant for others, or have no public way.
ALLOWED = {
    "_replace": "the public method of a named tuple",
    "_asdict": "the same",
    "_exit": "os: ends a process at once",
    "_getframe": "sys: the frame of the caller",
    "_current_frames": "sys: the frames of other threads",
    "_rule": "cron: of another Schedule, to compare with",
    "_pending": "interrupt: of a slot whose class is changed for the time of a landing",
    "_is_owned": "threading.RLock: whether this thread holds it",
}


def private_accesses(source: str) -> list[str]:
    """The private attributes of other objects that a module reaches for, with their lines."""
    return [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.endswith("__")
        and node.attr not in ALLOWED
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
        and not (isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super")
    ]


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_nothing_private_of_another_object_is_used(path: Path) -> None:
    """No object reaches into another one's private attributes."""
    assert private_accesses(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_third_parties_have_one_importer(path: Path) -> None:
    """Drivers, frameworks, APScheduler and its companions are imported only by the part that is theirs."""
    assert third_parties(imports_of(path)) <= EVERYBODY | THIRD_PARTIES.get(part_of(path), set())


@pytest.mark.parametrize("path", source_files(), ids=name_of)
def test_nothing_is_asynchronous(path: Path) -> None:
    """The library is synchronous: asyncio is imported only by what runs coroutine functions."""
    if path == PACKAGE / "engine" / "coroutines.py":
        return
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
    """The reader of imports sees those in functions, those for types only, and relative ones."""
    source = """
import os.path
from . import mem_backend
from .job import Job
if TYPE_CHECKING:
    import redis
def connect():
    from neoq.sqlite import SqliteBackend
"""
    assert imports_in(source) == {
        "os.path",
        "neoq.mem_backend",
        "neoq.job.Job",
        "redis",
        "neoq.sqlite.SqliteBackend",
    }
    assert imports_in("from ..errors import NeoqError", "neoq.testing") == {"neoq.errors.NeoqError"}
    assert third_parties({"psycopg.sql", "sqlite3", "json", "neoq.job"}) == {"psycopg", "sqlite3"}
