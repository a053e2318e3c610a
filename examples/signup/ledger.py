"""The account at the end: every mail that was promised is delivered, or reported as lost."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from rich.table import Table

from neoq import ShutdownReport


@dataclass
class Ledger:
    """Job ids of one kind of mail, from three sources that know nothing of each other."""

    kind: str
    accepted: Counter[str]  # what the HTTP answers promised
    delivered: Counter[str]  # what arrived at the mail server
    lost: Counter[str]  # what the shutdown reported

    def balances(self) -> bool:
        """Whether each promised mail arrived once or was reported once, and no other did."""
        return self.accepted == self.delivered + self.lost


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
