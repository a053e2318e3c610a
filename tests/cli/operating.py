"""What tests of the operating commands share: a store of each kind, and the command in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import neoq
from neoq.cli.main import main
from neoq.job import Job

ROOT = Path(__file__).parents[2]


class Done(NamedTuple):
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        """The JSON objects of its output, one a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Command:
    """The command, run in this process (quick) or as a child (real)."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys

    def __call__(self, *arguments: str, ends_with: int = 0) -> Done:
        self._capsys.readouterr()
        code = main([arguments[0], "--url", self.url, *arguments[1:]])
        out, err = self._capsys.readouterr()
        assert code == ends_with, f"{code}: {out}{err}"
        return Done(code, out, err)


def child(*arguments: str, env: Mapping[str, str] | None = None, stdin: str = "", cwd: Path = ROOT) -> Done:
    """Run ``python -m neoq`` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "neoq", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
        input=stdin, capture_output=True, text=True, timeout=50, check=False, cwd=cwd,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def fill(backend: neoq.Backend) -> dict[str, Job]:
    """One job of each status that is made without a wait, by its status."""
    jobs = {
        "succeeded": backend.enqueue("emails", {"n": 1}),
        "dead": backend.enqueue("emails", {"n": 2, "fails": True}, max_retries=0),
        "retrying": backend.enqueue("emails", {"n": 3, "fails": True}, max_retries=3),
    }

    def handle(job: Job) -> str:
        if job.payload.get("fails"):
            raise RuntimeError("no such \x1b[31mmailbox")
        return "sent"

    backend.listen("emails", handle, concurrency=1)
    backend.start()
    assert backend.drain(20)
    backend.shutdown()
    return jobs
