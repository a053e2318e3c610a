"""neoq limit: show or change the limits of a queue, in all processes."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from neoq.cli import output
from neoq.cli.exits import CommandError, Exit
from neoq.cli.output import plain
from neoq.cli.parser import Parser
from neoq.cli.streams import say, show
from neoq.cli.target import add_store, opened
from neoq.errors import ConfigError

if TYPE_CHECKING:
    from neoq.held.limits import Limits, Rate

HELP = "show or change the limits of a queue"
EXAMPLE = "neoq limit imports --per-key 5 --rate 100/60"
GROUP = "Change"
DESCRIPTION = """Show the limits of queues, or change those of one, at once and in all processes.

They override those of listeners, also of workers that start later, until --reset."""
_RATE = re.compile(r"(\d+)(?:/(\d+(?:\.\d+)?))?(?::(\d+))?")


def add_arguments(parser: Parser) -> None:
    """Which queue, and which limits."""
    parser.add_argument("queue", nargs="?", metavar="QUEUE", help="the queue; without one all are shown")
    parser.add_argument("--per-key", type=_count, metavar="N", help="jobs of one key at once")
    parser.add_argument("--max-running", type=_count, metavar="N", help="jobs of the queue at once")
    parser.add_argument(
        "--rate", type=_rate, metavar="N/SECONDS", help="starts: 100/60, or 100/60:10 with a burst of 10"
    )
    parser.add_argument("--rate-per-key", type=_rate, metavar="N/SECONDS", help="starts of one key")
    parser.add_argument("--reset", action="store_true", help="go back to the limits of the listeners")
    output.add_json(parser)
    add_store(parser)


def _count(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def _rate(text: str) -> Rate:
    from neoq.held.limits import Rate

    found = _RATE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate such as 100/60, or 100/60:10")
    n, per, burst = found.groups()
    try:
        return Rate(int(n), float(per or 1), None if burst is None else int(burst))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {'; '.join(error.problems)}") from None


def run(args: argparse.Namespace) -> int:
    """Do it, or print them."""
    names = ("per_key", "max_running", "rate", "rate_per_key")
    given: dict[str, Any] = {name: value for name in names if (value := getattr(args, name)) is not None}
    if (given or args.reset) and args.queue is None:
        raise CommandError("name the queue whose limits change", Exit.USAGE)
    if given and args.reset:
        raise CommandError("--reset takes all limits back: give it alone", Exit.USAGE)
    with opened(args) as backend:
        if args.reset:
            backend.limit(args.queue, None)
        elif given:
            backend.limit(args.queue, **given)
        limits = dict(backend.limits())
    if args.queue is not None:
        limits = {args.queue: limits[args.queue]} if args.queue in limits else {}
    _print(args, limits)
    return 0


def _print(args: argparse.Namespace, limits: dict[str, Limits]) -> None:
    from neoq.held.limit_options import words_for

    if args.json:
        for queue, of_queue in limits.items():
            output.print_json({"queue": queue} | of_queue._asdict())
    elif limits:
        rows = [(plain(queue, 40), plain(words_for(of_queue))) for queue, of_queue in sorted(limits.items())]
        show("\n".join(output.table(("queue", "limits"), rows)))
    else:
        say("no queue has limits" if args.queue is None else f"{plain(args.queue)} has no limits")
