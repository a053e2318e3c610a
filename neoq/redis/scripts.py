"""The scripts that run inside the server: one a batch transition, each in a file of neoq/redis/lua.

A file names its keys on lines ``-- keys:``, and its arguments on the line ``-- takes:``. Python passes
them by the same names (`Script.arguments`). FIRST is the place of the first argument after those. Every
script is safe to send again after its reply was lost.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# Jobs of one script, so that none holds the server for long: adding one costs more while the server enlarges
# the tables of a million jobs.
AT_ONCE = 50
_DIRECTORY = Path(__file__).parent / "lua"
_COMMON = ("job.lua", "step.lua", "line.lua", "group.lua")  # functions for several scripts
_DRAIN = "#!lua flags=allow-oom\n"  # what makes room in a full server must run there
_LOOK = "#!lua flags=no-writes\n"  # the same, and replicas run it, for users who may not write too


class Script:
    """A script: its text, the names of its keys, and its digest, by which the server knows it.

    One that ``looks`` writes nothing.
    """

    def __init__(self, name: str, *, drains: bool, looks: bool = False) -> None:
        self.name = name
        self.looks = looks
        source = (_DIRECTORY / f"{name}.lua").read_text(encoding="utf-8")
        self.keys = _named(source, "keys")
        self.takes = _named(source, "takes")
        keys, takes = _local("KEYS", map(str.upper, self.keys)), _local("ARGV", self.takes)
        text = f"{keys}{takes}local FIRST = {len(self.takes) + 1}\n{_with_functions(source)}"
        self.text = ((_LOOK if looks else _DRAIN) + text if drains else text).encode()
        self.digest = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()

    def arguments(self, **named: Any) -> list[Any]:
        """The named arguments in the order of the script; those of each job follow them."""
        if len(named) != len(self.takes):
            raise TypeError(f"{self.name}.lua takes {', '.join(self.takes)}")
        return [named[name] for name in self.takes]


def _named(source: str, what: str) -> tuple[str, ...]:
    start = f"-- {what}: "
    lines = [line.removeprefix(start) for line in source.splitlines() if line.startswith(start)]
    return tuple(" ".join(lines).split())


def _local(table: str, names: Iterable[str]) -> str:
    """Lua that gives names to the first values of a table."""
    listed = list(names)
    values = ", ".join(f"{table}[{number}]" for number in range(1, len(listed) + 1))
    return f"local {', '.join(listed)} = {values}\n" if listed else ""


def _with_functions(text: str) -> str:
    """A script with those common functions before it that it calls: each costs a little at every run."""
    called = set(_words(text))
    parts = [text]
    for function, block in _blocks():
        if function is None or function in called:
            parts.append(block)
            called.update(_words(block))
    return "\n\n".join(reversed(parts))


_words = re.compile(r"\w+").findall


@functools.cache
def _blocks() -> list[tuple[str | None, str]]:
    """The common functions with their names, last to first, and what stands between them."""
    texts = [(_DIRECTORY / name).read_text(encoding="utf-8") for name in _COMMON]
    found = []
    for block in reversed([block for text in texts for block in text.split("\n\n")]):
        function = re.search(r"^local function (\w+)", block, re.MULTILINE)
        found.append((None if function is None else function[1], block))
    return found


class Scripts:
    """All scripts, as a server of this version takes them."""

    def __init__(self, version: tuple[int, ...]) -> None:
        flags = version >= (7,)  # older ones know no flags, and refuse every write when they are full
        self.add = Script("add", drains=False)
        self.add_one = Script("add_one", drains=False)
        self.add_new = Script("add_new", drains=False)
        self.bar = Script("bar", drains=flags)
        self.beat = Script("beat", drains=flags)
        self.call = Script("call", drains=flags)
        self.change = Script("change", drains=flags)
        self.claim = Script("claim", drains=flags)
        self.count = Script("count", drains=flags)
        self.claim_limited = Script("claim_limited", drains=flags)
        self.counts = Script("counts", drains=flags, looks=True)
        self.drop = Script("drop", drains=flags)
        self.extend = Script("extend", drains=flags)
        self.finish = Script("finish", drains=flags)
        self.forget_uids = Script("forget_uids", drains=flags)
        self.finish_counted = Script("finish_counted", drains=flags)
        self.forget_groups = Script("forget_groups", drains=flags)
        self.form_lines = Script("form_lines", drains=flags)
        self.gate = Script("gate", drains=False)
        self.halted = Script("halted", drains=flags)
        self.let_go = Script("let_go", drains=flags, looks=True)
        self.note = Script("note", drains=False)
        self.sweep = Script("sweep", drains=flags)
        self.take_over = Script("take_over", drains=flags)
        self.told = Script("told", drains=flags)
        self.untold = Script("untold", drains=flags, looks=True)
        self.sift = Script("sift", drains=flags, looks=True)
        self.kinds = Script("kinds", drains=flags, looks=True)
        self.limit = Script("limit", drains=flags)
        self.lines = Script("lines", drains=flags, looks=True)
        self.look = Script("look", drains=flags, looks=True)
        self.overdue = Script("overdue", drains=flags, looks=True)
        self.reclaim = Script("reclaim", drains=flags)
        self.reconcile = Script("reconcile", drains=flags)
        self.record = Script("record", drains=flags)
        self.register = Script("register", drains=False)
        self.series = Script("series", drains=False)
        self.release = Script("release", drains=flags)
        self.signal = Script("signal", drains=False)
        self.settle = Script("settle", drains=flags)
        self.tidy = Script("tidy", drains=flags)


@functools.cache
def scripts_of(version: tuple[int, ...]) -> Scripts:
    """The scripts for a version of the server: put together once in a process, for any number of backends."""
    return Scripts(version)
