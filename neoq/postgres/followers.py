"""Jobs that follow how an attempt ended: they are added in the transaction that settles it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from neoq.held.group import Group
from neoq.outcome import Outcome
from neoq.postgres.rows import ADDED, add_values
from neoq.postgres.statements import Statements
from neoq.postgres.transactions import Transaction
from neoq.postgres.wake import payload_for

SEALED = 1  # see 0009.sql


def settle_with_followers(
    execute: Transaction,
    statements: Statements,
    outcomes: Sequence[Outcome],
    settle: Callable[[], set[int]],
    skew: float,
) -> set[int]:
    """Settle, and add what follows; returns the ids of the stale ones.

    Whoever counts does so in the order of the notes, so that no group looks complete too early: what an end
    sends is noted before the end, and that a group is sealed after the jobs that it has.
    """
    arrays = execute.arrays
    first = [outcome for outcome in outcomes if outcome.follow and outcome.holds is None]
    if first:
        values = {
            "ids": arrays.int8s([outcome.lease.job_id for outcome in first]),
            "tokens": arrays.int8s([outcome.lease.token for outcome in first]),
        }
        live = {job_id for (job_id,) in execute(statements.live, values, "n")}
        _add(execute, statements, [outcome for outcome in first if outcome.lease.job_id in live])
    stale = settle()
    holders = [
        outcome for outcome in outcomes if outcome.holds is not None and outcome.lease.job_id not in stale
    ]
    if holders:
        values = {
            "ids": arrays.int8s([outcome.lease.job_id for outcome in holders]),
            "rounds": arrays.int4s([outcome.holds for outcome in holders]),
            "until": arrays.float8s([outcome.run_after for outcome in holders]),
            "skew": skew,
        }
        held = {job_id for (job_id,) in execute(statements.hold, values, "n")}
        holders = [outcome for outcome in holders if outcome.lease.job_id in held]
        _add(execute, statements, holders)
        names = [Group(outcome.lease.job_id, outcome.holds or 0).name for outcome in holders]
        if names:
            execute(
                statements.note,
                {"batches": arrays.texts(names), "whats": arrays.int2s([SEALED] * len(names))},
                "n",
            )
    return stale


def _add(execute: Transaction, statements: Statements, outcomes: Sequence[Outcome]) -> None:
    jobs = [job for outcome in outcomes for job in outcome.follow]
    groups = [job.group for job in jobs if job.group is not None]
    if groups:
        values = {"batches": execute.arrays.texts(groups)}
        live = {name for (name,) in execute(statements.live_groups, values, "t")}
        jobs = [job for job in jobs if job.group is None or job.group in live]
    if jobs:
        notify = payload_for("r", {job.queue for job in jobs})
        values = add_values(jobs, [], execute.arrays, notify=notify)
        if "producers" in values:  # a member may add to a batch that is sealed
            values |= {"producers": execute.arrays.int8s([0] * len(jobs)), "prints": None}
        execute(statements.add_of(values), values, ADDED)
