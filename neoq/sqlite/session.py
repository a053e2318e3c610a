"""The jobs of a SQLite file inside one transaction: where they are kept, and how they are counted.

What an add costs is mostly the wait for the disk, and then the pages that it changes. So a job is appended to
the table and to no index: it is new, and stands in the unsorted tail. Every other operation on jobs first
puts the tail into the indexes, and so does an add when the tail has ``NEW_AT_MOST`` jobs: then many jobs
share the pages that change. The hashes of the tail are kept in memory while no other process writes.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from neoq.sqlite.rows import (
    COLUMNS,
    INSERT,
    INSERT_PLAIN,
    INSERT_PLAINS,
    INSERTED_AT_ONCE,
    INSERTS,
    N_CANCELLED,
    N_DEAD,
    N_KEPT,
    N_KEPT_DEAD,
    N_READY,
    N_SCHEDULED,
    N_SUCCEEDED,
    described,
    job_of,
    kind_of,
)
from neoq.sqlite.schema import DEAD, FINISHED, NEW, READY, SCHEDULED
from neoq.store import warn_of_dropped
from neoq.stored import number_in

if TYPE_CHECKING:
    from neoq.clock import Clock
    from neoq.config import Config
    from neoq.held.limits import Limits
    from neoq.job import Job

NEW_AT_MOST = 64  # after a commit
CHUNK = 500  # values of one "in (...)"

_VERSION = "pragma data_version"  # it changes where another connection has written
_SORTED_TO = "select n from neoq_counts where queue = '' and kind = 0"
_LAST_ID = 2**53 - 1  # that we give; somebody may have written a higher one
_ENDS = (  # and the state of the newest job; no row if there is no job
    f"select ({_SORTED_TO}), id, state from neoq_jobs where id <= {_LAST_ID} order by id desc limit 1"  # noqa: S608
)
_NEW_HASHES = "select hash from neoq_jobs where id > ? and hash is not null and state = 5"
_NEW = " where id > ? and state = 5"
_INDEX_NEW = f"update neoq_jobs set state = run_after > ?, holds = hash is not null{_NEW}"  # noqa: S608
_ADD_UP = " on conflict (queue, kind) do update set n = n + excluded.n"
_COUNT_IN = (  # the kinds of ready and of scheduled jobs are the numbers of their states
    f"insert into neoq_counts select queue, run_after > ?, count(*) from neoq_jobs{_NEW}"  # noqa: S608
    " and queue <> '' group by 1, 2" + _ADD_UP
)
_COUNT_ALL = (  # the kinds of kind_of
    "insert into neoq_counts select queue, case state when 0 then 0 when 1 then 1 + (status = 1)"  # noqa: S608
    " when 2 then 3 when 3 then case status when 3 then 4 else 6 end when 6 then 7 when 7 then 0"
    " when 8 then case status when 3 then 4 else 6 end else 5 end, count(*) from neoq_jobs"
    " where state between 0 and 9 and state <> 5 and queue <> '' and {} group by 1, 2" + _ADD_UP
)
_COUNT_KEPT = (
    "insert into neoq_counts select queue, state, count(*) from neoq_jobs"  # noqa: S608
    " where state in (8, 9) and queue <> '' and {} group by 1, 2" + _ADD_UP
)
_COUNT = "insert into neoq_counts values (?,?,?)" + _ADD_UP  # noqa: S608
LET_GO_OF_GROUPS = (  # of a job that is no more; see groups.py for what is left to do
    "update neoq_groups set keeps = 0, open = 0, todo = todo | 2, tended = '', tended_id = 0 where job = ?"
)
_JOIN = "update neoq_groups set members = members + ? where job = ? and round = ?"
DROP_STEPS = "delete from neoq_steps where job = ?"
_HELD = "select 1 from neoq_jobs where hash = ? and holds = 1"
_HOLDERS = f"select {COLUMNS} from neoq_jobs where hash = ? and holds = 1"  # noqa: S608


class Admission(NamedTuple):
    """What an add asks of a group."""

    producer: int
    named: int
    open: int
    closed: int


class UnsortedTail:
    """The jobs that are in no index yet: those with ids above ``sorted_to``."""

    __slots__ = ("hashes", "last", "sorted_to", "spans")

    def __init__(self, sorted_to: int, last: int, hashes: set[int]) -> None:
        self.sorted_to = sorted_to
        self.last = last
        self.hashes = hashes
        self.spans = False  # whether some fingerprints are taken for a span, see spans.py


class Session:
    """The jobs, inside one transaction after another of one connection.

    It keeps neoq_counts in step with the jobs. Between transactions it remembers the unsorted tail as of its
    last commit; other processes may have written since.
    """

    now: float
    tail: UnsortedTail  # in this transaction
    released: set[str]  # the queues of held jobs that it has made ready
    stops: bool  # it has stopped a group
    admissions: dict[str, Admission]  # of groups that jobs were added to
    limits: dict[str, Limits | None]  # of queues that have been looked at

    def __init__(self, cursor: sqlite3.Cursor, config: Config, clock: Clock) -> None:
        self.do = cursor.execute
        self.many = cursor.executemany
        self.config = config
        self._clock = clock
        self._known: UnsortedTail | None = None
        self._version = -1  # of what `_known` was read from, and what we wrote since
        self._in_order = False  # the tail is empty and stays so: an add puts its job into the indexes
        self._changes: dict[tuple[str, int], int] = {}
        self.released = set()
        self.stops = False
        self.admissions, self.limits = {}, {}
        self._joined: Counter[tuple[int, int]] = Counter()

    def begin(self) -> None:
        """Begin a transaction."""
        self.do("begin immediate")
        self.open()

    def open(self) -> None:
        """Read the tail; a transaction has begun."""
        self.now = self._clock.time()
        self._in_order = False
        self._changes = {}
        self.released, self.stops = set(), False
        if self.limits:
            self.limits = {}
        if self.admissions or self._joined:
            self.admissions, self._joined = {}, Counter()
        known, self._known = self._known, None  # forgotten if this transaction is rolled back
        [version] = self.do(_VERSION).fetchone()
        if known is None or version != self._version:
            self._version, known = version, self._look(known)
        self.tail = known

    def _look(self, known: UnsortedTail | None) -> UnsortedTail:
        """The tail, after another process may have written."""
        ends = self.do(_ENDS).fetchone()
        sorted_to, last, state = ends or ((self.do(_SORTED_TO).fetchone() or [None])[0], 0, None)
        if last.__class__ is not int:
            last = 0
        if sorted_to.__class__ is not int or not 0 <= sorted_to < (last if state == NEW else _LAST_ID):
            sorted_to = self._recount_all(last)
        if last < sorted_to:  # for each add, where a call of max() would cost more  # noqa: PLR1730
            last = sorted_to
        if known is None or known.last != last or known.sorted_to != sorted_to:
            known = UnsortedTail(
                sorted_to,
                last,
                {fingerprint_hash for (fingerprint_hash,) in self.do(_NEW_HASHES, (sorted_to,))},
            )
        known.spans = self.do("select 1 from neoq_spent limit 1").fetchone() is not None
        return known

    def _recount_all(self, last: int) -> int:
        """Count all jobs anew, because a script has emptied or changed the counts; return `sorted_to`."""
        self.config.log.warning("the counts of the jobs were gone or wrong and are made anew")
        self.do(
            "update neoq_jobs set state = run_after > ?, holds = hash is not null where state = 5",
            (self.now,),
        )
        self.do("delete from neoq_counts")
        self.do("insert into neoq_counts values ('', 0, ?)", (last,))
        self.do(_COUNT_ALL.format("1"))
        self.do(_COUNT_KEPT.format("1"))
        return last

    def recount(self, queues: Iterable[str]) -> None:
        """Count the jobs of queues anew: a record that we did not write may make the counts wrong."""
        self.index_new()
        self.write_counts()
        for queue in queues:
            self.do("delete from neoq_counts where queue = ? and queue <> ''", (queue,))
            self.do(_COUNT_ALL.format("queue = ?"), (queue,))
            self.do(_COUNT_KEPT.format("queue = ?"), (queue,))

    def close(self) -> None:
        """Write the counts, and drop finished jobs beyond the limits."""
        tail, config = self.tail, self.config
        if self._joined:
            self.write_joined()
        if tail.last - tail.sorted_to >= NEW_AT_MOST:
            self.index_new()
        if self._in_order and tail.last > tail.sorted_to:
            self._note_sorted(tail)
        if self._changes:
            if config.max_finished is not None or config.max_dead is not None:
                self.drop_surplus({kind for _, kind in self._changes})
            self.write_counts()

    def commit(self) -> None:
        """Commit the transaction."""
        self.do("commit")
        self._known = self.tail

    # -- the unsorted tail ------------------------------------------------------------------------------

    def index_new(self) -> None:
        """Put the tail into the indexes."""
        if self._in_order:
            return
        tail = self.tail
        self._in_order = True
        if tail.last > tail.sorted_to:
            self.do(_COUNT_IN, (self.now, tail.sorted_to))
            self.do(_INDEX_NEW, (self.now, tail.sorted_to))
            self._note_sorted(tail)

    def _note_sorted(self, tail: UnsortedTail) -> None:
        self.do("update neoq_counts set n = ? where queue = '' and kind = 0", (tail.last,))
        tail.sorted_to = tail.last
        tail.hashes.clear()

    def insert(self, job: Job, fingerprint_hash: int | None) -> None:
        """Store a job; without a ``fingerprint_hash`` it is not unique.

        It does not go by `insert_many`, which would take a tenth more instructions for one job alone.
        """
        tail = self.tail
        job_id = tail.last + 1
        if self._in_order:
            waits = job.due > self.now  # type: ignore[operator]  # accepted jobs have one
            state, holds = SCHEDULED if waits else READY, fingerprint_hash is not None
            self.count(job.queue, N_SCHEDULED if waits else N_READY, 1)
        else:
            state, holds = NEW, False
            if fingerprint_hash is not None:
                tail.hashes.add(fingerprint_hash)
        if job.special or job.kind is not None or job.group is not None:
            self.do(INSERT, (job_id, fingerprint_hash, holds, state, *described(job)))
        else:
            self.do(
                INSERT_PLAIN,
                (job_id, fingerprint_hash, holds, state, job.queue, job.due, job.created, job.body),
            )
        tail.last = job.id = job_id

    def insert_many(self, jobs: Sequence[tuple[int | None, Job]]) -> None:
        """Store jobs, each with its hash, by few statements; the tail is in the indexes."""
        plain: list[tuple[Any, ...]] = []
        others: list[tuple[Any, ...]] = []
        job_id = self.tail.last
        for fingerprint_hash, job in jobs:
            job_id += 1
            waits = job.due > self.now  # type: ignore[operator]  # accepted jobs have one
            state, holds = SCHEDULED if waits else READY, fingerprint_hash is not None
            self.count(job.queue, N_SCHEDULED if waits else N_READY, 1)
            if job.special or job.kind is not None or job.group is not None:
                others.append((job_id, fingerprint_hash, holds, state, *described(job)))
            else:
                what = job.queue, job.due, job.created, job.body
                plain.append((job_id, fingerprint_hash, holds, state, *what))
            job.id = job_id
        self.tail.last = job_id
        self._insert_rows(plain, INSERT_PLAINS, INSERT_PLAIN)
        self._insert_rows(others, INSERTS, INSERT)

    def _insert_rows(self, rows: list[tuple[Any, ...]], several: str, one: str) -> None:
        left = len(rows) % INSERTED_AT_ONCE
        for at in range(0, len(rows) - left, INSERTED_AT_ONCE):
            self.do(several, [*chain.from_iterable(rows[at : at + INSERTED_AT_ONCE])])
        if left:
            self.many(one, rows[-left:])

    def may_be_held(self, fingerprint_hash: int) -> bool:
        """Whether an unfinished job has a fingerprint of that hash."""
        return (
            fingerprint_hash in self.tail.hashes or self.do(_HELD, (fingerprint_hash,)).fetchone() is not None
        )

    def holder(self, job: Job, fingerprint_hash: int) -> Job | None:
        """The unfinished job that has the fingerprint of this one, and its hash."""
        self.index_new()
        for row in self.do(_HOLDERS, (fingerprint_hash,)).fetchall():
            holder = job_of(row)
            if holder.queue == job.queue and holder.fingerprint == job.fingerprint:
                return holder
        return None

    def holders(self, fingerprint_hash: int) -> list[Job]:
        """The unfinished jobs whose fingerprints have this hash; the tail is in the indexes."""
        return [job_of(row) for row in self.do(_HOLDERS, (fingerprint_hash,)).fetchall()]

    # -- groups -----------------------------------------------------------------------------------------

    def join(self, holder: int, number: int) -> None:
        """Note that a job was added to a group."""
        self._joined[holder, number] += 1

    def write_joined(self) -> None:
        """Write what `join` has noted."""
        if self._joined:
            self.many(_JOIN, [(n, *place) for place, n in self._joined.items()])
            self._joined.clear()

    # -- counts -----------------------------------------------------------------------------------------

    def count(self, queue: str, kind: int, number: int) -> None:
        """Note that a queue has so many more jobs of a kind."""
        key = queue, kind
        self._changes[key] = self._changes.get(key, 0) + number

    def counted(self, queue: str, kind: int) -> int:
        """How many jobs of a kind a queue has."""
        self.write_counts()
        row = self.do("select n from neoq_counts where queue = ? and kind = ?", (queue, kind)).fetchone()
        return int(number_in(row[0], 0, _LAST_ID) or 0) if row else 0

    def write_counts(self) -> None:
        """Write the changes that `count` has gathered."""
        if not self._changes:
            return
        changes = [(queue, kind, n) for (queue, kind), n in self._changes.items() if n and queue]
        self._changes.clear()
        if changes:
            self.many(_COUNT, changes)

    def drop_surplus(self, kinds: Collection[int] = (N_SUCCEEDED, N_CANCELLED, N_DEAD)) -> int:
        """Drop finished jobs of these kinds beyond the limits; returns how many."""
        config, dropped = self.config, 0
        self.write_counts()
        if config.max_finished is not None and (N_SUCCEEDED in kinds or N_CANCELLED in kinds):
            dropped += len(self._drop_oldest(FINISHED, (N_SUCCEEDED, N_CANCELLED), config.max_finished))
        if config.max_dead is not None and N_DEAD in kinds:
            for job_id, queue in self._drop_oldest(DEAD, (N_DEAD,), config.max_dead):
                dropped += 1
                warn_of_dropped(config, job_id, queue)
        return dropped

    def _drop_oldest(self, state: int, kinds: tuple[int, ...], limit: int) -> list[tuple[int, str]]:
        marks, kept = ",".join("?" * len(kinds)), N_KEPT_DEAD if state == DEAD else N_KEPT
        [(there,)] = self.do(
            f"select sum(case kind when ? then -n else n end) from neoq_counts where kind in ({marks}, ?)",  # noqa: S608
            (kept, *kinds, kept),
        )
        excess = int(number_in(there, 0, _LAST_ID) or 0) - limit
        return self.drop(f"state = {state} order by finished_at, id limit ?", (excess,)) if excess > 0 else []

    def drop(self, where: str, values: tuple[Any, ...]) -> list[tuple[int, str]]:
        """Delete finished jobs; return their ids and queues."""
        query = "select id, queue, state, status, round, steps from neoq_jobs where"
        rows = self.do(f"{query} {where}", values).fetchall()
        self.many("delete from neoq_jobs where id = ?", [row[:1] for row in rows])
        for job_id, queue, state, status, holds, steps in rows:
            self.count(queue, kind_of(state, status), -1)
            if holds is not None:
                self.do(LET_GO_OF_GROUPS, (job_id,))
            if steps is not None:
                self.do(DROP_STEPS, (job_id,))
        return [row[:2] for row in rows]

    def of_uid(self, uid: str) -> Job | None:
        """The job that has a uid."""
        rows = self.do(f"select {COLUMNS} from neoq_jobs where uid = ?", (uid,)).fetchall()  # noqa: S608
        return next(map(job_of, rows), None)

    # -- jobs by id -------------------------------------------------------------------------------------

    def of_ids(self, ids: Sequence[int]) -> list[Job]:
        """The jobs of these ids that exist."""
        return [job_of(row) for row in self.rows_of(f"select {COLUMNS} from neoq_jobs where", ids)]  # noqa: S608

    def rows_of(self, select: str, ids: Sequence[int]) -> Iterable[tuple[Any, ...]]:
        """What a query that ends in its conditions finds of these ids."""
        for start in range(0, len(ids), CHUNK):
            chunk = ids[start : start + CHUNK]
            marks = ",".join("?" * len(chunk))
            yield from self.do(f"{select} id in ({marks})", chunk).fetchall()
