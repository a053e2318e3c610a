"""What an import costs, each time in a fresh interpreter whose own start is not counted."""

from __future__ import annotations

import statistics
import subprocess
import sys

from contest import Bar, Contest, Measures

MODULES = {
    "neoq": "neoq",
    "standard library": "logging, queue, threading, json",
    "dramatiq": "dramatiq",
    "APScheduler": "apscheduler.schedulers.background",
    "huey": "huey",
}
PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def measure(name: str, quick: bool) -> Measures:
    """The median of some interpreters, after one that only warms the file cache."""
    seconds = [import_once(MODULES[name]) for _ in range(3 if quick else 6)]
    return {"ms": statistics.median(seconds[1:]) * 1e3}


def import_once(modules: str) -> float:
    command = [sys.executable, "-c", PROGRAM.format(modules)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


CONTESTS = {
    "import": Contest(
        "Import (the standard library's: import logging, queue, threading, json)",
        tuple(MODULES),
        measure,
        (
            Bar(
                "import neoq: at most 2.0 x the standard library's four",
                "ms",
                at_most=2.0,
                against="standard library",
            ),
        ),
        ratio=("ms", "standard library"),
    )
}
