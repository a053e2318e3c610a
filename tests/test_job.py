"""Job: what its constructor takes and refuses, how a payload becomes bytes, what a snapshot can do."""

from __future__ import annotations

import copy
import enum
import math
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import pytest

import neoq
from neoq.errors import InvalidJobError, NeoqError, PayloadError
from neoq.job import Job
from neoq.payload import encode_payload, encode_result, fingerprint
from neoq.record import Status

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAIVE = datetime(2026, 1, 1, 12)  # noqa: DTZ001


# ------------------------------------------------------------------------------------------ what it takes


def test_a_new_job_has_the_defaults() -> None:
    """A job of a queue alone is pending, untried, unique, and has no times yet."""
    job = Job("emails")
    assert (job.id, job.queue, job.payload, job.status) == (None, "emails", {}, Status.PENDING)
    assert (job.priority, job.retries, job.max_retries, job.attempt, job.crashes) == (0, 0, None, 1, 0)
    assert (job.unique, job.on_duplicate, job.duplicate) == (True, "return", False)
    assert (job.key, job.kind, job.group, job.worker, dict(job.meta)) == (None, None, None, None, {})
    assert (job.run_after, job.deadline, job.created_at, job.ran_at, job.finished_at) == (None,) * 5
    assert (job.error, job.traceback, job.result, job.finished, job.cancelled) == (
        None,
        None,
        None,
        False,
        False,
    )


def test_a_job_keeps_what_it_is_given() -> None:
    """Every argument can be read back."""
    job = Job(
        "emails",
        {"to": "a@example.com"},
        run_after=NOON,
        deadline=NOON + timedelta(hours=1),
        priority=-100,
        max_retries=0,
        fingerprint="mine",
        unique="until_started",
        on_duplicate="replace",
        key="user-1",
        meta={"trace": "abc"},
    )
    assert (job.run_after, job.deadline) == (NOON, NOON + timedelta(hours=1))
    assert (job.priority, job.max_retries, job.fingerprint) == (-100, 0, "mine")
    assert (job.unique, job.on_duplicate, job.key) == ("until_started", "replace", "user-1")
    assert job.meta == {"trace": "abc"}


def test_times_of_any_zone_are_read_back_in_utc() -> None:
    """An aware datetime of another zone is the same instant, shown in UTC."""
    job = Job("emails", run_after=NOON.astimezone(timezone(timedelta(hours=-7))))
    assert job.run_after == NOON
    assert job.run_after.tzinfo is UTC


@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["run_after", "deadline"])
def test_a_time_at_the_end_of_the_calendar_is_refused_or_can_be_read(name: str, moment: datetime) -> None:
    """The datetimes that people take for "never" are refused at once, or can be read back later."""
    try:
        job = Job("emails", **{name: moment})
    except InvalidJobError:
        return
    assert isinstance(getattr(job, name), datetime)


def test_the_repr_says_which_job_and_how_it_is() -> None:
    """The repr names the id, the queue, the status and the retries, and not the payload."""
    job = Job("emails", {"password": "secret"})
    assert repr(job) == "<Job None of 'emails' PENDING retries=0>"


def test_a_later_change_of_the_meta_that_was_given_is_not_seen() -> None:
    """A job has its own copy of meta."""
    meta = {"trace": "abc"}
    job = Job("emails", meta=meta)
    meta["trace"] = "changed"
    assert job.meta == {"trace": "abc"}


# --------------------------------------------------------------------------------------- what it refuses

REFUSED: list[tuple[str, Any, str]] = [
    ("queue", None, "None"),
    ("queue", "", "''"),
    ("queue", "  ", "'  '"),
    ("queue", 7, "7"),
    ("queue", b"emails", "b'emails'"),
    ("queue", ["emails"], "emails"),
    ("queue", "a" * 201, "200"),
    ("queue", "new\nline", "printable"),
    ("queue", "nul\0", "printable"),
    ("queue", "\ud800", "printable"),
    ("run_after", NAIVE, "naive"),
    ("run_after", "tomorrow", "'tomorrow'"),
    ("run_after", "2026-01-01T12:00:00Z", "aware datetime"),
    ("run_after", NOON.date(), "aware datetime"),
    ("run_after", True, "True"),
    ("run_after", math.nan, "nan"),
    ("run_after", math.inf, "inf"),
    ("run_after", -math.inf, "-inf"),
    ("run_after", [60], "[60]"),
    ("deadline", NAIVE, "naive"),
    ("deadline", "soon", "'soon'"),
    ("deadline", False, "False"),
    ("deadline", math.nan, "nan"),
    ("deadline", 1j, "1j"),
    ("priority", 101, "-100 to 100"),
    ("priority", -101, "-100 to 100"),
    ("priority", 1000, "-100 to 100"),
    ("priority", 1.0, "1.0"),
    ("priority", "high", "'high'"),
    ("priority", True, "True"),
    ("priority", None, "None"),
    ("max_retries", -1, "0 to"),
    ("max_retries", 2**31, "2147483647"),
    ("max_retries", 2.0, "2.0"),
    ("max_retries", "3", "'3'"),
    ("max_retries", False, "False"),
    ("fingerprint", "", "''"),
    ("fingerprint", 7, "7"),
    ("fingerprint", b"mine", "b'mine'"),
    ("fingerprint", "a" * 1001, "1,000"),
    ("fingerprint", "\ud800", "printable"),
    ("unique", 1, "'until_started' or a timedelta"),
    ("unique", "until_finished", "'until_started'"),
    ("unique", [], "'until_started'"),
    ("unique", timedelta(0), "above 0"),
    ("unique", timedelta(days=10**7), "up to the year 9999"),
    ("on_duplicate", "ignore", "'replace'"),
    ("on_duplicate", None, "'replace'"),
    ("on_duplicate", True, "'replace'"),
    ("key", "", "''"),
    ("key", 7, "7"),
    ("key", "a\tb", "printable"),
    ("meta", "trace", "dict of str to str"),
    ("meta", [("trace", "abc")], "dict of str to str"),
    ("meta", {"trace": 7}, "meta['trace']"),
    ("meta", {7: "abc"}, "meta[7]"),
    ("meta", {"trace": None}, "meta['trace']"),
    ("meta", {"trace": "\ud800"}, "surrogate"),
    ("meta", {"\ud800": "trace"}, "surrogate"),
]


@pytest.mark.parametrize(("name", "value", "hint"), REFUSED, ids=[f"{n}={v!r:.20}" for n, v, _ in REFUSED])
def test_a_bad_argument_is_refused_with_its_name_and_the_fix(name: str, value: Any, hint: str) -> None:
    """A wrong type or value of any argument is an InvalidJobError that names it and says what it takes."""
    with pytest.raises(InvalidJobError) as caught:
        Job(**{"queue": "emails", name: value})
    message = str(caught.value)
    assert name in message
    assert hint in message
    message.encode()  # can be printed and logged


def test_a_bad_argument_is_a_value_error() -> None:
    """Code that knows nothing of neoq's errors catches ValueError."""
    with pytest.raises(ValueError, match="priority"):
        Job("emails", priority=1000)


def test_the_fix_for_a_naive_datetime_is_in_the_message() -> None:
    """The message for a naive datetime shows how to give it a timezone."""
    with pytest.raises(InvalidJobError, match=r"datetime\.now\(timezone\.utc\)"):
        Job("emails", run_after=NAIVE)


def test_options_are_keywords() -> None:
    """Nothing after the payload can be given by position."""
    with pytest.raises(TypeError):
        Job("emails", {}, NOON)  # type: ignore[misc]


def test_an_unknown_argument_is_refused() -> None:
    """A misspelt argument is a TypeError, not a setting that never works."""
    with pytest.raises(TypeError, match="run_afer"):
        Job("emails", run_afer=5)  # type: ignore[call-arg]


# ----------------------------------------------------------------------------------------- the fingerprint


def test_the_order_of_keys_does_not_matter_to_the_fingerprint() -> None:
    """Payloads that are equal have equal fingerprints, at every depth."""
    one = Job("emails", {"a": 1, "b": {"c": 2, "d": [3]}})
    two = Job("emails", {"b": {"d": (3,), "c": 2}, "a": 1})
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize(
    "other",
    [
        Job("letters", {"a": 1}),
        Job("emails", {"a": 2}),
        Job("emails", {"a": "1"}),
        Job("emails", {"a": True}),
    ],
    ids=["queue", "value", "text", "bool"],
)
def test_what_differs_has_another_fingerprint(other: Job) -> None:
    """Another queue, value or type of a value is another fingerprint."""
    assert other.fingerprint != Job("emails", {"a": 1}).fingerprint


def test_what_is_not_the_payload_is_outside_the_fingerprint() -> None:
    """Times, priority and meta do not tell jobs apart."""
    plain = Job("emails", {"a": 1})
    decorated = Job("emails", {"a": 1}, run_after=NOON, priority=5, meta={"trace": "abc"}, max_retries=3)
    assert plain.fingerprint == decorated.fingerprint


def test_queue_and_payload_cannot_be_mistaken_for_each_other() -> None:
    """A queue name that runs into the payload hashes differently."""
    assert fingerprint("emails", b'{"a":1}') != fingerprint('emails{"', b'a":1}')


# --------------------------------------------------------------------------------------- payloads as bytes


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Name(str):
    __slots__ = ()


class Options(dict[str, Any]):
    pass


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (None, b"{}"),
        ({}, b"{}"),
        ({"b": 1, "a": None}, b'{"a":null,"b":1}'),
        ({"t": (1, (2, 3)), "l": []}, b'{"l":[],"t":[1,[2,3]]}'),
        ({"f": 1.5, "i": 1, "b": True}, b'{"b":true,"f":1.5,"i":1}'),
        ({"low": -(2**63), "high": 2**64 - 1}, b'{"high":18446744073709551615,"low":-9223372036854775808}'),
        ({"s": "gr\u00fc\u00df \U0001f600"}, '{"s":"gr\u00fc\u00df \U0001f600"}'.encode()),
        ({"": {"": ""}}, b'{"":{"":""}}'),
        ({"c": Colour.RED, "l": Level.HIGH}, b'{"c":"red","l":3}'),
        ({Name("n"): Name("v")}, b'{"n":"v"}'),
        (Options(a=Options(b=1)), b'{"a":{"b":1}}'),
    ],
    ids=[
        "none",
        "empty",
        "sorted",
        "tuples",
        "numbers",
        "64-bits",
        "text",
        "empty-keys",
        "enums",
        "str",
        "dict",
    ],
)
def test_a_payload_becomes_canonical_json(payload: Any, data: bytes) -> None:
    """Payloads are written as JSON with sorted keys; subclasses as what they derive from."""
    assert encode_payload(payload, "emails") == data


def nested(depth: int) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    for _ in range(depth):
        payload = {"k": payload}
    return payload


def test_a_payload_may_be_nested_a_hundred_levels_deep() -> None:
    """A hundred levels are accepted, one more is refused, lists and objects counted alike."""
    assert encode_payload(nested(100), "emails").count(b"k") == 100
    with pytest.raises(PayloadError, match="deeper than 100"):
        encode_payload(nested(101), "emails")


class Proxy:
    """What a framework leaves behind: an object that cannot even be asked for its class."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of request context")


class Lazy:
    """An object that says it is a str, and is none."""

    @property
    def __class__(self) -> Any:
        return str

    def encode(self) -> bytes:
        return b"lazy"


@pytest.mark.parametrize("cls", [Proxy, Lazy])
def test_an_object_that_lies_about_its_class_is_a_payload_error(cls: type) -> None:
    """A context-bound or lazy proxy in a payload is refused like any other object, naming its place."""
    with pytest.raises(PayloadError, match=r"payload\.user"):
        encode_payload({"user": cls()}, "emails")


@pytest.mark.parametrize("result", [[1, (2,)], {"a": 1}, "text", 7, 0, "", [], False, 1.5], ids=repr)
def test_a_result_may_be_any_json(result: Any) -> None:
    """A result is any JSON value, and what is falsy is not taken for nothing."""
    data = encode_result(result)
    assert data is not None


@pytest.mark.parametrize(
    "make", [set, object, bytes, datetime.now, Proxy, Lazy, lambda: {1: 2}, lambda: math.nan]
)
def test_a_result_that_is_not_json_is_a_payload_error(make: Callable[[], Any]) -> None:
    """A result that JSON cannot carry is refused with the one error that its caller expects."""
    with pytest.raises(PayloadError):
        encode_result(make())


# ---------------------------------------------------------------------------------------------- snapshots


@pytest.mark.parametrize(
    "use",
    [
        lambda job: job.remaining(),
        lambda job: job.progress(0.5),
        lambda job: job.shield(),
        lambda job: job.complete(None),
    ],
    ids=["remaining", "progress", "shield", "complete"],
)
def test_a_snapshot_cannot_do_what_needs_a_running_handler(use: Any) -> None:
    """The methods of a running attempt say so when they are called on a snapshot."""
    with pytest.raises(NeoqError, match="only while its handler runs"):
        use(Job("emails"))


def test_the_progress_of_a_snapshot_can_be_read() -> None:
    """progress() without arguments only looks, and works on any job."""
    assert Job("emails").progress() is None


def test_meta_may_be_any_mapping() -> None:
    """For meta any mapping will do, not only a dict."""
    assert Job("emails", meta=MappingProxyType({"trace": "abc"})).meta == {"trace": "abc"}


def _travels() -> list[Any]:
    protocols = range(pickle.HIGHEST_PROTOCOL + 1)
    return [
        *(lambda job, protocol=protocol: pickle.loads(pickle.dumps(job, protocol)) for protocol in protocols),
        copy.copy,
        copy.deepcopy,
    ]


@pytest.mark.parametrize("travel", _travels())
def test_a_job_travels(travel: Callable[[Job], Job]) -> None:
    """A job that its user has made is the same after it was pickled or copied, and can be enqueued."""
    job = Job("q", {"n": [1]}, run_after=timedelta(hours=1), key="k", meta={"a": "b"}, unique=False)
    again = travel(job)
    assert (again.queue, again.payload, again.key, again.meta) == ("q", {"n": [1]}, "k", {"a": "b"})
    with neoq.MemBackend(autostart=False) as backend:
        backend.listen("q", print)
        added = backend.enqueue(again)
        assert (added.run_after - added.created_at, added.unique) == (timedelta(hours=1), False)
        backend.delete(added.id)


@pytest.mark.parametrize("travel", _travels())
def test_a_running_job_travels(travel: Callable[[Job], Job]) -> None:
    """The job that a handler has is pickled and copied as a snapshot of itself."""
    taken: list[Job] = []

    def handler(job: Job) -> None:
        job.payload["n"] = 8
        job.progress(0.5, "half of it")
        with job.shield():
            taken.append(travel(job))

    with neoq.MemBackend() as backend:
        backend.listen("q", handler)
        done = backend.wait(backend.enqueue("q", {"n": 7}, meta={"a": "b"}).id, 10)
    assert done.status is Status.SUCCEEDED
    [snapshot] = taken
    assert (snapshot.id, snapshot.status, snapshot.fingerprint) == (done.id, Status.RUNNING, done.fingerprint)
    assert (snapshot.payload, snapshot.meta) == ({"n": 7}, {"a": "b"})
    assert snapshot.progress() == (0.5, "half of it")
    assert not snapshot.cancelled
    with pytest.raises(NeoqError, match="snapshot"):
        snapshot.remaining()


@pytest.mark.parametrize("travel", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_backend_does_not_travel(travel: Callable[[Any], Any]) -> None:
    """A backend that is pickled or copied says what to do instead."""
    with neoq.MemBackend() as backend, pytest.raises(TypeError, match="make one there"):
        travel(backend)
