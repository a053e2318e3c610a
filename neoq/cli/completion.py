"""Completion in the shell by argcomplete, where that is installed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from neoq.cli.exits import Exit
from neoq.cli.parser import Parser


def complete(commands: Mapping[str, Callable[[Parser], None]]) -> None:
    """Answer the shell's question and end the process; return where argcomplete is not installed."""
    try:
        import argcomplete
    except ModuleNotFoundError:
        return
    parser = Parser("neoq")
    parts = parser.add_subparsers(parser_class=Parser)
    for name, add_arguments in commands.items():
        add_arguments(parts.add_parser(name))
    try:
        argcomplete.autocomplete(parser)
    except BrokenPipeError:  # the shell is gone; at once, as argcomplete ends
        os._exit(Exit.UNREAD)
