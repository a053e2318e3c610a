"""neoq health: ask a running worker of this machine whether it lives, and whether it is ready."""

from __future__ import annotations

import argparse

from neoq.cli.exits import CommandError, Exit, refuse_elsewhere
from neoq.cli.parser import Parser, seconds
from neoq.cli.probes import ask
from neoq.cli.runtime_dir import socket_of
from neoq.cli.streams import show

HELP = "ask the worker on this machine whether it lives"
EXAMPLE = "neoq health --ready --name mails"
GROUP = "Run jobs"
DESCRIPTION = "Ask a worker of this machine whether it lives. Ends with 0 if so, else with 1."


def add_arguments(parser: Parser) -> None:
    """Which worker, and what to ask."""
    parser.add_argument("--name", default="worker", help="the worker's --name (default: worker)")
    question = {"action": "store_const", "dest": "question", "default": "livez"}
    parser.add_argument(
        "--ready", const="readyz", help="does every process claim, and reach the store", **question
    )
    parser.add_argument("--json", const="status", help="print its whole state", **question)
    parser.add_argument(
        "--timeout", type=seconds, default=5.0, metavar="SECONDS", help="wait at most (default: 5)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the answer."""
    refuse_elsewhere("neoq health")
    path = socket_of(args.name)
    try:
        code, text = ask(path, args.question, args.timeout)
    except OSError as error:
        raise CommandError(
            f"no worker named {args.name} answers at {path}: {error.strerror or error}"
        ) from error
    show(text, end="")
    return Exit.OK if code == 200 else Exit.FAILED
