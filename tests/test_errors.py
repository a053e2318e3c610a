"""Errors, signals and interrupts as objects: what a class of them says of itself, and how it travels."""

from __future__ import annotations

import concurrent.futures
import copy
import multiprocessing
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import neoq
from neoq import errors
from neoq.held.children import ChildFailed
from neoq.tasks import JobFailed

PATIENCE = 30.0


def _all_below(cls: type[BaseException]) -> set[type[BaseException]]:
    return {cls}.union(*map(_all_below, cls.__subclasses__()))


class OwnError(neoq.NeoqError):
    """An error of a user's, with a signature of its own."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} in {where}", queue="q")
        self.code = code


def _examples() -> list[BaseException]:
    job = neoq.Job("q", {"n": 1}, fingerprint="f")
    made = [
        neoq.DuplicateJobError("taken", job=job),
        neoq.ConfigError(["a is wrong", "b is wrong"]),
        neoq.CronError("bad", spec="* *", field="hour"),
        neoq.PayloadError("x", path="payload.a", queue="q"),
        neoq.BackendUnavailable("away", outcome_unknown=True, queue="q"),
        neoq.Retry("later", after=timedelta(minutes=1)),
        neoq.Retry(),
        neoq.Snooze(30),
        neoq.Snooze(datetime(2030, 1, 1, tzinfo=UTC)),
        neoq.Discard("no"),
        neoq.Discard(),
        JobFailed(job),
        ChildFailed(job),
        OwnError(7, where="there"),
        neoq.JobTimeout(),
        neoq.JobTimeout("ran longer than 1 s"),
    ]
    roots = (errors.NeoqError, errors.Signal, errors.JobInterrupted)
    others = {cls for root in roots for cls in _all_below(root)} - set(map(type, made))
    for cls in sorted(others, key=lambda cls: cls.__name__):
        if cls.__module__.startswith("neoq."):
            about = {"queue": "q", "job_id": 7} if issubclass(cls, errors.NeoqError) else {}
            made.append(cls("the message", **about))
    made[0].add_note("a note")
    return made


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, neoq.Job):
        return one.fingerprint == other.fingerprint and one.payload == other.payload
    return bool(one == other)


@pytest.mark.parametrize(
    "travel",
    [
        *(
            lambda error, n=n: pickle.loads(pickle.dumps(error, n))
            for n in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        copy.copy,
        copy.deepcopy,
    ],
)
@pytest.mark.parametrize("error", _examples(), ids=lambda error: type(error).__name__)
def test_an_error_travels(error: BaseException, travel: Callable[[BaseException], BaseException]) -> None:
    """Each error, signal and interrupt is the same after it was pickled or copied: class, text and fields."""
    again = travel(error)
    assert type(again) is type(error)
    assert (str(again), again.args) == (str(error), error.args)
    assert vars(again).keys() == vars(error).keys()
    assert all(_same(value, vars(again)[name]) for name, value in vars(error).items())


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    "error", [neoq.DuplicateJobError("taken", job=neoq.Job("q")), OwnError(7, where="x")]
)
def test_an_error_in_a_process_pool(error: neoq.NeoqError) -> None:
    """What a process of a pool raises arrives where the result is asked for."""
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context)
    with pool, pytest.raises(type(error), match=str(error)) as caught:
        pool.submit(_raise, error).result(PATIENCE)
    assert caught.value.queue == "q"
