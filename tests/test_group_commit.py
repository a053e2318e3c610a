"""Writes of many threads in one commit: which call leads, which waits, and what each returns."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from neoq import BackendError, BackendUnavailable
from neoq.testing.cases.suite import PATIENCE, eventually
from neoq.threads import group_commit
from neoq.threads.group_commit import Call, GroupCommit


def nothing(calls: Sequence[Call[int, int]]) -> None:
    """A commit that gives each its own number."""
    for call in calls:
        call.value, call.ended = call.item, True


class Commits:
    """Commits that only note what they were given, the first of them as long as it is held."""

    def __init__(self, *, few: int = 2, commit: Callable[[Sequence[Call[int, int]]], None] = nothing) -> None:
        self.batches: list[list[int]] = []
        self.outcomes: dict[int, int | BaseException] = {}
        self.go_on = threading.Event()
        self.group: GroupCommit[int, int] = GroupCommit(self.held, few=few)
        self._commit = commit

    def held(self, calls: Sequence[Call[int, int]]) -> None:
        self.batches.append([call.item for call in calls])
        assert self.go_on.wait(PATIENCE)
        self._commit(calls)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]

    def begin(self, number: int, *, durable: bool = True) -> list[threading.Thread]:
        """So many calls, each in a thread of its own, in this order; all of them wait when this returns."""
        threads = []
        for _ in range(number):
            there = self.waiting()
            threads.append(threading.Thread(target=self.call, args=(there, durable), daemon=True))
            threads[-1].start()
            eventually(lambda there=there: self.waiting() == there + 1, "it waits")  # type: ignore[misc]
        return threads

    def call(self, number: int, durable: bool) -> None:
        try:
            self.outcomes[number] = self.group(number, durable=durable)
        except BaseException as error:
            self.outcomes[number] = error

    def end(self, threads: list[threading.Thread]) -> None:
        self.go_on.set()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)

    def waiting(self) -> int:
        return self.group.pending


def wait_for_others(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(group_commit, "PATIENCE_AT_MOST", seconds)
    monkeypatch.setattr(group_commit, "PATIENCE", 1e9)
    monkeypatch.setattr(group_commit, "LOOKS_EVERY", 1e6)


@pytest.mark.parametrize(("patience", "sizes"), [(PATIENCE, [1, 3]), (0.0, [1, 2, 1])])
def test_the_call_that_completes_the_number_leads(
    monkeypatch: pytest.MonkeyPatch, patience: float, sizes: list[int]
) -> None:
    """After three wrote at once the next commit begins with the third, or a moment after the first."""
    wait_for_others(monkeypatch, patience)
    commits = Commits()
    first, *others = commits.begin(3)
    commits.end([first])
    if patience:
        assert commits.waiting() == 2
    else:
        eventually(lambda: not commits.waiting(), "they did not wait for a third")
    commits.group(3)
    commits.end(others)
    assert commits.sizes == sizes


def test_a_lone_call_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody shared the last commit, or only what need not last did, nobody is waited for."""
    wait_for_others(monkeypatch, 1e6)
    commits = Commits()
    commits.end(commits.begin(1) + commits.begin(3, durable=False))
    for number in range(2):
        commits.group(number)
    assert commits.sizes == [1, 3, 1, 1]


def test_few_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer callers than are worth it are not waited for."""
    wait_for_others(monkeypatch, 1e6)
    commits = Commits(few=4)
    commits.end(commits.begin(3))
    commits.group(3)
    assert commits.sizes == [1, 2, 1]


@pytest.mark.parametrize("late", [1e6, -1.0])
def test_each_gets_what_is_its_own(monkeypatch: pytest.MonkeyPatch, late: float) -> None:
    """Calls that wait are committed in the order of their arrival, and woken in a row or at once."""
    monkeypatch.setattr(group_commit, "LATE", late)
    monkeypatch.setattr(group_commit, "LOOKS_EVERY", 1e6)  # all are woken
    commits = Commits()
    commits.end(commits.begin(6))
    assert [number for batch in commits.batches for number in batch] == list(range(6))
    assert commits.outcomes == {number: number for number in range(6)}


@pytest.mark.parametrize(
    ("broken", "theirs", "unknown"),
    [
        (BackendUnavailable("gone", outcome_unknown=True), BackendUnavailable, True),
        (BackendUnavailable("gone", outcome_unknown=False), BackendUnavailable, False),
        (BackendError("wrong"), BackendError, False),
        (KeyboardInterrupt("gone"), BackendUnavailable, True),
    ],
)
def test_a_commit_that_breaks(broken: BaseException, theirs: type[BackendError], unknown: bool) -> None:
    """What a commit raises its leader gets, and all that it had not ended an error each of their own."""

    def commit(calls: Sequence[Call[int, int]]) -> None:
        if len(calls) > 1:
            nothing(calls[-1:])
            raise broken
        nothing(calls)

    commits = Commits(commit=commit)
    commits.end(commits.begin(5))
    assert commits.batches == [[0], [1, 2, 3, 4]]
    assert commits.outcomes[1] is broken
    assert commits.outcomes[4] == 4
    others = [commits.outcomes[2], commits.outcomes[3]]
    assert others[0] is not others[1]
    for error in others:
        assert type(error) is theirs
        assert getattr(error, "outcome_unknown", False) is unknown


def test_interrupts() -> None:
    """Whenever a signal handler raises as the main thread commits, the other threads go on."""

    class Interrupt(Exception):
        pass

    def interrupt(*_: object) -> None:
        raise Interrupt

    group: GroupCommit[int, int] = GroupCommit(nothing)
    done = threading.Event()

    def commit() -> None:
        while not done.is_set():
            with contextlib.suppress(BackendUnavailable):
                assert group(1) == 1

    def commit_until_interrupted() -> None:
        give_up = time.monotonic() + 1  # where it hit something that lets no error out
        while time.monotonic() < give_up:
            with contextlib.suppress(BackendUnavailable):
                group(2)

    threads = [threading.Thread(target=commit, daemon=True) for _ in range(4)]
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for thread in threads:
            thread.start()
        for _ in range(500):
            with contextlib.suppress(Interrupt):
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.001))
                commit_until_interrupted()  # a loop in here would leave a gap in the block (CPython 3.12)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        done.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
