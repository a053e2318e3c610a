"""The folder of a worker's socket."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from neoq.cli.exits import CommandError
from neoq.cli.runtime_dir import socket_of


def test_a_long_temporary_folder_gives_way_to_a_short_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket lies under $TMPDIR, and under /tmp where its path would be too long for a socket."""
    for variable in ("NEOQ_RUNTIME_DIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("TMPDIR", "/short")
    assert socket_of("shop") == Path(f"/short/neoq-{os.getuid()}/neoq-shop.sock")
    monkeypatch.setenv("TMPDIR", "/long" * 20)
    assert socket_of("shop") == Path(f"/tmp/neoq-{os.getuid()}/neoq-shop.sock")


def test_a_long_folder_of_the_users_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was asked for is used, or refused with what to do."""
    monkeypatch.setenv("NEOQ_RUNTIME_DIR", "/long" * 20)
    with pytest.raises(CommandError, match="set NEOQ_RUNTIME_DIR"):
        socket_of("shop")
