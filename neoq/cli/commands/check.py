"""neoq check: import an application, connect to its store, and name every mistake; nothing is run."""

from __future__ import annotations

import argparse

from neoq.cli import target
from neoq.cli.parser import Parser

HELP = "import an application and reach its store, and run nothing"
EXAMPLE = "neoq check shop:backend"
GROUP = "Run jobs"


def add_arguments(parser: Parser) -> None:
    """An application."""
    target.add_app(parser)


def run(args: argparse.Namespace) -> int:
    """Say what a worker would run."""
    backend = target.load(target.app_of(args))
    backend.queues()
    for listener in backend.engine.listeners.values():
        print(f"{listener.queue}: concurrency {listener.concurrency}")
    return 0
