"""The command `neoq dashboard`: where it listens, whom it lets in, and how it ends."""

from __future__ import annotations

import base64
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import neoq
from neoq.cli.main import main


@contextmanager
def served(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of a dashboard, and its process."""
    command = [sys.executable, "-m", "neoq", "dashboard", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            found = re.search(r"http://\S+/", line)
            assert found, line + process.stderr.read()
            yield found[0], process
        finally:
            process.kill()


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    with neoq.connect(url, autostart=False) as backend:
        backend.enqueue("mails", {"n": 1})
    return url


def asked(address: str, **headers: str) -> tuple[int, str, str]:
    """The status, the challenge and the text that a page is answered with."""
    request = urllib.request.Request(
        f"{address}queues", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.headers.get("WWW-Authenticate", ""), answer.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_this_machine_until_a_signal(url: str, number: signal.Signals) -> None:
    """It serves the pages of a store by the URL that it prints, and TERM and Ctrl-C end it with 0."""
    with served("--url", url) as (address, process):
        status, _, text = asked(address)
        assert status == 200
        assert "mails" in text
        assert asked(address, Host="evil.example")[0] == 403
        assert asked(address, X_Forwarded_For="10.0.0.1")[0] == 403
        process.send_signal(number)
        assert process.wait(20) == 0


def test_a_password_is_asked_for(url: str, tmp_path: Path) -> None:
    """With a password file it listens to others, and lets in those who know the password."""
    secret = tmp_path / "password"
    secret.write_text("hunter2\n", encoding="utf-8")
    with served("--url", url, "--host", "0.0.0.0", "--password-file", str(secret)) as (printed, _):
        address = printed.replace("0.0.0.0", "127.0.0.1")
        status, challenge, _ = asked(address)
        assert status == 401
        assert challenge.startswith("Basic")
        for password, expected in (("hunter2", 200), ("hunter3", 401)):
            pair = base64.b64encode(f"ada:{password}".encode()).decode()
            assert asked(address, Authorization=f"Basic {pair}")[0] == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "memory://"], "jobs in memory are seen only by the process that has them"),
        ([], "which store?"),
        (["--host", "0.0.0.0"], "--password-file FILE"),
        (
            ["--host", "0.0.0.0", "--password-file", "PASSWORD", "--allow", "retry"],
            "--allow is for this machine",
        ),
        (["--password-file", "nothing"], "cannot be read"),
        (["--password-file", "EMPTY"], "its first line is empty"),
        (["--allow", "explode"], "'explode' is none; rights are retry"),
        (["--port", "99999"], "is no port"),
        (["--port", "TAKEN"], "cannot listen on 127.0.0.1, port"),
    ],
)
def test_what_cannot_be_served_is_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Whatever would be unsafe or impossible is refused, with what to do about it."""
    (tmp_path / "password").write_text("hunter2\n", encoding="utf-8")
    (tmp_path / "empty").write_text("\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = {
            "PASSWORD": str(tmp_path / "password"),
            "EMPTY": str(tmp_path / "empty"),
            "TAKEN": str(taken.getsockname()[1]),
        }
        given = [words.get(word, word) for word in arguments]
        store = ["--url", url] if given and "--url" not in given else []
        try:
            code = main(["dashboard", *store, *given])
        except SystemExit as ended:
            code = int(ended.code or 0)
    assert code == 2
    assert said in capsys.readouterr().err
