"""Sign up a crowd over HTTP, replace the worker that sends the mails, and account for every mail.

NEOQ_URL chooses where the jobs are kept; by default in the file demo.db. The command `neoq worker` runs them
beside the web process. If the demo is killed, the next run first finishes its jobs, and accounts for its
mails. In memory the web process runs the jobs itself, and is shut down in the middle: the jobs that have not
run are lost, and listed. The exit status is 1 if the accepted mails are not the delivered mails plus those
reported as lost.
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
from beside import Worker
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
        return run(console, read_people(options.signups), verbose=options.verbose)
    except KeyboardInterrupt:
        console.print("interrupted before the account was made")
        return 130


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signups", type=int, metavar="N", help="post the first N people only")
    parser.add_argument("--verbose", action="store_true", help="show neoq's log: retries, timeouts, losses")
    return parser.parse_args()


def run(console: Console, people: list[dict[str, str]], *, verbose: bool) -> int:
    url = os.environ.setdefault("NEOQ_URL", "sqlite:///demo.db")
    in_memory = url.startswith("memory:")
    journal = Journal(None) if in_memory else Journal.of(url)
    report = neoq.ShutdownReport()
    with closing(journal), Sink(journal) as sink, Screen(console) as screen, neoq.connect() as backend:
        introduce(console, backend, len(people), in_memory=in_memory)
        if in_memory:
            jobs.listen(backend, sink.address)
            with serve(create_app(backend)) as address, Crowd(address, people, journal) as crowd:
                report = shut_down_in_the_middle(backend, crowd, screen)
        else:
            with Worker(console, sink.address, verbose=verbose) as worker:
                finish(backend, screen, "finishing the jobs of an earlier run")
                if not account_for_earlier(console, journal, sink):
                    return 1
                with serve(create_app(backend)) as address, Crowd(address, people, journal) as crowd:
                    replace_the_worker_in_the_middle(worker, backend, crowd, screen)
                finish(backend, screen, "everybody has posted")
        journal.clear()
    accepted = crowd.accepted()
    ledgers = [
        Ledger(kind, Counter(accepted[kind]), sink.delivered[kind], ids_of(report, kind)) for kind in MAILS
    ]
    return account(console, people, crowd, sink, ledgers)


def introduce(console: Console, backend: neoq.Backend, people: int, *, in_memory: bool) -> None:
    """Say what the demo is about to do, and with which store."""
    sender, middle = "a worker beside the web process sends", "the worker is replaced, as by a deploy"
    if in_memory:
        sender = "background jobs send"
        middle = "the backend is shut down: jobs that have not run are lost, and listed"
    console.print(
        f"{people} people sign up over HTTP, and {sender} their mails. In the middle {middle}. "
        "At the end every mail is accounted for.\n"
        f"The jobs are kept by {backend!r}; NEOQ_URL chooses another store.",
        soft_wrap=True,
    )


@contextmanager
def serve(app: Flask) -> Iterator[tuple[str, int]]:
    """Run the application on a real server, on a free port."""
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


def shut_down_in_the_middle(backend: neoq.Backend, crowd: Crowd, screen: Screen) -> neoq.ShutdownReport:
    """Shut the backend down while the crowd continues to post."""
    watch(backend, crowd, screen, until=crowd.size * 2 // 3)
    report = backend.shutdown(timeout=10)
    while crowd.busy:
        time.sleep(0.1)
    return report


def replace_the_worker_in_the_middle(
    worker: Worker, backend: neoq.Backend, crowd: Crowd, screen: Screen
) -> None:
    """Stop the worker, and start another, while the crowd continues to post."""
    watch(backend, crowd, screen, until=crowd.size // 2)
    worker.stop()
    worker.start()
    watch(backend, crowd, screen, until=crowd.size)


def watch(backend: neoq.Backend, crowd: Crowd, screen: Screen, until: int) -> None:
    """Show the queues until the crowd has so many answers."""
    while crowd.busy and len(crowd.answers) < until:
        time.sleep(0.1)
        screen.show(backend, f"{len(crowd.answers)} signups posted")


def finish(backend: neoq.Backend, screen: Screen, title: str) -> None:
    """Wait until no job is left, future jobs and retries included."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        screen.show(backend, title)
        if not any(queue.unfinished for queue in backend.queues() if queue.queue in QUEUES):
            return
        time.sleep(0.1)


def account_for_earlier(console: Console, journal: Journal, sink: Sink) -> bool:
    """Whether all mails of an earlier run that was killed have arrived; print them if there was one."""
    earlier = [
        Earlier(kind, journal.promised[kind], journal.delivered[kind], sink.delivered[kind]) for kind in MAILS
    ]
    if any(journal.promised.values()):
        console.print("an earlier run was killed; its mails:")
        for ledger in earlier:
            console.print(f"  {ledger}", soft_wrap=True)
    if not all(ledger.balances() for ledger in earlier):
        console.print("[bold red]the account of that run does not balance")
        console.print(f"(if you have deleted its jobs yourself, delete {journal.path} too)", soft_wrap=True)
        return False
    journal.clear()
    sink.delivered.clear()
    return True


def account(
    console: Console, people: list[dict[str, str]], crowd: Crowd, sink: Sink, ledgers: list[Ledger]
) -> int:
    answers = crowd.statuses()
    refused = f", {answers[503]} refused after the shutdown (503)" if answers[503] else ""
    console.print(
        f"{len(people)} signups posted: {answers[202]} accepted, {answers[200]} twice, "
        f"{answers[400]} invalid{refused}",
        soft_wrap=True,
    )
    console.print(f"{sink.turned_away} mails rejected temporarily, and retried")
    console.print(f"{sink.delivered['digest'].total()} digests, one a second")
    console.print(table_of(ledgers))
    answered = answers[202] + answers[200] + answers[400] + answers[503] == len(people)
    promised = ledgers[0].accepted.total() == answers[202]
    if answered and promised and all(ledger.balances() for ledger in ledgers):
        console.print("[green]every signup is accounted for")
        return 0
    console.print("[bold red]the account does not balance")
    return 1


if __name__ == "__main__":
    sys.exit(main())
