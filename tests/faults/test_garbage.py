"""Garbage in the tables and keys of the durable stores, for as long as one wants."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.garbage import STORES, Siege, Spot, garbage, target_of

EXAMPLES = int(os.environ.get("NEOQ_TEST_EXAMPLES", "150"))


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("store", STORES)
def test_workers_survive_much_garbage(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Whatever is written anywhere while two workers run, all other jobs end and every thread lives."""
    target = target_of(store, request, tmp_path)
    siege = Siege(target)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.sampled_from(target.spots), garbage), min_size=1, max_size=12))
    def endure(pieces: list[tuple[Spot, Any]]) -> None:
        siege.endure(pieces)

    try:
        endure()
    finally:
        siege.lift()
