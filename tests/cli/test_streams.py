"""What becomes of a command, and of a worker, whose readers have gone away, or were never there."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import neoq
from neoq.cli.exits import Exit
from neoq.job import Job
from tests.cli.operating import fill
from tests.cli.workers import PATIENCE, SETTINGS

SCRIPT = "import sys; from neoq.cli.main import main; sys.exit(main())"
WAYS = {"module": ("-m", "neoq"), "script": ("-c", SCRIPT), "unbuffered": ("-u", "-m", "neoq")}
COMMANDS = {
    "help": ["--help"],
    "version": ["--version"],
    "help of a command": ["jobs", "--help"],
    "jobs": ["jobs"],
    "objects": ["jobs", "--json"],
    "queues": ["queues"],
    "watched stats": ["stats", "--watch", "0.01"],
    "watched objects": ["stats", "--watch", "0.01", "--json"],
    "show": ["show", "1"],
    "follow": ["show", "1", "--follow"],
    "enqueue": ["enqueue", "emails", "{}"],
    "a trial": ["retry", "--status", "dead", "--dry-run"],
    "a change": ["retry", "2"],
    "check": ["check", "shop"],
}
APP = """
import subprocess, sys, neoq
backend = neoq.connect("sqlite:///jobs.db", autostart=False, lease=2, heartbeat=0.5)

@backend.listen("prints", max_retries=0)
def handle(job):
    print("to standard output", flush=True)
    print("to standard error", file=sys.stderr)
    subprocess.run(["echo", "what another program says"])
"""
NOTES = {"nobody listens on emails: 1 unfinished", "no live worker listens on emails"}


@contextmanager
def pipe_that_nobody_reads() -> Iterator[int]:
    """The end of a pipe to write to, whose reader is gone."""
    out, into = os.pipe()
    os.close(out)
    try:
        yield into
    finally:
        os.close(into)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with an application and a store of some jobs."""
    (tmp_path / "shop.py").write_text(APP, encoding="utf-8")
    with neoq.connect(f"sqlite:///{tmp_path}/jobs.db", autostart=False) as backend:
        fill(backend)
    return tmp_path


def environ(folder: Path) -> dict[str, str]:
    """The environment of a command that works on the store of a folder."""
    own = {"NEOQ_URL": f"sqlite:///{folder}/jobs.db", "NEOQ_RUNTIME_DIR": str(folder), "PYTHONUNBUFFERED": ""}
    return {**os.environ, **SETTINGS, **own}


def run(folder: Path, *arguments: str, **streams: int) -> tuple[int, str, str]:
    """Run Python on arguments; its exit code, and what it said on those streams that were not given."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, timeout=PATIENCE, check=False, text=True,
        env=environ(folder), **{**dict.fromkeys(("stdout", "stderr"), subprocess.PIPE), **streams},
    )  # fmt: skip
    return done.returncode, done.stdout or "", done.stderr or ""


def run_in_shell(folder: Path, arguments: str) -> tuple[int, str, str]:
    """The same by a shell, which can close streams."""
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} {arguments}"], cwd=folder, env=environ(folder),
        timeout=PATIENCE, check=False, text=True, capture_output=True,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_a_command_ends_quietly_when_its_reader_is_gone(shop: Path, arguments: list[str]) -> None:
    """It says nothing of its own output, and ends as a program that SIGPIPE has ended."""
    with pipe_that_nobody_reads() as pipe:
        code, _, errors = run(shop, *WAYS["module"], *arguments, stdout=pipe)
    assert code == Exit.UNREAD
    assert set(errors.splitlines()) <= NOTES


@pytest.mark.parametrize("arguments", [["--help"], ["jobs", "--help"], ["jobs", "--json"]])
@pytest.mark.parametrize("way", ["script", "unbuffered"])
def test_it_does_so_however_it_is_called(shop: Path, way: str, arguments: list[str]) -> None:
    """So do the script that pip installs, and a Python without buffers."""
    with pipe_that_nobody_reads() as pipe:
        code, _, errors = run(shop, *WAYS[way], *arguments, stdout=pipe)
    assert (code, errors) == (Exit.UNREAD, "")


@pytest.mark.parametrize(
    ("arguments", "ends_with"),
    [
        (["queue"], Exit.USAGE),
        (["jobs", "--url", "sqlite:///none.db"], Exit.UNREACHABLE),
        (["jobs", "--queue", "emials"], Exit.OK),
        (["worker", "no_such_module"], Exit.NOT_IMPORTED),
        (["retry", "2", "99"], Exit.FAILED),
    ],
)
def test_what_is_no_output_needs_no_reader(shop: Path, arguments: list[str], ends_with: int) -> None:
    """Where nobody reads standard error, a command does the same, and ends with the same code."""
    with pipe_that_nobody_reads() as pipe:
        assert run(shop, *WAYS["module"], *arguments, stderr=pipe)[0] == ends_with


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    ("way", "arguments"),
    [("unbuffered", ["jobs", "--help"]), ("module", ["jobs"]), ("module", ["jobs", "--json"])],
)
def test_output_that_cannot_be_written_is_an_error(shop: Path, way: str, arguments: list[str]) -> None:
    """A full disk is told in a line."""
    with Path("/dev/full").open("wb") as full:
        code, _, errors = run(shop, *WAYS[way], *arguments, stdout=full.fileno())
    assert (code, errors) == (1, "neoq: the output cannot be written: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_may_be_closed(shop: Path, closed: str) -> None:
    """Without standard output or standard error a command does its work, and mixes nothing up."""
    for arguments in ("jobs --help", "jobs", "jobs --queue emials"):
        code, out, errors = run_in_shell(shop, f"-m neoq {arguments} {closed}")
        assert (code, "Traceback" in errors) == (0, False), errors
        assert "no job and no worker" not in out


def test_a_payload_needs_standard_input(shop: Path) -> None:
    """One that is to be read where there is none, or no text, is a mistake on the command line."""
    (shop / "binary").write_bytes(b"\xff")
    for given, told in (("<&-", "standard input is closed"), ("< binary", "is not JSON")):
        code, _, errors = run_in_shell(shop, f"-X utf8 -m neoq enqueue emails - {given}")
        assert (code, "Traceback" in errors) == (Exit.USAGE, False), errors
        assert told in errors


@pytest.mark.parametrize("unread", [("stderr",), ("stdout", "stderr")])
@pytest.mark.parametrize("option", ["", "-u"], ids=["buffered", "unbuffered"])
def test_a_worker_goes_on_when_its_log_reader_is_gone(
    shop: Path, unread: tuple[str, ...], option: str
) -> None:
    """Its jobs run, those that print, too, and it ends as if somebody had read it all."""
    words = [*filter(None, [option]), "-m", "neoq", "worker", "shop", "--drain"]
    with neoq.connect(f"sqlite:///{shop}/jobs.db", autostart=False) as backend:
        jobs = backend.enqueue_many([Job("prints", {"n": n}) for n in range(50)])
        with pipe_that_nobody_reads() as pipe:
            code, _, _ = run(shop, *words, **dict.fromkeys(unread, pipe))
        assert {getattr(backend.get(job.id), "status", None) for job in jobs} == {"succeeded"}
    assert code == 0


def test_a_worker_may_have_closed_streams(shop: Path) -> None:
    """What a worker logs and a job prints goes to no file and to no socket that came in their place."""
    with neoq.connect(f"sqlite:///{shop}/jobs.db", autostart=False) as backend:
        jobs = backend.enqueue_many([Job("prints", {"n": n}) for n in range(10)])
        assert run_in_shell(shop, "-m neoq worker shop --drain <&- >&- 2>&-")[0] == 0
        assert {getattr(backend.get(job.id), "status", None) for job in jobs} == {"succeeded"}
    for path in shop.iterdir():
        if path.is_file():
            assert b"worker: shop" not in path.read_bytes(), path


def test_a_job_may_print_to_a_named_pipe_whose_reader_comes_back(tmp_path: Path) -> None:
    """A reader that starts anew reads what is printed from then on."""
    program = """
import sys
from neoq.cli.streams import outlive_readers
outlive_readers()
print(sys.stdout.name, sys.stdout.encoding, flush=True)
for line in sys.stdin:
    print(line.strip(), flush=True)
    print("done", file=sys.stderr, flush=True)
"""
    pipe = tmp_path / "log"
    os.mkfifo(pipe)
    with (
        os.fdopen(os.open(pipe, os.O_RDWR)) as reader,
        os.fdopen(os.open(pipe, os.O_WRONLY)) as writer,
        subprocess.Popen(
            [sys.executable, "-X", "utf8", "-c", program], env=environ(tmp_path),
            text=True, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE, bufsize=1,
        ) as process,
    ):  # fmt: skip
        assert process.stdin is not None
        assert process.stderr is not None
        assert reader.readline() == "<stdout> utf-8\n"
        reader.close()
        process.stdin.write("nobody reads this\n")
        assert process.stderr.readline() == "done\n"
        with os.fdopen(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)) as again:
            process.stdin.write("somebody reads this\n")
            assert process.stderr.readline() == "done\n"
            assert again.readline() == "somebody reads this\n"
        process.stdin.close()
        assert process.wait(PATIENCE) == 0


def test_completion_ends_quietly_when_its_shell_is_gone(tmp_path: Path) -> None:
    """The shell reads words from a descriptor of its own."""
    pytest.importorskip("argcomplete")
    line = "neoq hea"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
    with pipe_that_nobody_reads() as pipe:
        done = subprocess.run(
            ["/bin/bash", "-c", f"exec {sys.executable} -m neoq 8>&{pipe} 9>/dev/null"], pass_fds=[pipe],
            env=environ(tmp_path) | asked, cwd=tmp_path,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (Exit.UNREAD, "", "")
