"""The operating commands on a terminal: colours, questions, and the screen of top."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import neoq
from neoq.cli import output
from tests.cli.operating import ROOT, fill

pty = pytest.importorskip("pty")
PATIENCE = 30.0


class OnTerminal:
    """The command on a terminal of its own."""

    def __init__(self, *arguments: str, **env: str) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "neoq", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **env},
            stdin=slave, stdout=slave, stderr=slave,
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, pattern: str) -> None:
        """Read until this is on the terminal."""
        give_up = time.monotonic() + PATIENCE
        while not re.search(pattern, self.seen):
            assert time.monotonic() < give_up, self.seen
            if not self._read():
                raise AssertionError(f"ended before {pattern!r}: {self.seen}")

    def ends(self) -> int:
        """Read to the end; the exit code."""
        while self._read():
            pass
        os.close(self.master)
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        if not select.select([self.master], [], [], PATIENCE)[0]:
            self.process.kill()
            raise AssertionError(f"nothing for {PATIENCE:g} s after: {self.seen}")
        try:
            data = os.read(self.master, 65536)
        except OSError:  # the other end is closed
            return False
        self.seen += data.decode(errors="replace")
        return bool(data)


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """A store with a job of each status that is easily made."""
    made = f"sqlite:///{tmp_path}/jobs.db"
    fill(neoq.connect(made, autostart=False))
    return made


def test_a_terminal_has_colours_unless_refused(url: str) -> None:
    """Statuses are coloured on a terminal, and NO_COLOR is heard."""
    coloured, bare = OnTerminal("jobs", "--url", url), OnTerminal("jobs", "--url", url, NO_COLOR="1")
    assert (coloured.ends(), bare.ends()) == (0, 0)
    assert "\x1b[31mdead\x1b[0m" in coloured.seen
    assert "dead" in bare.seen
    assert "\x1b" not in bare.seen


def test_a_change_by_filter_asks_at_a_terminal(url: str) -> None:
    """The question comes with a count and a sample; anything but yes changes nothing."""
    refused = OnTerminal("delete", "--status", "dead", "--url", url)
    refused.until(r"delete 1 job\? \[y/N\]")
    assert "mailbox" in refused.seen
    refused.type("\n")
    assert refused.ends() == 1
    assert "nothing was changed" in refused.seen
    agreed = OnTerminal("delete", "--status", "dead", "--url", url)
    agreed.until(r"\[y/N\]")
    agreed.type("y\n")
    assert agreed.ends() == 0
    assert "deleted 1 job" in agreed.seen


def test_top_draws_a_screen_until_q(url: str) -> None:
    """Top shows the queues again and again, ends with q, and leaves the terminal as it was."""
    top = OnTerminal("top", "--interval", "50ms", "--url", url)
    top.until(r"(?s)emails.*ended.*emails")
    top.type("q")
    assert top.ends() == 0
    assert "nobody listens on emails: 1 unfinished" in top.seen
    assert re.search(r"last 5 minutes: \d+ attempts; 95% waited \w+ and ran \w+ at most", top.seen)
    assert top.seen.index("\x1b[?1049h") < top.seen.rindex("\x1b[?1049l")


def test_a_table_is_aligned_whatever_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide signs take two columns, and a line that is too long is cut without its colours' codes."""
    lines = output.table(("name", "n"), [("é漢", 1_000), ("x\n", 2)])
    assert lines == ["NAME      N", "é漢   1,000", "x\\n       2"]
    assert output.fit("\x1b[31mdead\x1b[0m line", 6) == "\x1b[31mdead\x1b[0m l"
