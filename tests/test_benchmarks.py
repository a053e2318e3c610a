"""The benchmarks run, count what they measure, and fail when a job is lost or runs twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"

TWICE = """

def submit_twice(self, payload):
    self.pool.submit(self.handler, payload)
    self.pool.submit(self.handler, payload)


Executor.put = submit_twice
"""


def bench(*arguments: str, directory: Path = BENCHMARKS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(directory / "run.py"), "--quick", *arguments],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "NEOQ_AUTOSTART"},
    )


def test_a_quick_run_measures_and_judges(tmp_path: Path) -> None:
    """Each contest prints its table, each promise its verdict, and every measurement is a line of JSON."""
    log = tmp_path / "bench.jsonl"
    done = bench("throughput", "latency", "future", "import", "--json", str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Promises" in done.stdout
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    measured = {(line["contest"], line["contender"]) for line in lines if line["kind"] == "measurement"}
    assert {("throughput", "neoq"), ("throughput", "ThreadPoolExecutor"), ("latency", "neoq")} <= measured
    verdicts = {line["verdict"] for line in lines if line["kind"] == "bar"}
    assert verdicts <= {"reached", "missed"}


def test_contests_on_a_file(tmp_path: Path) -> None:
    """Jobs in a SQLite file are enqueued and run, as a user's program would run them."""
    log = tmp_path / "bench.jsonl"
    done = bench("sqlite-drain", "sqlite-enqueue", "sqlite-idle", "--json", str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    measured = {line["contest"] for line in lines if line.get("contender") == "neoq"}
    assert measured == {"sqlite-drain", "sqlite-enqueue", "sqlite-idle"}


@pytest.mark.parametrize("server", ["postgres", "redis"])
def test_contests_on_a_server(tmp_path: Path, server: str) -> None:
    """Beside a server that the benchmark starts itself, neoq and the raw floor are measured and compared."""
    log = tmp_path / "bench.jsonl"
    done = bench(f"{server}-bulk", f"{server}-idle", "--json", str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    measured = {(line["contest"], line["contender"]) for line in lines if line["kind"] == "measurement"}
    assert {(f"{server}-bulk", "neoq"), (f"{server}-bulk", "raw"), (f"{server}-idle", "neoq")} <= measured
    assert {line["verdict"] for line in lines if line["kind"] == "bar"} <= {"reached", "missed"}


def test_contests_of_batches_keys_and_steps(tmp_path: Path) -> None:
    """Batches, lines and steps are measured beside plain jobs, and their promises are judged."""
    log = tmp_path / "bench.jsonl"
    contests = ("memory-members", "memory-callback", "memory-keyed", "memory-line", "memory-steps")
    done = bench(*contests, "suspended", "--json", str(log))
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    measured = {(line["contest"], line["contender"]) for line in lines if line["kind"] == "measurement"}
    assert {contest for contest, _ in measured} == {*contests, "suspended"}
    assert {
        ("memory-members", "plain"),
        ("memory-members", "members"),
        ("memory-keyed", "ordered"),
    } <= measured
    assert any(line["promise"].startswith("memory, members") for line in lines if line["kind"] == "bar")


def test_a_job_that_ran_twice_ends_the_benchmark(tmp_path: Path) -> None:
    """The run counts every job, and its exit status is 1 when one ran again."""
    copy = shutil.copytree(BENCHMARKS, tmp_path / "benchmarks", ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "contenders.py").open("a") as contenders:
        contenders.write(TWICE)
    done = bench("throughput-1", directory=copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ran again" in done.stderr


def test_an_unknown_contest_is_refused() -> None:
    """A contest that does not exist is a usage error that lists those that do."""
    done = bench("speed")
    assert done.returncode == 2
    assert "there are throughput" in done.stderr


def test_the_help_names_the_contests() -> None:
    """--help says what can be measured."""
    done = bench("--help")
    assert done.returncode == 0
    assert "latency" in done.stdout
