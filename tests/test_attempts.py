"""The bytes in which the failed attempts of a job are kept, whatever somebody has written there."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from neoq import Attempt, Status
from neoq.attempts import KEPT, attempts_of, one_more
from neoq.job import blank

GARBAGE: list[Any] = [
    None,
    "a text",
    7,
    b"",
    b"{",
    b"\xff\xfe\n\x00",
    b"[1]\nnull\n7",
    b'{"n": "x", "s": "y", "f": [], "w": 1, "e": {}, "t": 2}',
    b'{"n": -1, "s": 1e308, "f": -1e308}',
    b'{"n": 99999999999999999999999, "s": NaN}',
    b'{"n": 9007199254740992, "e": ' + b"[" * 500 + b"]" * 500 + b"}",
]


@pytest.mark.parametrize("kept", GARBAGE, ids=repr)
def test_garbage_is_read_and_written_over(kept: Any) -> None:
    """What is no attempt is left out, and one more attempt can be put behind it."""
    job = blank("q")
    job.failed_attempts = kept
    attempts_of(job)
    job.failed_attempts = one_more(kept, "E: x", started=1.0, finished=2.0, worker="w")
    last = attempts_of(job)[-1]
    assert (last.error, last.worker) == ("E: x", "w")
    assert orjson.loads(job.failed_attempts.split(b"\n")[-1])["e"] == "E: x"


def test_a_line_without_a_number_counts_on() -> None:
    """A store may add an attempt without knowing its number."""
    job = blank("q")
    job.failed_attempts = b'{"n": 41, "e": "a"}\n{"e": "b"}'
    assert [(attempt.number, attempt.error) for attempt in attempts_of(job)] == [(41, "a"), (42, "b")]
    job.status = Status.SUCCEEDED
    assert attempts_of(job)[-1] == Attempt(43)


def test_the_newest_are_kept() -> None:
    """However many lines a store has added, the newest are shown, and kept by the next failure."""
    kept = b"\n".join([b'{"e": "died"}'] * 50)
    job = blank("q")
    job.failed_attempts = kept
    assert [attempt.number for attempt in attempts_of(job)] == list(range(31, 51))
    job.failed_attempts = one_more(kept, "E: x", started=None, finished=2.0, worker=None)
    assert job.failed_attempts.count(b"\n") == KEPT - 1
    assert attempts_of(job)[-1].number == 51
