"""The settler records outcomes whatever a store makes of some of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any, cast

import pytest

from neoq.engine.settler import Settler
from neoq.errors import BackendError, BackendUnavailable
from neoq.outcome import Failure, Lease, Outcome
from neoq.record import Status
from neoq.store import Extended, Store
from neoq.testing.cases.suite import eventually

LOG = logging.getLogger("neoq.test")


class Picky:
    """A store that takes outcomes, but for some: a settle of one of these loses the connection."""

    def __init__(self, error: BaseException, *, takes_plain: bool = True, takes_dead: bool = True) -> None:
        self.error = error
        self.takes_plain, self.takes_dead = takes_plain, takes_dead
        self.away = threading.Event()
        self.recorded: dict[int, Outcome] = {}

    def _takes(self, outcome: Outcome) -> bool:
        if outcome.result == b"poison":
            return False
        if outcome.lease.job_id % 10 == 0:
            return self.takes_plain if outcome.status is Status.SUCCEEDED else self.takes_dead
        return True

    def settle(self, outcomes: Sequence[Outcome]) -> set[int]:
        if self.away.is_set():
            raise BackendUnavailable("it is away")
        if not all(map(self._takes, outcomes)):
            raise self.error
        self.recorded.update({outcome.lease.job_id: outcome for outcome in outcomes})
        return set()

    def extend(self, leases: Sequence[Lease]) -> Extended:
        if self.away.is_set():
            raise BackendUnavailable("it is away")
        return Extended(set(), set())


def outcome_of(number: int, result: bytes | None = b"1") -> Outcome:
    return Outcome(Lease(number, "q", 1), Status.SUCCEEDED, started_at=1.0, finished_at=2.0, result=result)


def settler_of(store: Picky, told: list[int] | None = None) -> Settler:
    def settled(outcomes: Sequence[Outcome], stale: set[int]) -> None:
        if told is not None:
            told.extend(outcome.lease.job_id for outcome in outcomes if outcome.lease.job_id not in stale)

    return Settler(cast("Store", store), settled, LOG)


ERRORS = [BackendUnavailable("hung up"), BackendError("refused"), MemoryError(), ValueError("not encoded")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_outcome_that_is_not_taken_holds_up_no_other(error: BaseException) -> None:
    """Of many outcomes of which one ends the connection all are recorded, that one in plain words."""
    store, told = Picky(error), list[int]()
    settler = settler_of(store, told)
    settler.put([outcome_of(n, b"poison" if n in {20, 500} else b"1") for n in range(1, 801)])
    eventually(lambda: len(store.recorded) == 800, "all are recorded")
    assert store.recorded[20].result is None
    assert store.recorded[21].result == b"1"
    assert settler.close(5.0) == []
    assert sorted(told) == list(range(1, 801))


def test_an_outcome_that_is_taken_in_no_way_ends_as_dead_or_is_given_up() -> None:
    """Where not even plain words are taken the attempt is recorded as dead, or left to the lease."""
    for takes_dead in (True, False):
        store = Picky(BackendUnavailable("hung up"), takes_plain=False, takes_dead=takes_dead)
        settler = settler_of(store)
        settler.put([outcome_of(10, b"poison"), outcome_of(11)])
        eventually(lambda settler=settler: not settler.unsettled(), "nothing is left")  # type: ignore[misc]
        assert store.recorded[11].result == b"1"
        if takes_dead:
            assert store.recorded[10].status is Status.DEAD
            assert isinstance(store.recorded[10].failure, Failure)
        settler.close(5.0)


def test_an_outage_changes_no_outcome() -> None:
    """However long a store is away, each outcome is recorded as it was once the store is back."""
    store = Picky(BackendUnavailable("hung up"))
    store.away.set()
    settler = settler_of(store)
    attempts = []
    real: Any = store.settle

    def settle(outcomes: Sequence[Outcome]) -> set[int]:
        attempts.append(len(outcomes))
        found: set[int] = real(outcomes)
        return found

    store.settle = settle  # type: ignore[method-assign]
    settler.put([outcome_of(n) for n in range(1, 4)])
    eventually(lambda: len(attempts) > 4, "it was tried again and again")
    store.away.clear()
    eventually(lambda: len(store.recorded) == 3, "all are recorded")
    assert {outcome.result for outcome in store.recorded.values()} == {b"1"}
    settler.close(5.0)
