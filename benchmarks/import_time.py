"""What an import costs, each time in a fresh interpreter whose own start is not counted.

The .pth files of the virtual environment are not read (-S): they import modules such as pathlib, and a
library that needs these too would seem cheaper than it is. The checkout is compiled first, as pip compiles
what it installs: a shell may keep Python from doing so.
"""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
from pathlib import Path

from contest import Bar, Contest, Measures

ROOT = Path(__file__).parent.parent
MODULES = {
    "neoq": "neoq",
    "neoq, a backend": "neoq; neoq.MemBackend",
    "standard library": "logging, queue, threading, json",
    "dramatiq": "dramatiq",
    "APScheduler": "apscheduler.schedulers.background",
    "huey": "huey",
}
PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def measure(name: str, quick: bool) -> Measures:
    """The median of some interpreters, after one that only warms the file cache."""
    compileall.compile_dir(ROOT / "neoq", quiet=2)
    seconds = [import_once(MODULES[name]) for _ in range(3 if quick else 6)]
    return {"ms": statistics.median(seconds[1:]) * 1e3}


def import_once(modules: str) -> float:
    command = [sys.executable, "-S", "-c", PROGRAM.format(modules)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), *sys.path]))}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout)


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
