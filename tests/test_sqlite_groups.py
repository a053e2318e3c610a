"""Groups in a SQLite file: an end is counted in the transaction that records it, or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.processes import PROGRAMS


def test_a_kill_in_the_last_end_of_a_batch(tmp_path: Path) -> None:
    """Killed before any statement of the last settle, both the end and the callback are there, or neither."""
    program = [sys.executable, str(PROGRAMS / "dies_in_a_file.py"), str(tmp_path)]
    said = subprocess.run(program, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    assert len(said) > 10  # statements
    *died, whole = said
    assert set(died) <= {"1 False 1", "2 True 1"}
    assert "1 False 1" in died
    assert whole == "2 True 1"
