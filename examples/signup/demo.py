"""Sign a crowd up over HTTP while jobs send the mails, shut down in the middle, and account for every mail.

NEOQ_URL chooses where the jobs are kept; without it that is memory, where what has not run at the
shutdown is lost, and listed. Elsewhere a second backend finishes it; and if the demo is killed, the next
one finishes first what it left, and accounts for it. The exit status is 1 if the mails accepted are not
the mails delivered plus the mails reported as lost.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import jobs
from app import create_app
from crowd import Crowd, read_people
from flask import Flask
from journal import Journal
from ledger import Earlier, Ledger, ids_of, table_of
from rich.console import Console
from rich.logging import RichHandler
from screen import Screen
from sink import Sink
from werkzeug.serving import make_server

import neoq

MAILS = ("welcome", "reminder")
QUEUES = (*MAILS, "avatar")
PATIENCE = 30.0


def main() -> int:
    options = read_options()
    console = Console(highlight=False)
    level = logging.WARNING if options.verbose else logging.CRITICAL
    logging.basicConfig(
        level=level, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    try:
        return run(console, read_people(options.signups))
    except KeyboardInterrupt:
        console.print("stopped before the end: nothing is accounted for")
        return 130


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signups", type=int, metavar="N", help="post the first N people only")
    parser.add_argument("--verbose", action="store_true", help="show neoq's log: retries, timeouts, losses")
    return parser.parse_args()


def run(console: Console, people: list[dict[str, str]]) -> int:
    url = os.environ.get("NEOQ_URL") or "memory://"
    journal = Journal(None) if url.startswith("memory:") else Journal.of(url)
    with closing(journal), Sink(journal) as sink, Screen(console) as screen:
        with open_backend(sink) as backend:
            durable = "durable" in backend.features
            if durable:
                finish(backend, screen, "finishing what an earlier run left")
                if not account_for_earlier(console, journal, sink):
                    return 1
            with serve(create_app(backend)) as address, Crowd(address, people, journal) as crowd:
                report = shut_down_in_the_middle(backend, crowd, screen, len(people) * 2 // 3)
        if durable:  # nothing was lost there
            with open_backend(sink) as second:
                finish(second, screen, "a second backend finishes what was given back")
                report = second.shutdown()
        journal.clear()
    accepted = crowd.accepted()
    ledgers = [
        Ledger(kind, Counter(accepted[kind]), sink.delivered[kind], ids_of(report, kind)) for kind in MAILS
    ]
    return account(console, people, crowd, sink, ledgers)


def open_backend(sink: Sink) -> neoq.Backend:
    backend = neoq.connect()
    jobs.listen(backend, sink.address)
    return backend


@contextmanager
def serve(app: Flask) -> Iterator[tuple[str, int]]:
    """The application on a real server, on a free port."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield "127.0.0.1", server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shut_down_in_the_middle(
    backend: neoq.Backend, crowd: Crowd, screen: Screen, after: int
) -> neoq.ShutdownReport:
    """Watch the crowd; shut the backend down after so many answers, while it goes on posting."""
    while crowd.busy and len(crowd.answers) < after:
        time.sleep(0.1)
        screen.show(backend, f"{len(crowd.answers)} signups posted")
    report = backend.shutdown(timeout=10)
    while crowd.busy:
        time.sleep(0.1)
    return report


def finish(backend: neoq.Backend, screen: Screen, title: str) -> None:
    """Wait until no job is left, those for later and those waiting for a retry included."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        screen.show(backend, title)
        if not any(queue.unfinished for queue in backend.queues() if queue.queue in QUEUES):
            return
        time.sleep(0.1)


def account_for_earlier(console: Console, journal: Journal, sink: Sink) -> bool:
    """Whether all has arrived that a run promised which did not get to its end; print it if there was one."""
    earlier = [
        Earlier(kind, journal.promised[kind], journal.delivered[kind], sink.delivered[kind]) for kind in MAILS
    ]
    if any(journal.promised.values()):
        console.print("an earlier run did not get to its end; its mails:")
        for ledger in earlier:
            console.print(f"  {ledger}", soft_wrap=True)
    if not all(ledger.balances() for ledger in earlier):
        console.print("[bold red]that does not reconcile")
        console.print(f"(if you have deleted its jobs yourself, delete {journal.path} too)", soft_wrap=True)
        return False
    journal.clear()
    sink.delivered.clear()
    return True


def account(
    console: Console, people: list[dict[str, str]], crowd: Crowd, sink: Sink, ledgers: list[Ledger]
) -> int:
    answers = crowd.statuses()
    console.print(
        f"{len(people)} signups posted: {answers[202]} accepted, {answers[200]} twice, "
        f"{answers[400]} invalid, {answers[503]} refused after the shutdown (503)",
        soft_wrap=True,
    )
    console.print(f"{sink.turned_away} mails turned away for now, and tried again")
    console.print(f"{sink.delivered['digest'].total()} digests, one a second")
    console.print(table_of(ledgers))
    answered = answers[202] + answers[200] + answers[400] + answers[503] == len(people)
    promised = ledgers[0].accepted.total() == answers[202]
    if answered and promised and all(ledger.balances() for ledger in ledgers):
        console.print("[green]every signup is accounted for")
        return 0
    console.print("[bold red]this does not reconcile")
    return 1


if __name__ == "__main__":
    sys.exit(main())
