"""The application whose workers are tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.workers import Shop


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """An application that keeps its jobs in a file."""
    made = Shop(tmp_path)
    yield made
    made.backend.shutdown()
