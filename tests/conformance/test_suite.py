"""The conformance suite itself: every case is there once, says what it pins, and is meant for its backend."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from neoq.testing import BackendConformance
from neoq.testing.cases.suite import Suite


def cases(suite: type) -> Iterator[tuple[str, Any]]:
    """Yield the cases that pytest would collect, with their names."""
    for name in dir(suite):
        if name.startswith("test_") and callable(getattr(suite, name)):
            yield name, getattr(suite, name)


def test_no_case_hides_another() -> None:
    """No two parts of the suite use one name for different things."""
    parts = [part for part in BackendConformance.__mro__ if issubclass(part, Suite)]
    for part in parts:
        for other in parts:
            if part is not other and not issubclass(part, other) and not issubclass(other, part):
                both = {name for name in vars(part).keys() & vars(other) if not name.startswith("__")}
                assert not both, (part, other)


@pytest.mark.parametrize("feature", ["durable", "shared", "transactions"])
def test_cases_follow_the_features(feature: str) -> None:
    """Cases that need a feature are not collected without it, and there are such cases."""
    without = type("Without", (BackendConformance,), {"features": frozenset()})
    with_it = type("With", (BackendConformance,), {"features": frozenset({feature})})
    assert dict(cases(with_it)).keys() - dict(cases(without)).keys()
    below = type("Below", (without,), {"features": frozenset({feature})})
    assert dict(cases(below)).keys() == dict(cases(with_it)).keys()


def test_every_case_says_what_it_pins() -> None:
    """Every case has a docstring whose first line is a sentence."""
    everything = frozenset({"local", "durable", "shared", "transactions"})
    suites = [
        type("All", (BackendConformance,), {"features": everything}),
        type("None", (BackendConformance,), {"features": frozenset()}),
    ]
    for name, case in (pair for suite in suites for pair in cases(suite)):
        first = (inspect.getdoc(case) or "").partition("\n")[0]
        assert first.endswith("."), name


def test_a_suite_without_a_backend_says_so() -> None:
    """A subclass that does not say how to make its backend is told to."""
    with pytest.raises(NotImplementedError, match="must say how to make a backend"):
        BackendConformance().make_backend()


def test_importing_it_needs_no_pytest() -> None:
    """`import neoq.testing` brings in pytest only when the suite is asked for."""
    program = "import sys, neoq.testing; assert 'pytest' not in sys.modules; neoq.testing.BackendConformance"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)
