"""Steps and signals of the jobs in a SQLite file: each call is part of its caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from neoq.held.step import MOST_SIGNALS, SIGNAL, Step
from neoq.outcome import Lease
from neoq.sqlite.add import hash_named
from neoq.sqlite.file import SqliteFile
from neoq.sqlite.groups import release
from neoq.sqlite.schema import HELD, LINE, READY, RUNNING, SCHEDULED
from neoq.sqlite.session import Session
from neoq.stored import number_in

_INSERT = (
    "insert into neoq_steps (job, name, at, data, retries, crashes, lasting) values (?,?,?,?,?,?,?)"
    " on conflict (job, name) do update set at = excluded.at, data = excluded.data,"
    " lasting = excluded.lasting where not (lasting and excluded.lasting)"
)
_AWAITED = 2  # in the place of a signal's ``lasting``: its job has waited for it
_FLAG = "update neoq_jobs set steps = 1 where id = ? and steps is null"
_UNFINISHED = frozenset({READY, SCHEDULED, RUNNING, HELD, LINE})


def insert(session: Session, job_id: int, steps: Iterable[Step]) -> None:
    """Record steps of a job; a lasting one that is there is left as it is."""
    session.many(
        _INSERT,
        [
            (job_id, step.name, session.now, step.data, step.retries, step.crashes, step.lasting)
            for step in steps
        ],
    )
    session.do(_FLAG, (job_id,))


def record(session: Session, records: Sequence[tuple[Lease, Sequence[Step]]]) -> set[int]:
    """Record steps under their leases; return the ids of the stale ones."""
    stale = set()
    for lease, steps in records:
        row = session.do("select token, state from neoq_jobs where id = ?", (lease.job_id,)).fetchone()
        if row is None or row[1] != RUNNING or row[0] != lease.token:
            stale.add(lease.job_id)
        else:
            insert(session, lease.job_id, steps)
    return stale


def of_job(file: SqliteFile, job_id: int) -> list[Step]:
    """What a job has recorded, in that order; a row that no store has written is left out."""
    rows = file.read(
        "select name, data, retries, crashes, lasting, at from neoq_steps where job = ? order by id",
        (job_id,),
    )
    return [
        Step(name, data, retries, crashes, bool(lasting), number_in(at))
        for name, data, retries, crashes, lasting, at in rows
        if tuple(map(type, (name, data, retries, crashes))) == (str, bytes, int, int)
    ]


def crashes_then(session: Session, job_id: int) -> int:
    """How many crashes a job had at its last progress: they count no more."""
    [crashes] = session.do("select max(crashes) from neoq_steps where job = ?", (job_id,)).fetchone()
    return crashes if isinstance(crashes, int) else 0


def has(session: Session, job_id: int | None, name: str) -> bool:
    """Whether a job has a step of that name."""
    found = session.do("select 1 from neoq_steps where job = ? and name = ?", (job_id, name)).fetchone()
    return found is not None


def awaits(session: Session, job_id: int, name: str) -> bool:
    """Note that a job waits for a signal; whether it has come already."""
    mark = "update neoq_steps set lasting = ? where job = ? and name = ?"
    return bool(session.do(mark, (_AWAITED, job_id, name)).rowcount)


def signal(session: Session, to: int | tuple[str, str], step: Step) -> bool:
    """Record a signal for an unfinished job, and release the job if it waits for that; whether it was."""
    session.index_new()
    job_id = to if isinstance(to, int) else _named(session, *to)
    row = session.do("select state, queue, held from neoq_jobs where id = ?", (job_id,)).fetchone()
    if row is None or row[0] not in _UNFINISHED or has(session, job_id, step.name):
        return False
    state, queue, held = row
    [signals] = session.do(
        "select count(*) from neoq_steps where job = ? and name >= ? and name < ? and lasting = 1",
        (job_id, SIGNAL, f"{SIGNAL[:-1]};"),
    ).fetchone()
    if signals >= MOST_SIGNALS:
        return False
    assert job_id is not None
    insert(session, job_id, [step])
    if state == HELD and held == step.name:
        awaits(session, job_id, step.name)
        release(session, job_id, queue)
    return True


def _named(session: Session, queue: str, fingerprint: str) -> int | None:
    """The unfinished job of a queue that has a fingerprint."""
    for holder in session.holders(hash_named(queue, fingerprint)):
        if holder.queue == queue and holder.fingerprint == fingerprint:
            return holder.id
    return None
