"""A backend whose jobs belong to the transactions of Django.

Inside `transaction.atomic()` a job that is kept in the same database is stored in that transaction. Where the
store is another one, the job is stored when the transaction has been committed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.db import connections, transaction

from neoq.backend import Backend
from neoq.job import Job, call_of
from neoq.payload import encode_payload, refuse_size

if TYPE_CHECKING:
    from neoq.tasks import Tasks


class Joined(Backend):
    """What is put before the class of a backend: see `joined`."""

    database: str
    joins: bool
    included: list[Tasks]

    def begin(self, database: str, *, joins: bool) -> None:
        """Take the alias of the database whose transactions count, and whether the jobs are in it."""
        self.database = database
        self.joins = joins
        self.included = []

    @property
    def _in_transaction(self) -> bool:
        connection = connections[self.database]
        return bool(connection.in_atomic_block or not connection.get_autocommit())

    @property
    def waits_for_commit(self) -> bool:
        """Whether a job that is enqueued now is stored when a transaction has been committed."""
        return not self.joins and self._in_transaction

    def _transaction(self) -> Any:
        """The transaction that this thread is in, as `Backend.enqueue` takes it; None where it is in none."""
        if not (self.joins and self._in_transaction):
            return None
        connection = connections[self.database]
        connection.ensure_connection()
        return connection.connection if connection.vendor == "sqlite" else connection

    def refuse_payload(self, job: Job) -> None:
        """Raise for a payload that cannot be stored, before the transaction has gone on."""
        data = encode_payload(job.parsed, job.queue)
        if len(data) > self.config.max_payload:
            refuse_size(data, self.config.max_payload, job.queue)

    def enqueue(self, queue: Any, payload: Any = None, *, transaction: Any = None, **options: Any) -> Job:
        """As `Backend.enqueue`, and within the transaction that the caller is in.

        Where the store is another database, the job is stored at the commit; it has its id from then on.
        """
        if transaction is not None:
            return super().enqueue(queue, payload, transaction=transaction, **options)
        if not self.waits_for_commit:
            return super().enqueue(queue, payload, transaction=self._transaction(), **options)
        job = queue.fresh() if isinstance(queue, Job) else Job(queue, payload, **options)
        return self._later([job])[0]

    def enqueue_call(self, queue: str, kind: str, data: bytes) -> Job:
        """As `Backend.enqueue_call`, and within the transaction that the caller is in."""
        if not self._in_transaction:
            return super().enqueue_call(queue, kind, data)
        return self.enqueue(call_of(queue, data, 0.0, kind))

    def enqueue_many(self, jobs: Iterable[Job], *, transaction: Any = None) -> list[Job]:
        """As `Backend.enqueue_many`, and within the transaction that the caller is in."""
        if transaction is not None:
            return super().enqueue_many(jobs, transaction=transaction)
        if not self.waits_for_commit:
            return super().enqueue_many(jobs, transaction=self._transaction())
        return self._later([job.fresh() for job in jobs])

    def _later(self, jobs: list[Job]) -> list[Job]:
        for job in jobs:
            self.refuse_payload(job)

        def store() -> None:
            given = [job.snapshot() for job in jobs]
            for job, stored in zip(jobs, Backend.enqueue_many(self, given), strict=True):
                job.__setstate__(stored.__getstate__())

        transaction.on_commit(store, using=self.database)
        return jobs

    def include(self, *collections: Tasks) -> None:
        """As `Backend.include`; the collections come along when the database is another one, as in tests."""
        super().include(*collections)
        self.included += [one for one in collections if one not in self.included]


def joined(backend: Backend, database: str, *, joins: bool) -> Joined:
    """A backend that was just made as one whose jobs belong to the transactions of a database."""
    cls = type(backend)
    made: Any = backend
    made.__class__ = type(cls.__name__, (Joined, cls), {"__module__": cls.__module__})
    made.begin(database, joins=joins)
    return made  # type: ignore[no-any-return]
