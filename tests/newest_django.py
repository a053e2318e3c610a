"""The newest Django, in a Python that it runs on: a virtual environment, made once and kept in a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEWER = ("3.13", "3.12")  # Django 6 needs one of them
NEEDS = (
    "django>=6",
    "psycopg[binary]>=3.2",
    "pytest>=8.3",
    "pytest-timeout>=2.3",
    "gunicorn>=22",
    "pillow>=10",
)
NEEDS_OF_NEOQ = ("APScheduler>=3.11,<4", "cron-descriptor>=2", "inflection>=0.5", "orjson>=3.10")
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "neoq-tests"


def newer_python() -> str | None:
    """A Python that the newest Django runs on, where this machine has one."""
    for version in NEWER:
        candidates = [shutil.which(f"python{version}")]
        candidates += map(str, sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")))
        for candidate in filter(None, candidates):
            told = subprocess.run([candidate, "-V"], capture_output=True, text=True, check=False)
            if told.returncode == 0 and told.stdout.startswith(f"Python {version}."):
                return candidate
    return None


@pytest.fixture(scope="session")
def newest_django() -> str:
    """The Python of a virtual environment with the newest Django."""
    filelock = pytest.importorskip("filelock")
    if sys.version_info >= (3, 12):
        pytest.skip("the Django of this Python is the newest one already")
    base = newer_python()
    if base is None:
        pytest.skip(f"the newest Django is not tested: there is no Python {' or '.join(NEWER)} here")
    needs = [*NEEDS, *NEEDS_OF_NEOQ]
    name = hashlib.sha256("\n".join([base, *needs]).encode()).hexdigest()[:12]
    place, ready = CACHE / f"django-{name}", CACHE / f"django-{name}" / "ready"
    python = str(place / "bin" / "python")
    CACHE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{place}.lock"):  # other processes of the tests may want it as well
        if not ready.exists():
            subprocess.run([base, "-m", "venv", "--clear", str(place)], check=True, timeout=50)
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needs]
            done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=200)
            if done.returncode:
                pytest.skip(f"the newest Django is not tested: it cannot be installed: {done.stderr[-500:]}")
            ready.touch()
    return python
