"""neoq stats: the whole store in numbers."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from neoq.cli import output
from neoq.cli.listing import COUNTS, listeners_of, notes_on
from neoq.cli.parser import Parser, seconds
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from neoq.backend import Backend
    from neoq.store import QueueCounts

HELP = "count the jobs of the whole store"
EXAMPLE = "neoq stats --watch 5"
GROUP = "Look"


def add_arguments(parser: Parser) -> None:
    """Once, or again and again."""
    parser.add_argument(
        "--watch",
        nargs="?",
        type=seconds,
        const=2.0,
        metavar="SECONDS",
        help="print a line again and again (default: each 2 s)",
    )
    output.add_json(parser)
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Print them."""
    with opened(args) as backend:
        if args.watch is not None:
            _watch(backend, args)
        queues = backend.queues()
        counts = _counts(queues)
        if args.json:
            output.print_json(counts)
            return 0
        workers = backend.workers()
    notes = notes_on(queues, listeners_of(workers))
    width = max(map(len, COUNTS))
    for name, number in [*counts.items(), ("workers", len(workers))]:
        show(f"{name:<{width}}  {number:>12,}")
    for note in notes:
        say(note)
    return 0


def _counts(queues: Sequence[QueueCounts]) -> dict[str, int]:
    return {name: sum(getattr(queue, name) for queue in queues) for name in COUNTS}


def _watch(backend: Backend, args: argparse.Namespace) -> None:
    """Print a line at each interval, until Ctrl-C."""
    head = ("time", *COUNTS)
    lines = 0
    while True:
        counts = _counts(backend.queues())
        if args.json:
            output.print_json(counts)
        else:
            if lines % 20 == 0:
                show(" ".join(f"{name:>10}" for name in head))
            clock = time.strftime("%H:%M:%S")
            show(" ".join([f"{clock:>10}", *(f"{number:>10}" for number in counts.values())]), flush=True)
        lines += 1
        time.sleep(args.watch)
