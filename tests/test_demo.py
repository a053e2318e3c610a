"""The demo runs as a user runs it, and its account is true."""

from __future__ import annotations

import importlib.util
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

import neoq
from tests.postgres_server import fresh_schema

SIGNUP = Path(__file__).parent.parent / "examples" / "signup"
DEMO = SIGNUP / "demo.py"
BALANCED = "every signup is accounted for"

# The mail server forgets the first welcome mail that it was given.
FORGETFUL = """
import runpy, sys
sys.path.insert(0, {directory!r})
import sink
deliver = sink.Sink.handle_DATA
forgotten = []
async def forget_the_first(self, server, session, envelope):
    answer = await deliver(self, server, session, envelope)
    if not forgotten and self.delivered["welcome"]:
        forgotten.append(self.delivered["welcome"].popitem())
    return answer
sink.Sink.handle_DATA = forget_the_first
sys.argv = [{demo!r}, "--signups", "60"]
runpy.run_path({demo!r}, run_name="__main__")
"""


def run_demo(
    *command: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), **(environment or {})},
    )


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"signup_{name}", SIGNUP / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return run_demo(str(DEMO), folder=tmp_path_factory.mktemp("demo"))


def test_the_whole_demo_reconciles(whole: subprocess.CompletedProcess[str]) -> None:
    """All 300 signups are answered, and accepted mails are those delivered plus those lost."""
    assert whole.returncode == 0, whole.stdout + whole.stderr
    assert "300 signups posted" in whole.stdout
    assert BALANCED in whole.stdout


def test_the_demo_says_what_it_does(whole: subprocess.CompletedProcess[str]) -> None:
    """It begins with what will happen and which store it uses, and nothing is lost there."""
    first, second, *_ = whole.stdout.splitlines()
    assert "300 people sign up over HTTP" in first
    assert "demo.db" in second


def test_the_demo_shows_the_worker_command(whole: subprocess.CompletedProcess[str]) -> None:
    """`neoq worker` runs the jobs beside the web process, and is replaced by another in the middle."""
    lines = whole.stdout.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("$ neoq worker worker:backend")]
    assert len(starts) == 2
    between = "\n".join(lines[starts[0] : starts[1]])
    assert "claims jobs" in between
    assert "asked to stop by SIGTERM" in between
    assert "signups posted" in between
    assert "claims jobs" in "\n".join(lines[starts[1] :])
    assert "refused" not in whole.stdout


def test_the_demo_in_memory_reconciles(tmp_path: Path) -> None:
    """In memory the mails that the shutdown lost are reported, so the account balances, too."""
    done = run_demo(str(DEMO), "--signups", "60", folder=tmp_path, environment={"NEOQ_URL": "memory://"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "are lost, and listed" in done.stdout
    assert BALANCED in done.stdout


def test_the_demo_is_quiet_on_stderr(whole: subprocess.CompletedProcess[str]) -> None:
    """No warning, no traceback of a thread, nothing but its own lines."""
    assert whole.stderr == ""


def test_the_demo_prints_plain_lines_without_a_terminal(whole: subprocess.CompletedProcess[str]) -> None:
    """A log file gets lines of text, and no control sequences."""
    assert "\x1b" not in whole.stdout
    assert sum("signups posted |" in line for line in whole.stdout.splitlines()) >= 2


def test_the_demo_shows_a_table_on_a_terminal(tmp_path: Path) -> None:
    """On a terminal the queues are drawn live."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, DEMO, "--signups", "20"], stdout=theirs, stderr=theirs, env=environment, cwd=tmp_path
    ) as demo:
        os.close(theirs)
        screen = read_all(ours)
    assert demo.returncode == 0, screen
    assert "\x1b[" in screen
    assert "workers" in screen
    assert "claims jobs" in screen
    assert BALANCED in screen


def read_all(terminal: int) -> str:
    chunks = []
    try:
        while chunk := os.read(terminal, 65536):
            chunks.append(chunk)
    except OSError:  # how Linux says that the other end was closed
        pass
    os.close(terminal)
    return b"".join(chunks).decode()


def test_a_mail_that_the_server_forgot_makes_the_demo_fail(tmp_path: Path) -> None:
    """The exit status is 1 when one accepted mail is neither delivered nor reported."""
    done = run_demo("-c", FORGETFUL.format(directory=str(SIGNUP), demo=str(DEMO)), folder=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "does not balance" in done.stdout


def test_ctrl_c_ends_the_demo_cleanly(tmp_path: Path) -> None:
    """An interrupt in the middle ends every thread, without a traceback."""
    with subprocess.Popen(
        [sys.executable, "-u", DEMO],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as demo:
        assert demo.stdout is not None
        assert any("signups posted" in line for line in iter(demo.stdout.readline, ""))
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=45)
    assert demo.returncode == 130, out + err
    assert err == ""


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def durable_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a store of the test's own; heartbeats are quick, so that a killed worker is soon missed."""
    name = fresh_schema()
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/demo.db"
    if request.param == "postgres":
        return f"{request.getfixturevalue('postgres_url')}?schema={name}&heartbeat=0.5&lease=5"
    return f"{request.getfixturevalue('redis_url')}?prefix={name}&heartbeat=0.5&lease=5"


def test_the_demo_survives_kill_9(durable_url: str, tmp_path: Path) -> None:
    """A demo that is killed in the middle is finished by the next, which accounts for the mails of both."""
    environment = os.environ | {"NEOQ_URL": durable_url, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-u", DEMO, "--signups", "120"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if " signups posted" in line and not line.startswith("0 "):
                break
        demo.kill()
    with neoq.connect(durable_url, autostart=False) as backend:
        left = sum(queue.unfinished for queue in backend.queues())
    assert left > 0
    assert list(tmp_path.glob("neoq-demo-*.journal"))
    done = run_demo(str(DEMO), "--signups", "60", folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "finishing the jobs of an earlier run" in done.stdout
    assert re.search(r"welcome: [1-9]\d* promised, [1-9]\d* delivered, 0 missing", done.stdout), done.stdout
    assert re.search(r"reminder: [1-9]\d* promised, [1-9]\d* delivered, 0 missing", done.stdout), done.stdout
    assert BALANCED in done.stdout
    assert not list(tmp_path.glob("neoq-demo-*.journal"))


@pytest.mark.parametrize(
    ("promised", "before", "now", "balances"),
    [
        ("abc", "ab", "c", True),
        ("abc", "ab", "bc", True),
        ("abc", "abx", "cy", True),
        ("abc", "ab", "", False),
        ("abc", "ab", "cc", False),
    ],
    ids=["all there", "one twice, in hand", "no answer yet", "one missing", "one twice afterwards"],
)
def test_the_account_of_a_run_that_was_killed(promised: str, before: str, now: str, balances: bool) -> None:
    """Each promised mail must have arrived, and only one in hand at the kill may have come twice."""
    earlier = load("ledger").Earlier("welcome", Counter(promised), Counter(before), Counter(now))
    assert earlier.balances() is balances


@pytest.mark.parametrize(
    ("accepted", "delivered", "lost", "balances"),
    [
        ("abc", "ab", "c", True),
        ("abc", "ab", "", False),
        ("abc", "abb", "c", False),
        ("abc", "abc", "c", False),
        ("abc", "abd", "c", False),
        ("", "", "", True),
    ],
    ids=["all there", "one missing", "one twice", "delivered and lost", "a stranger", "nothing"],
)
def test_the_ledger_balances_only_when_each_mail_is_there_once(
    accepted: str, delivered: str, lost: str, balances: bool
) -> None:
    """Each accepted mail is delivered once or lost once, and there is no other."""
    ledger = load("ledger").Ledger("welcome", Counter(accepted), Counter(delivered), Counter(lost))
    assert ledger.balances() is balances


def test_the_recipients_hold_what_the_demo_is_about() -> None:
    """Three hundred people at example domains, with double clicks, odd names and nonsense among them."""
    people = load("crowd").read_people()
    addresses = [person["email"].strip().lower() for person in people]
    assert len(people) == 300
    assert len(set(addresses)) < len(addresses)
    assert any(not person["name"].isascii() for person in people)
    assert all("example." in address for address in addresses if "@" in address)
