"""Measure neoq beside its peers, and show which of its promises it keeps.

Each measurement has a process of its own. The contenders take turns (neoq, one peer, the next, neoq
again ...), so that a drift of the machine affects all of them; ratios are taken within a round. The
tables show the median of the rounds and [the least .. the most]. Every run counts its jobs: if one was
lost or ran twice, the whole benchmark ends with status 1. A missed promise does not change the status.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import IO, Any

import batches
import command
import dashboard
import future_jobs
import import_time
import latency
import lines
import memory
import on_postgres
import on_redis
import sqlite
import steps
import supervised
import tasks
import throughput
import wait
from contenders import CONTENDERS
from contest import Bar, Contest, LeftOut, Measures
from on_servers import URL
from rich.console import Console
from rich.table import Table
from servers import SERVERS, emptied

CONTESTS: dict[str, Contest] = {
    **throughput.CONTESTS,
    **latency.CONTESTS,
    **future_jobs.CONTESTS,
    **memory.CONTESTS,
    **import_time.CONTESTS,
    **on_postgres.CONTESTS,
    **on_redis.CONTESTS,
    **sqlite.CONTESTS,
    **wait.CONTESTS,
    **tasks.CONTESTS,
    **supervised.CONTESTS,
    **command.CONTESTS,
    **dashboard.CONTESTS,
    **batches.CONTESTS,
    **lines.CONTESTS,
    **steps.CONTESTS,
}
CHILD_SECONDS = 600
RELEASES = (
    "neoq huey dramatiq APScheduler procrastinate pgqueuer rq celery taskiq-redis dbos psycopg redis".split()
)

# A contender's measures, one dict a round.
Results = dict[str, list[Measures]]
console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)


class MeasurementFailed(Exception):
    """A child failed; that includes jobs that did not run exactly once."""


def main() -> int:
    options = read_options()
    if options.one:
        return measure_one(*options.one, quick=options.quick)
    began = time.monotonic()
    with options.json.open("w", encoding="utf-8") as log:
        write(log, kind="machine", **machine())
        console.print(" · ".join(f"{name} {value}" for name, value in machine().items()))
        try:
            bars = [bar for name in options.contests for bar in hold(name, options, log)]
        except MeasurementFailed as failure:
            print(failure, file=sys.stderr)
            return 1
    console.print(table_of_bars(bars))
    if options.quick:
        console.print("a quick run shows that all works; it is too short to judge by")
    console.print(f"{time.monotonic() - began:.0f} s")
    return 0


def read_options() -> argparse.Namespace:
    usual = [name for name, contest in CONTESTS.items() if not contest.long]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contests", nargs="*", metavar="contest", help=f"among {', '.join(CONTESTS)}")
    parser.add_argument("--rounds", type=int, help="how often each contender measures (5; 1 if quick)")
    parser.add_argument("--quick", action="store_true", help="one round of small measurements")
    parser.add_argument(
        "--long", action="store_true", help="also the contests that take minutes, in one round unless told"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(os.devnull),
        metavar="FILE",
        help="write every measurement there, as a line of JSON",
    )
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.contests) - set(CONTESTS):
        parser.error(f"no such contest: {', '.join(sorted(unknown))}; there are {', '.join(CONTESTS)}")
    options.contests = options.contests or (list(CONTESTS) if options.long else usual)
    options.told = options.rounds is not None
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def measure_one(contest: str, contender: str, *, quick: bool) -> int:
    """The work of a child: one measurement, printed as JSON."""
    try:
        measures = CONTESTS[contest].measure(contender, quick)
    except LeftOut as missing:
        print(json.dumps({"left out": str(missing)}), flush=True)
    else:
        print(json.dumps(measures), flush=True)
    # Jobs that still wait in this process were never meant to run: do not drain or join anything.
    os._exit(0)


def hold(name: str, options: argparse.Namespace, log: IO[str]) -> list[list[str]]:
    """Hold a contest, print its table, and return a row for each of its bars."""
    contest = CONTESTS[name]
    present = [contender for contender in contest.contenders if installed(contest, contender)]
    if not present:
        console.print(f"{name}: left out, {contest.needs} is not installed\n")
        return []
    if absent := set(contest.contenders) - set(present):
        console.print(f"{name}: not installed, so left out: {', '.join(sorted(absent))}")
    results: Results = {contender: [] for contender in present}
    rounds = 1 if contest.long and not options.told else options.rounds
    with ExitStack() as stack:
        server = stack.enter_context(SERVERS[contest.server]()) if contest.server else None
        status = stack.enter_context(console.status(name))
        for number in range(1, rounds + 1):
            for contender in present:
                status.update(f"{name}, round {number} of {rounds}: {contender}")
                url = emptied(contest.server, server) if contest.server and server else None
                try:
                    measures = measure_in_child(name, contender, quick=options.quick, url=url)
                except LeftOut as missing:
                    console.print(f"{name}: {contender} is left out: {missing}")
                    continue
                results[contender].append(measures)
                write(log, kind="measurement", contest=name, contender=contender, round=number, **measures)
    results = {contender: found for contender, found in results.items() if found}
    if not results:
        return []
    console.print(table_of_results(contest, results, rounds))
    rows = [row for bar in contest.bars if (row := judge(bar, results))]
    for promise, value, verdict in rows:
        write(log, kind="bar", contest=name, promise=promise, value=value, verdict=verdict)
    return rows


def installed(contest: Contest, contender: str) -> bool:
    known = (CONTENDERS if contest.among is None else contest.among).get(contender)
    needed = (contest.needs, known.package if known else None)
    absent = known is not None and hasattr(known, "absent") and known.absent()
    return not absent and all(package is None or find_spec(package) for package in needed)


def measure_in_child(contest: str, contender: str, *, quick: bool, url: str | None) -> Measures:
    command = [sys.executable, __file__, "--one", contest, contender, *(["--quick"] if quick else [])]
    env = {**os.environ, **({URL: url} if url else {})}
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=CHILD_SECONDS, check=False, env=env
        )
    except subprocess.TimeoutExpired:
        raise MeasurementFailed(f"{contest}: {contender} took more than {CHILD_SECONDS} s") from None
    if child.returncode != 0:
        raise MeasurementFailed(f"{contest}: {contender} failed\n{child.stderr}")
    measures: Measures = json.loads(child.stdout.splitlines()[-1])
    if "left out" in measures:
        raise LeftOut(measures["left out"])
    return measures


def judge(bar: Bar, results: Results) -> list[str] | None:
    """The promise, what was measured, and the verdict; None if a contender that it needs was left out."""
    if bar.contender not in results or (bar.against or bar.contender) not in results:
        return None
    values = series(results, bar.contender, bar.metric, bar.against)
    return [bar.promise, spread(values), "reached" if bar.reached(median(values)) else "missed"]


def series(results: Results, contender: str, metric: str, against: str | None = None) -> list[float]:
    """A metric round by round, or its ratio to another contender's in the same round."""
    own = [measures[metric] for measures in results[contender]]
    if against is None:
        return own
    return [value / other[metric] for value, other in zip(own, results[against], strict=True)]


def table_of_results(contest: Contest, results: Results, rounds: int) -> Table:
    title = f"{contest.title} (rounds: {rounds})"
    table = Table(title=title, title_justify="left", title_style="bold")
    metrics = list(dict.fromkeys(metric for measures in results.values() for metric in measures[0]))
    metric, against = contest.ratio or ("", "")
    compared = against in results
    table.add_column("", no_wrap=True)
    for heading in [*metrics, *([f"{metric} x {against}"] if compared else [])]:
        table.add_column(heading, justify="right", overflow="fold")
    for contender, measures in results.items():
        cells = [spread(series(results, contender, name)) if name in measures[0] else "" for name in metrics]
        if compared:
            cells.append(spread(series(results, contender, metric, against)))
        table.add_row(contender, *cells)
    return table


def table_of_bars(rows: Iterable[list[str]]) -> Table:
    table = Table("promise", "measured", "", title="Promises", title_justify="left", title_style="bold")
    for promise, value, verdict in rows:
        table.add_row(promise, value, f"[green]{verdict}" if verdict == "reached" else f"[bold red]{verdict}")
    return table


def spread(values: list[float]) -> str:
    """The median and [the least .. the most], to three digits."""
    low, high = min(values), max(values)
    if low == high:
        return number(low)
    return f"{number(median(values))} \\[{number(low)}..{number(high)}]"


def number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def machine() -> dict[str, Any]:
    return {
        "Python": platform.python_version(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        **{name: found for name in RELEASES if (found := release(name))},
    }


def release(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write(log: IO[str], **line: Any) -> None:
    log.write(json.dumps(line) + "\n")
    log.flush()


if __name__ == "__main__":
    sys.exit(main())
