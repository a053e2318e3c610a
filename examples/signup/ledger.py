"""The account at the end: every promised mail was delivered, or is reported as lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rich.table import Table

from neoq import ShutdownReport


@dataclass
class Ledger:
    """Job ids of one kind of mail, from three independent sources."""

    kind: str
    accepted: Counter[str]  # what the HTTP answers promised
    delivered: Counter[str]  # what arrived at the mail server
    lost: Counter[str]  # what the shutdown reported

    def balances(self) -> bool:
        """Whether each promised mail arrived once or was reported as lost once, and no other mail did."""
        return self.accepted == self.delivered + self.lost


@dataclass
class Earlier:
    """One kind of mail of a run that was killed: which mails it had promised, and which arrived."""

    kind: str
    promised: Counter[str]  # to a client that had its answer
    before: Counter[str]  # arrived while it ran
    now: Counter[str]  # arrived in this run

    def balances(self) -> bool:
        """Whether each promised mail arrived, and none twice except those being sent when the run ended."""
        return not self.promised - self.before - self.now and max(self.now.values(), default=0) <= 1

    def __str__(self) -> str:
        delivered = self.before.keys() | self.now.keys()
        return (
            f"{self.kind}: {len(self.promised)} promised, {len(delivered)} delivered, "
            f"{len(self.promised.keys() - delivered)} missing; {len(self.before.keys() & self.now.keys())} "
            f"came twice, as the run ended; {len(delivered - self.promised.keys())} without an answer"
        )


def ids_of(report: ShutdownReport, kind: str) -> Counter[str]:
    """The lost jobs of a queue."""
    return Counter(str(job.id) for job in report.lost if job.queue == kind)


def table_of(ledgers: list[Ledger]) -> Table:
    table = Table("mails", title="accepted = delivered + lost", title_justify="left")
    for heading in ("accepted", "delivered", "lost"):
        table.add_column(heading, justify="right")
    table.add_column("balances")
    for ledger in ledgers:
        sums = (ledger.accepted.total(), ledger.delivered.total(), ledger.lost.total())
        table.add_row(ledger.kind, *map(str, sums), "yes" if ledger.balances() else "NO")
    return table
