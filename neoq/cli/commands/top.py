"""neoq top: queues, workers and running jobs on a screen that is drawn anew."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from neoq.cli import output
from neoq.cli.exits import CommandError, Exit
from neoq.cli.listing import job_rows, listeners_of, notes_on, queue_rows, worker_rows
from neoq.cli.output import span, table
from neoq.cli.parser import Parser, seconds
from neoq.cli.target import add_store, opened

if TYPE_CHECKING:
    from neoq.backend import Backend
    from neoq.series import SeriesPoint
    from neoq.store import QueueCounts

HELP = "watch queues, workers and running jobs"
EXAMPLE = "neoq top --interval 5"
GROUP = "Look"
SHOWN = 12  # queues, workers and running jobs, each
LATELY = 300  # seconds
_ALTERNATE, _NORMAL, _HOME, _REST = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l", "\x1b[H", "\x1b[K\n"


def add_arguments(parser: Parser) -> None:
    """How often."""
    parser.add_argument(
        "--interval", type=seconds, default=2.0, metavar="SECONDS", help="between two looks (default: 2)"
    )
    add_store(parser)


def run(args: argparse.Namespace) -> int:
    """Draw until q or Ctrl-C."""
    if not (output.is_terminal(sys.stdout) and output.is_terminal(sys.stdin)):
        raise CommandError("top needs a terminal; without one use: neoq stats --watch --json", Exit.USAGE)
    with opened(args) as backend, _screen():
        before: tuple[float, int] | None = None
        while True:
            queues = backend.queues()
            now, ended = time.monotonic(), sum(one.succeeded + one.dead + one.cancelled for one in queues)
            rate = None if before is None else max(0.0, (ended - before[1]) / (now - before[0]))
            before = now, ended
            _draw(screen_lines(backend, queues, rate))
            if _asked_to_quit(args.interval):
                return 0


def screen_lines(backend: Backend, queues: list[QueueCounts], rate: float | None) -> list[str]:
    """What is to be seen."""
    from neoq.record import Status

    workers = backend.workers()
    running = backend.jobs(status=Status.RUNNING, limit=SHOWN, brief=True)
    listeners = listeners_of(workers)
    busiest = sorted(queues, key=lambda one: (-one.unfinished, one.queue))
    total = sum(one.running for one in queues)
    speed = "-" if rate is None else f"{rate:,.1f}/s"
    busy, ready, dead = total, sum(one.ready for one in queues), sum(one.dead for one in queues)
    clock, processes = time.strftime("%H:%M:%S"), output.many(len(workers), "worker")
    lines = [
        f"{clock}  {processes}  {busy:,} running  {ready:,} ready  {dead:,} dead  {speed} ended  (q quits)"
    ]
    lines += _lately(backend.series(since=LATELY))
    lines += notes_on(queues, listeners)
    for title, rows, number in (
        ("queues", table(*queue_rows(busiest[:SHOWN], listeners)), len(queues)),
        ("workers", table(*worker_rows(workers[:SHOWN])), len(workers)),
        ("running jobs", table(*job_rows(running)), total),
    ):
        more = f" ({SHOWN} of {number:,})" if number > SHOWN else ""
        lines += ["", f"{title}{more}", *rows]
    return lines


def _lately(points: list[SeriesPoint]) -> list[str]:
    """A line on what attempts came to in the last minutes; none where none has ended."""
    from neoq.series import NOTHING

    if not points:
        return []
    ended = sum(sum(point.outcomes.values()) for point in points)
    waited = sum((point.waits for point in points), NOTHING).quantile(0.95)
    ran = sum((point.runs for point in points), NOTHING).quantile(0.95)
    slow = "" if waited is None or ran is None else f"; 95% waited {span(waited)} and ran {span(ran)} at most"
    return [f"last {LATELY // 60} minutes: {output.many(ended, 'attempt')}{slow}"]


def _draw(lines: list[str]) -> None:
    columns, height = shutil.get_terminal_size()
    shown = [output.fit(line, columns) for line in lines[: height - 1]]
    sys.stdout.write(f"{_HOME}{_REST.join(shown)}\x1b[K\x1b[J")
    sys.stdout.flush()


@contextmanager
def _screen() -> Iterator[None]:
    """A screen of its own, whose keys come one by one and unseen; afterwards all is as before."""
    restore = _read_keys()
    sys.stdout.write(_ALTERNATE)
    try:
        yield
    finally:
        sys.stdout.write(_NORMAL)
        sys.stdout.flush()
        restore()


def _read_keys() -> Callable[[], object]:
    if os.name != "posix":
        return bool
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    return lambda: termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _asked_to_quit(seconds: float) -> bool:
    """Wait for the next look; whether q was pressed meanwhile."""
    if os.name != "posix":
        time.sleep(seconds)
        return False
    import select

    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left)[0] and os.read(sys.stdin.fileno(), 1) in {
            b"q",
            b"Q",
            b"",
        }:
            return True
    return False
