"""Tests of behaviour use what is public: a change inside neoq that users do not see breaks none of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.test_layers import ROOT

FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("tests", "neoq/testing")
    for path in (ROOT / folder).rglob("*.py")
    if path != Path(__file__)
)

# Names that begin with _ and that tests may use. What is neoq's own needs a good reason.
OF_PYTHON = {
    "_replace": "the public method of a named tuple",
    "_exit": "os: ends a process at once",
    "_getframe": "sys: the frame of the caller",
    "_current_frames": "sys: the frames of other threads",
    "_SHUTTING_DOWN": "threading: tells a test whether the interpreter ends",
}
OF_NEOQ = {
    "_needs": "the conformance suite: a mark on its cases",
    "_without": "the conformance suite: another mark",
    "_idle": "Redis: what a call of the server does, which may be on its way while the model goes on",
    "_local_names": "cron: the names of days and months in this locale, which few machines have installed",
    "_in_english": "cron: a spec that has such names",
}


def private_names(source: str) -> list[tuple[int, str]]:
    """The private names of others that a module uses: as attributes, in imports, in getattr and setattr."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}):
                found.append((node.lineno, node.attr))
        elif isinstance(node, ast.ImportFrom):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("attr"):
            texts = [one.value for one in node.args if isinstance(one, ast.Constant)]
            found += [(node.lineno, text.rpartition(".")[2]) for text in texts if isinstance(text, str)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "import neoq" in node.value:
            found += [(node.lineno, name) for _, name in private_names_in_text(node.value)]
    return [(line, name) for line, name in found if name.startswith("_") and not name.endswith("__")]


def private_names_in_text(text: str) -> list[tuple[int, str]]:
    """As `private_names`, for a program that a test runs; nothing for what is no program by itself."""
    try:
        return private_names(text)
    except SyntaxError:
        return []


@pytest.mark.parametrize("file", FILES)
def test_no_test_uses_what_is_private(file: str) -> None:
    """A test uses no private name of neoq."""
    names = private_names((ROOT / file).read_text(encoding="utf-8"))
    assert [found for found in names if found[1] not in OF_PYTHON | OF_NEOQ] == []


def test_exceptions_are_few_and_needed() -> None:
    """Every private name of neoq that tests may use is used, in few places."""
    used = [name for file in FILES for _, name in private_names((ROOT / file).read_text(encoding="utf-8"))]
    assert {name for name in used if name in OF_NEOQ} == set(OF_NEOQ)
    assert sum(name in OF_NEOQ for name in used) <= 15


def test_private_names_are_found() -> None:
    """The reader of private names sees those in attributes, imports, programs and calls of setattr."""
    source = """
from neoq.cron import _names
backend.store._file.write()
self._own = 1
monkeypatch.setattr("neoq.cron._local", 1)
program = "import neoq; neoq._hidden"
"""
    assert [name for _, name in private_names(source)] == ["_names", "_local", "_hidden", "_file"]
