"""The conformance suite over the store that docs/writing-a-backend.md shows."""

from __future__ import annotations

import dataclasses
import re
import sys
from types import ModuleType
from typing import Any

from neoq import Backend
from neoq.store import Store, StoreContext
from neoq.testing import BackendConformance
from tests.test_docs import DOCS, blocks_of, code_in

PAGE = DOCS / "writing-a-backend.md"


def the_store() -> str:
    """The program of the page that is a whole store, on the lines that it has there."""
    [block] = [block for block in blocks_of(PAGE) if "class DictStore(Store):" in block.lines]
    return "\n" * block.start + "\n".join(block.lines)


def as_module(program: str) -> ModuleType:
    """A module of that program, as if it were in a file of its own."""
    module = ModuleType("dict_store_of_the_docs")
    sys.modules[module.__name__] = module
    exec(compile(program, PAGE, "exec"), vars(module))
    return module


EXAMPLE = as_module(the_store())


class TestDictBackend(BackendConformance):
    """The example keeps every promise that a store in one process can make."""

    features = EXAMPLE.DictBackend.features

    def make_backend(self, **options: Any) -> Backend:
        """Return a backend without any job."""
        backend: Backend = EXAMPLE.DictBackend(**options)
        return backend


def test_the_example_uses_public_names_alone() -> None:
    """No name with an underscore before it occurs in the example."""
    assert not re.findall(r"(?<![\w_])_[a-z]\w*", the_store())


def test_the_page_names_all_of_the_seam() -> None:
    """The page has every public name of `Store`, and every field of `StoreContext`."""
    names = {field.name for field in dataclasses.fields(StoreContext)} | {*vars(StoreContext), *vars(Store)}
    code = code_in(PAGE)
    missing = {name for name in names if not name.startswith("_") and not re.search(rf"\b{name}\b", code)}
    assert not missing
