"""neoq worker: run the jobs of an application in processes that are supervised."""

from __future__ import annotations

import argparse
from typing import Any

from neoq.cli import logs, target
from neoq.cli.exits import CommandError, Exit, refuse_elsewhere
from neoq.cli.options import WorkerOptions
from neoq.cli.parser import Parser, count, seconds

HELP = "run the jobs of an application"
EXAMPLE = "neoq worker shop:backend --processes 2 --concurrency mails=8"
GROUP = "Run jobs"
DESCRIPTION = """Run the jobs of an application. Each option has a variable: NEOQ_WORKER_PROCESSES and so on.
Signals: TERM, INT stop (again: interrupt jobs), HUP replaces the processes, TSTP stops claiming,
USR1 prints stacks. Exit: 0 stopped, 1 failed, 2 usage, 3 import, 4 store, 5 jobs were interrupted."""
PARSER: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "usage": "neoq worker [APP] [options]"}
LEVELS = ("debug", "info", "warning", "error", "critical")


def add_arguments(parser: Parser) -> None:
    """The application, and how to run it."""
    target.add_app(parser)
    add = parser.add_argument
    add("--processes", type=count(), metavar="N", help="processes (default: 1)")
    add(
        "--concurrency",
        type=_concurrency,
        action="append",
        metavar="[QUEUE=]N",
        help="threads of a queue, or of each",
    )
    add("--queues", type=_words, metavar="A,B", help="only these queues")
    add("--exclude", type=_words, metavar="A,B", help="all queues but these")
    add("--drain", action="store_true", help="end when no job is ready")
    add("--reload", action="store_true", help="replace the processes when a source changes")
    add("--max-jobs", type=count(), metavar="N", help="replace a process after about N jobs")
    add("--max-memory", type=count(), metavar="MB", help="replace a process that has grown to about MB")
    add("--wait", type=seconds, metavar="SECONDS", help="wait for the store at the start (default: 0)")
    add(
        "--shutdown-timeout",
        type=seconds,
        metavar="SECONDS",
        help="for running jobs to end (default: the backend's)",
    )
    add("--port", metavar="[HOST:]PORT", help="answer /livez, /readyz, /metrics there (host: 127.0.0.1)")
    add("--pidfile", metavar="FILE", help="write the supervisor's pid there")
    add("--name", help="for logs and `neoq health` (default: worker)")
    add("--log-format", choices=("text", "json"), help="instead of the application's own")
    add("--log-level", choices=LEVELS, type=str.lower, metavar="LEVEL", help="default: info")


def _words(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise argparse.ArgumentTypeError("it takes names of queues, separated by commas")
    return words


def _concurrency(text: str) -> dict[str, int]:
    """``8``, ``emails=4`` or ``8,emails=4``: by queue, and "" for the others."""
    given: dict[str, int] = {}
    for part in text.split(","):
        queue, _, number = part.strip().rpartition("=")
        if not number.isdigit() or int(number) < 1 or (not queue and "=" in part):
            raise argparse.ArgumentTypeError(f"{part!r} is neither N nor QUEUE=N")
        given[queue] = int(number)
    return given


def run(args: argparse.Namespace) -> int:
    """Run the worker."""
    refuse_elsewhere("neoq worker")
    from neoq.cli.supervisor import Supervisor

    parser: Parser = args.parser
    parser.read_variables(args, "NEOQ_WORKER_")
    given = {name: value for name, value in vars(args).items() if name not in {"parser", "app"}}
    if isinstance(given.get("concurrency"), list):
        given["concurrency"] = {queue: n for part in given["concurrency"] for queue, n in part.items()}
    options = WorkerOptions(target.app_of(args), **given)
    if options.drain and options.reload:
        raise CommandError("--drain ends and --reload goes on: use one of them", Exit.USAGE)
    logs.begin(options.name, options.log_format, options.log_level)
    return Supervisor(options).run()
