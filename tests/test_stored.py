"""A stored record read as a job, whatever it holds."""

from __future__ import annotations

import logging
import math
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neoq.job import Job
from neoq.record import Status
from neoq.stored import (
    SHOWN_IN_ALL,
    Reported,
    encoded_meta,
    read,
    take_meta,
    texts_in,
    unreadable,
    unreadable_end,
)
from neoq.wording.safe_logger import SafeLogger

WHOLE: dict[str, Any] = {
    "id": 7,
    "queue": "emails",
    "status": 1,
    "uniqueness": 2,
    "priority": -5,
    "retries": 3,
    "max_retries": 9,
    "crashes": 1,
    "run_after": 1.7e9,
    "created_at": 1.6e9,
    "deadline": None,
    "ran_at": None,
    "finished_at": None,
    "fingerprint": "mine",
    "kind": None,
    "key": "k",
    "group": None,
    "meta": b'{"a":"b"}',
    "payload": b'{"n":1}',
    "result": None,
    "error": "ValueError: no",
    "traceback": None,
    "progress": None,
    "progress_text": None,
    "token": 12,
    "worker": "me",
    "cancel": 0,
    "waits": True,
}
anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.sampled_from(
        ["infinity", b"\xff", b"[1]", '{"a":1}', 10**5000, 1e300, memoryview(b"x"), [[]], {1: 2}]
    ),
)


@pytest.mark.parametrize(("meta", "timeout"), [({}, 5.0), ({"a": "b"}, None), ({"a": "b"}, 5.0), ({}, None)])
def test_options_of_its_own_are_kept_with_meta(meta: dict[str, str], timeout: float | None) -> None:
    """What is kept as meta has the timeout and tick of a job, too, and is nothing for a plain job."""
    job = Job("q", meta=meta, timeout=timeout)
    job.scheduled = None if timeout is None else 7.5
    kept = encoded_meta(job)
    assert (kept is None) == (not meta and timeout is None)
    found = Job("q")
    take_meta(found, orjson.loads(kept or b"{}"))
    assert (dict(found.meta), found.timeout, found.scheduled) == (meta, timeout, job.scheduled)
    assert read({**WHOLE, "meta": kept}).timeout == timeout


def test_a_whole_record_is_read_as_it_is() -> None:
    """A record in order gives a job with each of its fields, and nothing to complain of."""
    job = read(WHOLE)
    assert unreadable(job) is None
    assert (job.id, job.queue, job.status, job.unique) == (7, "emails", Status.RETRYING, "until_started")
    assert (job.priority, job.retries, job.max_retries, job.crashes) == (-5, 3, 9, 1)
    assert (job.payload, job.meta, job.fingerprint, job.key) == ({"n": 1}, {"a": "b"}, "mine", "k")
    assert (job.error, job.worker) == ("ValueError: no", "me")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("meta", b"{"),
        ("meta", b"[]"),
        ("meta", b'{"a":1}'),
        ("meta", b'[{"a":1},{"timeout":5}]'),
        ("meta", b'[{},{"timeout":"5"}]'),
        ("meta", b'[{},{"id":5}]'),
        ("meta", b"[{},{},{}]"),
        ("meta", 5),
        ("payload", b"\xff"),
        ("payload", b"[1]"),
        ("payload", None),
        ("payload", 1.5),
        ("result", b"{"),
        ("status", 9),
        ("status", -1),
        ("status", "x"),
        ("uniqueness", 3),
        ("uniqueness", None),
        ("priority", 101),
        ("priority", -101),
        ("priority", "high"),
        ("retries", -1),
        ("crashes", 2**40),
        ("max_retries", 1.5),
        ("run_after", "soon"),
        ("run_after", None),
        ("created_at", b"x"),
        ("deadline", "x"),
        ("queue", b"\xff"),
        ("queue", None),
        ("key", b"\xff"),
        ("fingerprint", 5),
    ],
)
def test_what_cannot_be_read_is_named(field: str, value: object) -> None:
    """A field that no job can have makes the job unreadable; its error names the field and what it held."""
    job = read({**WHOLE, field: value})
    assert unreadable(job)
    assert job.id == 7
    assert job.error is not None
    assert job.error.startswith(f"Unreadable: {field} holds ")
    assert isinstance(job.queue, str)
    assert isinstance(job.payload, dict)
    repr(job)


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, 1e300, -1e300, 10**400, "infinity"], ids=repr
)
@pytest.mark.parametrize("field", ["run_after", "created_at", "deadline", "ran_at", "finished_at"])
def test_times_beyond_the_calendar_are_brought_into_it(field: str, value: Any) -> None:
    """A time that no calendar has is its beginning or its end, and the job stays readable."""
    job = read({**WHOLE, field: value})
    assert unreadable(job) is None
    at = getattr(job, field)
    assert at.year in {1, 9999}
    late = value == "infinity" or not value < 0
    assert (at.year == 9999) is late


@pytest.mark.parametrize("value", ["x" * 10**6, b"\xff" * 10**6, 10**6000, list(range(10**5))], ids=[*"abcd"])
def test_what_a_field_held_is_shown_in_part(value: object) -> None:
    """An error shows a little of what a field held, however much that was."""
    job = read({**WHOLE, "meta": value, "payload": value, "priority": value, "run_after": value})
    assert len(unreadable(job) or "") <= SHOWN_IN_ALL


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries({name: st.one_of(st.just(WHOLE[name]), anything) for name in WHOLE if name != "id"})
)
def test_nothing_that_a_record_holds_raises(fields: dict[str, Any]) -> None:
    """Whatever a record holds, it is read as a job that can be looked at in every way."""
    job = read({"id": 1, **fields})
    for look in ("payload", "fingerprint", "result", "run_after", "deadline", "created_at", "ran_at"):
        getattr(job, look)
    assert isinstance(job.status, Status)
    copy = job.snapshot()
    assert isinstance(copy.payload, dict)
    assert (copy.error, copy.result) == (job.error, job.result)


def test_an_unreadable_job_ends_dead_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A worker ends an unreadable job under its lease, and says so once however often it meets it."""
    job = read({**WHOLE, "meta": b"{"})
    outcome = unreadable_end(job, 5.0)
    assert (outcome.lease[:3], outcome.status) == ((7, "emails", 12), Status.DEAD)
    assert outcome.failure is not None
    assert f"{outcome.failure.type}: {outcome.failure.message}" == job.error
    reported = Reported(SafeLogger(logging.getLogger("neoq")))
    for _ in range(3):
        reported.tell(job)
    [record] = caplog.records
    assert record.levelname == "ERROR"
    assert "job 7 of emails" in record.getMessage()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(anything)
def test_the_names_of_a_row_are_those_that_are_texts(value: object) -> None:
    """Whatever a row has in place of a list of names, texts come out."""
    assert all(isinstance(item, str) for item in texts_in(value))


def test_times_of_a_job_never_raise() -> None:
    """A job whose times lie outside the calendar can be looked at."""
    job = Job("emails")
    job.due, job.expires, job.created = math.inf, 1e300, math.nan
    assert None not in {job.run_after, job.deadline, job.created_at}
