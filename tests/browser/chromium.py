"""Where this system has Chromium, and how it is started."""

from __future__ import annotations

import os
import shutil

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("NEOQ_TEST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
# Nothing but the pages of a test is asked for. There is no sandbox for root, and /dev/shm may be small.
FLAGS = (
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage --disable-gpu "
    "--disable-quic --disable-sync --no-first-run"
).split() + ["--no-sandbox"] * (os.getuid() == 0)
