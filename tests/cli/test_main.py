"""The entry of the command: its overview, its messages and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

import neoq
from neoq.cli.main import command_of, main, names, parser_of

ROOT = Path(__file__).parents[2]
APP = """
import neoq
backend = neoq.connect("sqlite:///jobs.db", autostart=False)
backend.listen("emails", print, concurrency=4)
def create_app(): return backend
def failing(): raise RuntimeError("no settings")
class Flask:
    class Extension:
        pass
    extensions = {"neoq": Extension()}
flask_app = Flask()
flask_app.extensions["neoq"].backend = backend
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the working directory."""
    name = f"shop_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(APP, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("NEOQ_APP", raising=False)
    return name


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the overview is printed, with every command in it."""
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in names())
    assert "example:" in out.splitlines()[-1]


@pytest.mark.parametrize("name", names())
def test_help_fits_a_screen_and_ends_with_an_example(name: str) -> None:
    """The help of each command has at most 40 lines of 100 characters, and an example at its end."""
    lines = parser_of(name, command_of(name)).format_help().splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert lines[-1].startswith("example: neoq ")


@pytest.mark.parametrize("prog", ["flask neoq", "manage.py neoq"])
def test_help_inside_of_a_framework(prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a framework names the application, a help shows none, and the command as it is called."""
    for arguments in ([], *([name, "--help"] for name in names())):
        with suppress(SystemExit):  # of argparse, after a help
            main(arguments, prog)
        said = capsys.readouterr().out
        assert said.splitlines()[-1].startswith(f"example: {prog} ")
        assert "shop:backend" not in said.splitlines()[-1]
        assert "[APP]" not in said
        assert "module:factory()" not in said
        assert said.startswith(f"usage: {prog} ")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["chek"], 2, "did you mean check?"),
        (["check", "--hepl"], 2, "did you mean --help?"),
        (["check", "a", "b"], 2, "'b' is one too many"),
        (["check"], 2, "NEOQ_APP"),
        (["check", "SHOP:bakend"], 3, "did you mean backend?"),
        (["check", "SHOP:create_app"], 3, "write 'SHOP:create_app()'"),
        (["check", "SHOP:failing()"], 3, "RuntimeError: no settings"),
        (["check", "SHOP:1 + 1"], 2, "neither an attribute nor a call"),
        (["check", "SHOP:APP"], 3, "has no APP"),
        (["check", "no_such_module"], 3, "there is no module no_such_module"),
        (
            ["check", "sys:maxsize"],
            3,
            "sys:maxsize is of type int, not a neoq backend; write module:attribute",
        ),
        (["check", "no-module"], 2, "not the name of a module"),
    ],
)
def test_mistakes_have_a_code_and_a_remedy(
    module: str, arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong command line, or an application that cannot be imported, says what to do."""
    assert main([word.replace("SHOP", module) for word in arguments]) == code
    said = capsys.readouterr()
    assert told.replace("SHOP", module) in said.err
    assert not said.out


@pytest.mark.parametrize("app", ["SHOP", "SHOP:backend", "SHOP:create_app()", "SHOP:flask_app"])
def test_an_application_is_found(module: str, app: str, capsys: pytest.CaptureFixture[str]) -> None:
    """APP is a module, an attribute, a call, or an application with the extension."""
    assert main(["check", app.replace("SHOP", module)]) == 0
    assert "queue emails: 4 threads" in capsys.readouterr().out


def test_a_traceback_begins_in_the_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback of a failing import shows no line of the command."""
    name = f"shop_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert main(["check", name]) == 3
    told = capsys.readouterr().err
    assert "ZeroDivisionError" in told
    assert "neoq/cli" not in told
    assert "importlib" not in told


def test_words_are_completed(tmp_path: Path) -> None:
    """Where argcomplete is installed, the shell is told the commands and options that may be meant."""
    pytest.importorskip("argcomplete")
    for line, word in (("neoq hea", "health"), ("neoq worker --proc", "--processes")):
        environ = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE": "1"}
        environ |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words"), "PATH": os.environ["PATH"]}
        subprocess.run([sys.executable, "-m", "neoq"], cwd=ROOT, env=environ, timeout=30, check=False)
        assert (tmp_path / "words").read_text(encoding="utf-8").split() == [word]


def test_neoq_is_a_module_that_runs() -> None:
    """`python -m neoq` is the command."""
    done = subprocess.run(
        [sys.executable, "-m", "neoq", "--version"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout[:5]) == (0, "neoq ")


def test_check_names_what_looks_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`neoq check` shows queues and schedules, and names a queue to which nobody listens; it runs nothing."""
    name = f"shop_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(
        """
import neoq
backend = neoq.connect("sqlite:///jobs.db", autostart=False)
backend.listen("emails", lambda job: 1 / 0)
backend.listen_cron("0 3 * * *", print, queue="report")
backend.enqueue_many([neoq.Job("emials", {"n": n}) for n in range(3)])
backend.enqueue("emails")
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    assert main(["check", name]) == 1
    out = capsys.readouterr().out
    assert "problem: 3 jobs wait in queue emials, and nobody listens on it; did you mean emails?" in out
    assert out.count("problem") == 1
    assert "cron" in out
    assert main(["check", name, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [queue["queue"] for queue in told["queues"]] == ["emails", "report"]
    assert len(told["problems"]) == 1
    with neoq.connect("sqlite:///jobs.db", autostart=False) as backend:
        assert [counts.ready for counts in backend.queues()] == [1, 3]
