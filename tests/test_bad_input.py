"""Bad input is refused at the call that gives it, with an error that names it and says what to do."""

from __future__ import annotations

import collections
import dataclasses
import decimal
import enum
import functools
import ipaddress
import math
import pathlib
import re
import types
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

import neoq
import neoq.cron

NAIVE = datetime(2026, 1, 1, 12)  # noqa: DTZ001


@pytest.fixture
def backend() -> Iterator[neoq.MemBackend]:
    """A backend whose queue q is listened to; nothing starts."""
    with neoq.MemBackend(autostart=False) as backend:
        backend.listen("q", lambda job: None)
        yield backend
        assert_empty(backend)
        backend.shutdown()


def assert_empty(backend: neoq.MemBackend) -> None:
    """What was refused has left nothing behind."""
    assert backend.jobs() == []
    assert backend.stats().ready == 0


# ---------------------------------------------------------------------------------------------- payloads


@dataclasses.dataclass
class User:
    name: str


def nested(depth: int) -> dict[str, Any]:
    payload: dict[str, Any] = {}
    for _ in range(depth):
        payload = {"k": payload}
    return payload


def object_in_itself() -> dict[str, Any]:
    payload: dict[str, Any] = {}
    payload["self"] = payload
    return payload


def list_in_itself() -> dict[str, Any]:
    items: list[Any] = []
    items.append(items)
    return {"items": items}


def keys(key: Any) -> dict[Any, Any]:
    return {"user": {key: 1}}


# What is given, where it is, what it is, and what to do about it.
NOT_JSON: dict[str, tuple[Any, str, str, str]] = {
    "a list": ([1], "payload", "list", "a payload is a dict"),
    "a text": ("text", "payload", "str", "a payload is a dict"),
    "bytes as a whole": (b"{}", "payload", "bytes", "a payload is a dict"),
    "zero": (0, "payload", "int", "a payload is a dict"),
    "False": (False, "payload", "bool", "a payload is a dict"),
    "an object": ({"a": object()}, "payload.a", "object", "use str, int, float"),
    "a dataclass": ({"a": User("x")}, "payload.a", "User", "use str, int, float"),
    "a function": ({"a": print}, "payload.a", "builtin_function_or_method", "use str, int, float"),
    "a class": ({"a": User}, "payload.a", "type", "use str, int, float"),
    "a set": ({"a": {1, 2}}, "payload.a", "set", "sorted"),
    "a frozenset": ({"a": frozenset()}, "payload.a", "frozenset", "sorted"),
    "a generator": ({"a": (n for n in [1])}, "payload.a", "generator", "use str, int, float"),
    "bytes": ({"a": b"x"}, "payload.a", "bytes", "decode"),
    "a bytearray": ({"a": bytearray(b"x")}, "payload.a", "bytearray", "decode"),
    "a datetime": ({"a": datetime.now(UTC)}, "payload.a", "datetime", "isoformat"),
    "a date": ({"a": date(2026, 1, 1)}, "payload.a", "date", "isoformat"),
    "a timedelta": ({"a": timedelta(1)}, "payload.a", "timedelta", "total_seconds"),
    "a Decimal": ({"a": decimal.Decimal(1)}, "payload.a", "Decimal", "str"),
    "a UUID": ({"a": uuid.UUID(int=1)}, "payload.a", "UUID", "str"),
    "a path": ({"a": pathlib.PurePosixPath("/")}, "payload.a", "PurePosixPath", "str"),
    "a complex": ({"a": 1j}, "payload.a", "complex", "use str, int, float"),
    "an exception": ({"a": ValueError("x")}, "payload.a", "ValueError", "use str, int, float"),
    "deep within": (
        {"a": [{"b": (1, {"c": object()})}]},
        "payload.a[0].b[1].c",
        "object",
        "use str, int, float",
    ),
    "NaN": ({"a": math.nan}, "payload.a", "nan", "send None"),
    "Infinity": ({"a": [1.0, math.inf]}, "payload.a[1]", "inf", "send None"),
    "minus Infinity": ({"a": {"b": -math.inf}}, "payload.a.b", "-inf", "send None"),
    "an int beyond 64 bits": ({"a": 2**64}, "payload.a", "integer beyond 64 bits", "send it as a str"),
    "a negative int beyond 64 bits": (
        {"a": [-(2**63) - 1]},
        "payload.a[0]",
        "integer beyond 64 bits",
        "as a str",
    ),
    "an int of a million bits": ({"a": 1 << 1_000_000}, "payload.a", "integer beyond 64 bits", "as a str"),
    "an int as a key": (keys(7), "payload.user", "int", "JSON keys are str"),
    "None as a key": (keys(None), "payload.user", "NoneType", "JSON keys are str"),
    "a bool as a key": (keys(True), "payload.user", "bool", "JSON keys are str"),
    "a tuple as a key": (keys((1, 2)), "payload.user", "tuple", "JSON keys are str"),
    "bytes as a key": (keys(b"k"), "payload.user", "bytes", "JSON keys are str"),
    "a key of the payload itself": ({1: 2}, "payload", "int", "JSON keys are str"),
    "a lone surrogate": ({"a": "x\ud800"}, "payload.a", "lone surrogate at character 1", "decode its source"),
    "a lone surrogate within": ({"a": ["\udfff"]}, "payload.a[0]", "lone surrogate", "decode its source"),
    "a lone surrogate in a key": (keys("\ud800"), "payload.user", "lone surrogate", "decode its source"),
    "an object in itself": (object_in_itself(), "payload.self.self", "contains itself", "100 levels"),
    "a list in itself": (list_in_itself(), "payload.items[0][0]", "contains itself", "100 levels"),
    "too deep": (nested(101), "payload.k.k", "nested deeper", "100 levels"),
}


@pytest.mark.parametrize("name", NOT_JSON)
def test_what_is_not_json_is_refused_with_its_place_type_and_fix(backend: neoq.MemBackend, name: str) -> None:
    """What JSON cannot carry is a PayloadError that says where it is, what it is, and what to send."""
    payload, path, kind, fix = NOT_JSON[name]
    with pytest.raises(neoq.PayloadError) as caught:
        backend.enqueue("q", payload)
    message = str(caught.value)
    for part in (path, kind, fix):
        assert part in message
    assert path in caught.value.path
    assert caught.value.queue == "q"
    assert len(message) < 500
    message.encode()  # can be printed and logged


class Colour(enum.Enum):
    RED = "red"


class Modelled:
    """As a model of pydantic's."""

    def model_dump(self, mode: str = "python") -> dict[str, Any]:
        return {}


class Stored:
    """As a model of Django's."""

    _meta: Any = None
    pk = 7


REMEDIES: dict[str, tuple[Any, str]] = {
    "Decimal": (decimal.Decimal("1.1"), "str(x), or float(x)"),
    "UUID": (uuid.UUID(int=1), "str(x)"),
    "path": (pathlib.Path("/"), "str(x)"),
    "address": (ipaddress.ip_address("::1"), "str(x)"),
    "enum": (Colour.RED, "x.value"),
    "datetime": (datetime.now(UTC), "x.isoformat()"),
    "date": (date(2026, 1, 1), "x.isoformat()"),
    "timedelta": (timedelta(1), "x.total_seconds()"),
    "set": ({1}, "sorted(x)"),
    "bytes": (b"x", "base64"),
    "memoryview": (memoryview(b"x"), "base64"),
    "dataclass": (User("x"), "dataclasses.asdict(x)"),
    "pydantic": (Modelled(), "x.model_dump(mode='json')"),
    "Django": (Stored(), "x.pk"),
    "deque": (collections.deque([1]), "list(x)"),
    "range": (range(3), "list(x)"),
    "dict view": ({"a": 1}.values(), "list(x)"),
    "mapping": (types.MappingProxyType({"a": 1}), "dict(x)"),
    "generator": ((n for n in [1]), "list(x)"),
    "pattern": (re.compile("x"), "x.pattern"),
    "exception": (ValueError("x"), "str(x)"),
    "function": (nested, "its name"),
    "class": (User, "its name"),
    "object": (object(), "an id to load it by"),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_what_is_not_json_is_told_what_to_send(backend: neoq.MemBackend, name: str) -> None:
    """For the things that people put into payloads the error says what to send instead, wherever they are."""
    value, remedy = REMEDIES[name]
    for payload in ({"a": value}, {"a": [{"b": value}]}, value):
        with pytest.raises(neoq.PayloadError) as caught:
            backend.enqueue("q", payload)
        message = str(caught.value)
        assert remedy in message[message.index(": send ") :]


def test_a_row_of_sqlalchemy_is_told_what_to_send(backend: neoq.MemBackend) -> None:
    """So is an object that SQLAlchemy maps: its key, for the handler to load it."""
    orm = pytest.importorskip("sqlalchemy.orm")
    sqlalchemy = pytest.importorskip("sqlalchemy")
    base = orm.declarative_base()
    row = type(
        "Row",
        (base,),
        {"__tablename__": "rows", "id": sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)},
    )
    with pytest.raises(neoq.PayloadError, match="its primary key"):
        backend.enqueue("q", {"a": row()})


def test_a_payload_over_the_limit_is_refused(backend: neoq.MemBackend) -> None:
    """More than 1 MiB as JSON is refused, with its size, the limit and the advice to send a reference."""
    with pytest.raises(
        neoq.PayloadError, match=r"'q' is 1,048,577 bytes.*max_payload \(1,048,576\).*reference"
    ):
        backend.enqueue("q", {"a": "x" * (2**20 + 1 - len('{"a":""}'))})


def test_a_payload_at_the_limit_is_accepted() -> None:
    """Exactly 1 MiB as JSON is fine; what counts are bytes, not characters."""
    with neoq.MemBackend(autostart=False) as backend:
        backend.listen("q", lambda job: None)
        assert backend.enqueue("q", {"a": "x" * (2**20 - len('{"a":""}'))}).id is not None
        with pytest.raises(neoq.PayloadError):
            backend.enqueue("q", {"a": "\u20ac" * (2**20 // 3)})
        backend.shutdown()


def test_the_limit_of_payloads_can_be_set() -> None:
    """max_payload is what a payload is measured against."""
    with neoq.MemBackend(autostart=False, max_payload=10) as backend:
        backend.listen("q", lambda job: None)
        backend.enqueue("q", {"a": 1234})
        with pytest.raises(neoq.PayloadError, match="11 bytes"):
            backend.enqueue("q", {"a": 12345})
        backend.shutdown()


def test_one_bad_payload_in_a_batch_refuses_all(backend: neoq.MemBackend) -> None:
    """enqueue_many is all or nothing: a bad payload among good ones leaves none behind."""
    jobs = [neoq.Job("q", {"n": 1}), neoq.Job("q", {"n": {2}}), neoq.Job("q", {"n": 3})]
    with pytest.raises(neoq.PayloadError, match=r"payload\.n is a set"):
        backend.enqueue_many(jobs)


def test_a_payload_error_is_an_invalid_job_and_a_value_error(backend: neoq.MemBackend) -> None:
    """An except clause for InvalidJobError, ValueError or NeoqError catches a bad payload too."""
    for cls in (neoq.InvalidJobError, ValueError, neoq.NeoqError):
        with pytest.raises(cls):
            backend.enqueue("q", {"a": object()})


def test_a_bad_payload_does_not_take_its_fingerprint(backend: neoq.MemBackend) -> None:
    """What was refused blocks nothing: the corrected job with the same fingerprint is new."""
    with pytest.raises(neoq.PayloadError):
        backend.enqueue("q", {"a": object()}, fingerprint="mine")
    job = backend.enqueue("q", {"a": 1}, fingerprint="mine")
    assert not job.duplicate
    assert job.id is not None
    backend.delete(job.id)


# ------------------------------------------------------------------------------------------- enqueue, Job

ENQUEUE: list[tuple[str, Any, str]] = [
    ("run_after", NAIVE, r"naive datetime.*datetime\.now\(timezone\.utc\)"),
    ("deadline", NAIVE, r"naive datetime.*datetime\.now\(timezone\.utc\)"),
    ("run_after", "tomorrow", "aware datetime"),
    ("run_after", math.nan, "nan"),
    ("run_after", timedelta.max, "run_after is .*9999"),
    ("run_after", 1e300, "run_after is .*9999"),
    ("run_after", -1e12, "run_after is .*1970"),
    ("run_after", 10**400, "run_after"),
    ("deadline", timedelta.max, "deadline is .*9999"),
    ("deadline", True, "deadline"),
    ("priority", 101, "-100 to 100"),
    ("priority", "high", "-100 to 100"),
    ("max_retries", -1, "0 to"),
    ("max_retries", 1.5, "0 to"),
    ("fingerprint", "", "fingerprint"),
    ("fingerprint", 7, "fingerprint"),
    ("unique", "forever", "until_started"),
    ("on_duplicate", "explode", "'return' or 'raise' or 'replace'"),
    ("key", 7, "key"),
    ("meta", {"a": 1}, "meta"),
]


@pytest.mark.parametrize(("name", "value", "match"), ENQUEUE, ids=[f"{n}={v!r:.20}" for n, v, _ in ENQUEUE])
def test_a_bad_argument_of_enqueue_is_refused(
    backend: neoq.MemBackend, name: str, value: Any, match: str
) -> None:
    """Each argument of enqueue is checked at the call; the error names it and what it takes."""
    with pytest.raises(neoq.InvalidJobError, match=match):
        backend.enqueue("q", {}, **{name: value})
    with pytest.raises(neoq.InvalidJobError, match=match):
        backend.enqueue_many([neoq.Job("q", {}, **{name: value})])


@pytest.mark.parametrize("queue", [None, "", " ", 7, b"q", ["q"], "a" * 201, "a\nb", "\ud800"], ids=repr)
def test_a_bad_queue_is_refused(backend: neoq.MemBackend, queue: Any) -> None:
    """enqueue, listen, pause and resume refuse what is no queue name."""
    for call in (
        lambda: backend.enqueue(queue),
        lambda: backend.listen(queue, print),
        lambda: backend.pause(queue),
        lambda: backend.resume(queue),
    ):
        with pytest.raises(neoq.InvalidJobError, match="queue"):
            call()


def test_options_beside_a_job_are_refused(backend: neoq.MemBackend) -> None:
    """enqueue(job) takes its options from the job: others beside it would be ignored, so they are refused."""
    with pytest.raises((TypeError, neoq.InvalidJobError)):
        backend.enqueue(neoq.Job("q"), priority=5)
    with pytest.raises((TypeError, neoq.InvalidJobError)):
        backend.enqueue(neoq.Job("q"), {"a": 1})


def test_an_unknown_argument_is_refused(backend: neoq.MemBackend) -> None:
    """A misspelt argument of enqueue is a TypeError that guesses which was meant."""
    with pytest.raises(TypeError, match="run_afer; did you mean run_after"):
        backend.enqueue("q", {}, run_afer=5)  # type: ignore[call-arg]


def test_words_of_other_libraries_are_told_what_to_write(backend: neoq.MemBackend) -> None:
    """A keyword of another library is no payload: the error says what it is called here."""
    for words, remedy in (
        ("countdown delay queue_in in_ defer wait", "run_after=60"),
        ("eta at run_at scheduled_at when enqueue_at", "run_after=.*aware datetime"),
        ("job_timeout time_limit soft_time_limit", "timeout="),
        ("retry retries max_attempts", r"max_retries=3.*RetryPolicy"),
        ("backoff retry_delay retry_policy", "RetryPolicy"),
        ("depends_on link chain on_success", "enqueue the next job"),
        ("expires ttl", "deadline="),
        ("job_id task_id idempotency_key", "fingerprint="),
        ("session connection", "transaction="),
        ("tags headers", "meta="),
        ("cron every repeat", "listen_cron"),
        ("concurrency on_error", r"listen\(queue, handler, (concurrency|on_error)="),
        ("args kwargs", "go into the payload"),
        ("result_ttl", "retention="),
    ):
        for word in words.split():
            with pytest.raises(TypeError, match=f"does not know {word}; .*{remedy}"):
                backend.enqueue("q", {}, **{word: 5})
            with pytest.raises(TypeError, match=rf"Job\(\) does not know {word}; .*{remedy}"):
                neoq.Job("q", {}, **{word: 5})  # type: ignore[arg-type]


def test_a_job_is_told_where_its_transaction_goes() -> None:
    """A transaction is given to enqueue: Job says so, and guesses a misspelt option."""
    with pytest.raises(TypeError, match=r"Job\(\) does not know transaction; .*enqueue\(job, transaction="):
        neoq.Job("q", transaction=None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="run_afer; did you mean run_after"):
        neoq.Job("q", {}, run_afer=5)  # type: ignore[call-arg]


def test_keywords_of_listen_are_guessed(backend: neoq.MemBackend) -> None:
    """A keyword that listen does not know is told the one that was meant, and where it belongs."""
    for word, remedy in (
        ("concurency", "did you mean concurrency"),
        ("timout", "did you mean timeout"),
        ("workers", "concurrency=4"),
        ("retries", "max_retries=3"),
        ("backoff", "RetryPolicy"),
        ("queue_size", "capacity="),
        ("priority", r"enqueue\(queue, payload, priority=\.\.\.\)"),
        ("schedule", "listen_cron"),
        ("xyzzy", "it takes concurrency, timeout"),
    ):
        with pytest.raises(neoq.InvalidJobError, match=f"{word}.*{remedy}"):
            backend.listen("other", print, **{word: 1})
        with pytest.raises(neoq.InvalidJobError, match=f"{word}.*{remedy}"):
            backend.listen_cron("@hourly", print, **{word: 1})
    with pytest.raises(neoq.InvalidJobError, match="did you mean timezone"):
        backend.listen_cron("@hourly", print, timezon="UTC")  # type: ignore[call-overload]


def test_a_text_for_an_option_says_what_it_takes(backend: neoq.MemBackend) -> None:
    """Only URLs speak in texts: an option that was given one says what it takes."""
    for name, takes in (("timeout", "seconds .or a timedelta. >= 0.001"), ("concurrency", "a whole number"),
                        ("capacity", "a whole number")):  # fmt: skip
        with pytest.raises(neoq.InvalidJobError, match=f"{name} is '10s', a str; it takes {takes}"):
            backend.listen("other", print, **{name: "10s"})


def test_a_decorator_without_its_queue(backend: neoq.MemBackend) -> None:
    """A bare decorator is shown how it is written."""
    with pytest.raises(neoq.InvalidJobError, match=r'@backend\.listen\("emails"\)'):
        backend.listen(print)  # type: ignore[call-overload]
    with pytest.raises(neoq.CronError, match=r'@backend\.listen_cron\("@every 5m"\)'):
        backend.listen_cron(print)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("every 5 minutes", "@every 5m"),
        ("Every 30 seconds", "@every 30s"),
        ("every hour", "@every 1h"),
        ("every day", "@every 1d"),
        ("5m", "@every 5m"),
        ("daily", "@daily"),
        ("every week", "@weekly"),
        ("every day at 9:30", "30 9 * * *"),
        ("every monday", "0 0 * * MON"),
        (300, "@every 300s"),
        (timedelta(minutes=5), "@every 300s"),
    ],
    ids=repr,
)
def test_a_schedule_in_words_is_told_its_spec(backend: neoq.MemBackend, spec: Any, meant: str) -> None:
    """A schedule in words, or as a span, is refused with the spec that was meant, which is one."""
    with pytest.raises(neoq.CronError) as caught:
        backend.listen_cron(spec, print)
    assert f"write {meant!r}" in str(caught.value)
    neoq.cron.Schedule(meant)


def test_a_payload_in_keywords_is_refused(backend: neoq.MemBackend) -> None:
    """Keywords that belong in the payload are refused, and the error says where they go."""
    with pytest.raises(TypeError, match=r"the payload: enqueue\(queue, \{'name': \.\.\.\}\)"):
        backend.enqueue("q", name="Ada")  # type: ignore[call-arg]


@pytest.mark.parametrize("jobs", ["q", [{"queue": "q"}], ["q"], [None], 7, None, neoq.Job("q")], ids=repr)
def test_enqueue_many_takes_jobs(backend: neoq.MemBackend, jobs: Any) -> None:
    """What is no list of jobs is refused as a whole, naming what it takes."""
    with pytest.raises((neoq.InvalidJobError, TypeError), match=r"Job|not iterable"):
        backend.enqueue_many(jobs)


def test_enqueue_many_of_nothing_is_nothing(backend: neoq.MemBackend) -> None:
    """An empty batch is no mistake; a generator will do as well as a list."""
    assert backend.enqueue_many([]) == []
    assert backend.enqueue_many(job for job in ()) == []  # type: ignore[arg-type]


def test_a_job_is_enqueued_only_once(backend: neoq.MemBackend) -> None:
    """Enqueueing an accepted job again makes a duplicate or an error, never a second copy."""
    job = backend.enqueue("q", {"a": 1})
    try:
        again = backend.enqueue(job)
    except neoq.InvalidJobError:
        pass
    else:
        assert (again.id, again.duplicate) == (job.id, True)
    assert len(backend.jobs()) == 1
    assert job.id is not None
    backend.delete(job.id)


def test_a_queue_that_nobody_listens_on_is_refused(backend: neoq.MemBackend) -> None:
    """In memory a job of a queue without a listener would wait for ever: the error names the queue."""
    with pytest.raises(neoq.NoListenerError, match="qq") as caught:
        backend.enqueue("qq")
    assert caught.value.queue == "qq"
    with pytest.raises(neoq.NoListenerError):
        backend.enqueue_many([neoq.Job("q"), neoq.Job("qq")])


def test_memory_has_no_transactions(backend: neoq.MemBackend) -> None:
    """A transaction given to a backend without any is refused, not ignored."""
    with pytest.raises(neoq.UnsupportedError, match="transaction"):
        backend.enqueue("q", {}, transaction=object())


# ------------------------------------------------------------------------------------------------ listen

LISTEN: list[tuple[str, Any]] = [
    ("concurrency", 0),
    ("concurrency", -1),
    ("concurrency", 10_001),
    ("concurrency", 1.5),
    ("concurrency", "4"),
    ("concurrency", None),
    ("concurrency", True),
    ("timeout", 0),
    ("timeout", -1),
    ("timeout", math.nan),
    ("timeout", math.inf),
    ("timeout", "fast"),
    ("timeout", True),
    ("timeout", timedelta(seconds=-1)),
    ("timeout", timedelta.max),
    ("capacity", 0),
    ("capacity", -1),
    ("capacity", 1.5),
    ("capacity", "big"),
    ("max_retries", -1),
    ("max_retries", 1.5),
    ("max_retries", None),
    ("max_retries", "3"),
    ("retry", 5),
    ("retry", "exponential"),
    ("retry", neoq.RetryPolicy),
    ("on_error", "log"),
    ("on_error", 7),
]
IDS = [f"{n}={v!r:.20}" for n, v in LISTEN]


@pytest.mark.parametrize(("name", "value"), LISTEN, ids=IDS)
def test_a_bad_option_of_listen_is_refused(backend: neoq.MemBackend, name: str, value: Any) -> None:
    """Each option of listen is checked at the call, before the queue is taken."""
    with pytest.raises((neoq.InvalidJobError, neoq.ConfigError), match=name):
        backend.listen("other", print, **{name: value})
    with pytest.raises((neoq.InvalidJobError, neoq.ConfigError), match=name):
        backend.listen("other", **{name: value})(print)
    backend.listen("other", print)


@pytest.mark.parametrize("name", ["concurency", "capcity", "run_after", "queue_capacity"])
def test_an_unknown_option_of_listen_is_refused(backend: neoq.MemBackend, name: str) -> None:
    """A misspelt option is refused by its name, it does not make a listener with the default."""
    with pytest.raises((TypeError, neoq.InvalidJobError), match=name):
        backend.listen("other", print, **{name: 1})


@pytest.mark.parametrize("handler", [7, "print", ["print"], {}], ids=repr)
def test_a_handler_that_cannot_be_called_is_refused(backend: neoq.MemBackend, handler: Any) -> None:
    """A handler is a function, or something else that can be called."""
    with pytest.raises(neoq.InvalidJobError, match="handler"):
        backend.listen("other", handler)
    with pytest.raises(neoq.InvalidJobError, match="handler"):
        backend.listen("other")(handler)
    with pytest.raises(neoq.InvalidJobError, match="handler"):
        backend.listen_cron("* * * * *", handler)


def generator(job: neoq.Job) -> Iterator[int]:
    yield 1


async def async_generator(job: neoq.Job) -> AsyncIterator[int]:
    yield 1


class GeneratorObject:
    def __call__(self, job: neoq.Job) -> Iterator[int]:
        yield 1


@pytest.mark.parametrize(
    "handler",
    [generator, async_generator, functools.partial(generator), GeneratorObject()],
    ids=["function", "async", "partial", "object"],
)
def test_a_generator_function_is_refused(backend: neoq.MemBackend, handler: Any) -> None:
    """To call a generator function runs nothing of it: its jobs would all succeed, and do nothing."""
    with pytest.raises(neoq.InvalidJobError, match="generator"):
        backend.listen("other", handler)


def takes_nothing() -> None:
    pass


def takes_two(job: neoq.Job, more: int) -> None:
    pass


@pytest.mark.parametrize("handler", [takes_nothing, takes_two])
def test_a_handler_that_does_not_take_a_job_is_refused(
    backend: neoq.MemBackend, handler: Callable[..., Any]
) -> None:
    """A handler of the wrong shape is refused where it is registered, not at its first job at night."""
    with pytest.raises(neoq.InvalidJobError, match="handler"):
        backend.listen("other", handler)


def test_a_decorator_without_its_queue_is_refused(backend: neoq.MemBackend) -> None:
    """@backend.listen without parentheses would take the function for the queue's name."""
    with pytest.raises(neoq.InvalidJobError, match="queue"):

        @backend.listen  # type: ignore[arg-type]
        def handler(job: neoq.Job) -> None:
            pass


def test_a_second_handler_of_a_queue_is_refused(backend: neoq.MemBackend) -> None:
    """A queue has one handler; the error names the queue."""
    with pytest.raises(neoq.ListenerExistsError, match=r"'q' has a handler .* another queue") as caught:
        backend.listen("q", print)
    assert caught.value.queue == "q"


@pytest.mark.parametrize("middleware", [7, None, "print"], ids=repr)
def test_middleware_that_cannot_be_called_is_refused(backend: neoq.MemBackend, middleware: Any) -> None:
    """use(), use_enqueue() and use_batch() take functions."""
    for use in (backend.use, backend.use_enqueue, backend.use_batch):
        with pytest.raises(neoq.InvalidJobError, match="middleware"):
            use(middleware)


# ------------------------------------------------------------------------------------------- listen_cron

SPECS: list[tuple[Any, str]] = [
    ("0 0 30 2 *", "day of month"),
    ("0 0 31 2,4,6,9,11 *", "day of month"),
    ("*/0 * * * *", "minute"),
    ("61 * * * *", "minute"),
    ("60 * * * *", "minute"),
    ("* 24 * * *", "hour"),
    ("* * 0 * *", "day of month"),
    ("* * * 13 *", "month"),
    ("* * * * 8", "day of week"),
    ("60 * * * * *", "second"),
    ("* * * *", "4 fields"),
    ("* * * * * * *", "7 fields"),
    ("", "fields"),
    ("@sometimes", "macro"),
    ("@every", "@every"),
    ("@every 0s", "@every"),
    ("@every -5s", "@every"),
    ("every 5 minutes", "fields"),
    ("TZ=UTC * * * * *", "timezone"),
    ("a b c d e", "minute"),
    ("1- * * * *", "minute"),
    ("0 0 L * *", "day of month"),
    (None, "ASCII string"),
    (5, "ASCII string"),
    (b"* * * * *", "ASCII string"),
    (timedelta(minutes=5), "ASCII string"),
]


@pytest.mark.parametrize(("spec", "part"), SPECS, ids=[repr(spec) for spec, _ in SPECS])
def test_an_impossible_cron_spec_is_refused(backend: neoq.MemBackend, spec: Any, part: str) -> None:
    """A spec that is wrong or can never fire is refused at the call, naming the field; it takes no queue."""
    with pytest.raises(neoq.CronError, match=part) as caught:
        backend.listen_cron(spec, print, queue="ticks")
    assert caught.value.spec == spec
    with pytest.raises(neoq.CronError, match=part):
        backend.listen_cron(spec)  # as a decorator it is refused before it decorates
    backend.listen("ticks", print)


@pytest.mark.parametrize("timezone", ["Mars/Olympus", 7, "", "../UTC"], ids=repr)
def test_an_unknown_timezone_is_refused(backend: neoq.MemBackend, timezone: Any) -> None:
    """A timezone that does not exist is refused at listen_cron."""
    with pytest.raises(neoq.CronError, match="timezone"):
        backend.listen_cron("0 0 * * *", print, timezone=timezone)


@pytest.mark.parametrize(("name", "value"), LISTEN, ids=IDS)
def test_a_bad_option_of_listen_cron_is_refused(backend: neoq.MemBackend, name: str, value: Any) -> None:
    """listen_cron checks the options of listen as listen does."""
    with pytest.raises((neoq.InvalidJobError, neoq.ConfigError), match=name):
        backend.listen_cron("0 0 * * *", print, **{name: value})


@pytest.mark.parametrize("queue", ["", 7, "a\nb"], ids=repr)
def test_a_bad_queue_of_listen_cron_is_refused(backend: neoq.MemBackend, queue: Any) -> None:
    """A queue given to listen_cron is checked as any."""
    with pytest.raises(neoq.InvalidJobError, match="queue"):
        backend.listen_cron("0 0 * * *", print, queue=queue)


@pytest.mark.parametrize("catch_up", ["no", 1, None], ids=repr)
def test_catch_up_is_a_switch(backend: neoq.MemBackend, catch_up: Any) -> None:
    """catch_up takes True or False; a text such as "no" would count as yes."""
    with pytest.raises((neoq.InvalidJobError, neoq.ConfigError), match="catch_up"):
        backend.listen_cron("0 0 * * *", print, catch_up=catch_up)


def test_two_crons_of_one_name_need_a_queue(backend: neoq.MemBackend) -> None:
    """Two specs with the same description clash; the error says to pass queue=."""
    backend.listen_cron("*/5 * * * *", print)
    with pytest.raises(neoq.ListenerExistsError, match="queue="):
        backend.listen_cron("*/5 * * * *", print)
    backend.listen_cron("*/5 * * * *", print, queue="another")


# ----------------------------------------------------------------------------------- looking, operating


@pytest.mark.parametrize(
    "job_id", [None, "1", 1.5, object(), -1, 0, 10**30, True], ids=lambda value: repr(value)[:12]
)
def test_an_id_that_nobody_has_changes_nothing(backend: neoq.MemBackend, job_id: Any) -> None:
    """An id that is unknown or of a wrong type is False or None, or an InvalidJobError; no crash."""
    for call, answer in (
        (backend.get, None),
        (backend.cancel, False),
        (backend.retry, False),
        (backend.delete, False),
    ):
        try:
            assert call(job_id) is answer
        except neoq.InvalidJobError:
            continue


LOOK: list[dict[str, Any]] = [
    {"limit": -1},
    {"limit": 0.5},
    {"limit": "all"},
    {"limit": None},
    {"status": "finished"},
    {"status": 7},
]


@pytest.mark.parametrize("options", LOOK, ids=repr)
def test_a_bad_filter_is_refused(backend: neoq.MemBackend, options: dict[str, Any]) -> None:
    """jobs() with a status or limit that makes no sense says so, and does not answer with an empty list."""
    with pytest.raises(ValueError, match=r"(?i)limit|status"):
        backend.jobs(**options)


@pytest.mark.parametrize("timeout", [math.nan, "soon", -1, True], ids=repr)
def test_a_bad_time_to_wait_is_refused(backend: neoq.MemBackend, timeout: Any) -> None:
    """wait, drain and shutdown refuse a timeout that is no span; and after that they still work."""
    for call in (
        lambda: backend.drain(timeout),
        lambda: backend.wait(1, timeout),
        lambda: backend.shutdown(timeout),
    ):
        with pytest.raises(neoq.InvalidJobError, match="timeout"):
            call()


def test_waiting_for_an_unknown_job_ends_at_once(backend: neoq.MemBackend) -> None:
    """wait() for a job that cannot be found says so, and does not wait for ever."""
    with pytest.raises(neoq.NeoqError, match="12345"):
        backend.wait(12345, timeout=5)


def test_draining_inside_a_handler_is_refused() -> None:
    """A handler that waited for all jobs would wait for itself: drain() raises there."""
    with neoq.MemBackend() as backend:

        @backend.listen("q", max_retries=0)
        def handler(job: neoq.Job) -> str:
            try:
                backend.drain(5)
            except neoq.NeoqError as error:
                return type(error).__name__
            return "drained"

        job = backend.enqueue("q")
        assert job.id is not None
        assert backend.wait(job.id, 10).result != "drained"


# ------------------------------------------------------------------------------------------ lists of jobs


@pytest.mark.parametrize("given", [None, 7, "jobs", b"jobs", {"q": 1}, neoq.Job("q")], ids=repr)
@pytest.mark.parametrize("to", ["the backend", "a batch"])
def test_what_is_no_list_of_jobs(backend: neoq.MemBackend, to: str, given: Any) -> None:
    """A call for many jobs says what it got and what it takes, whatever it got."""
    with backend.batch(then=neoq.Job("q")) as batch:
        add = backend.enqueue_many if to == "the backend" else batch.enqueue_many
        with pytest.raises(neoq.InvalidJobError) as caught:
            add(given)
    backend.delete_all(queue="q")
    assert f"enqueue_many got {given!r}"[:60] in str(caught.value)
    assert "a list of Job objects" in str(caught.value)


def test_an_error_of_the_list_itself_is_raised(backend: neoq.MemBackend) -> None:
    """What goes wrong in the caller's generator is not hidden."""

    def broken() -> Iterator[neoq.Job]:
        yield neoq.Job("q")
        raise TypeError("of the caller")

    with pytest.raises(TypeError, match="of the caller"):
        backend.enqueue_many(broken())


def test_a_bad_job_is_named_by_its_place(backend: neoq.MemBackend) -> None:
    """Of several jobs; where there is only one, there is no list to look through."""
    good, bad = neoq.Job("q", {"n": 1}), neoq.Job("q", {"n": object()})
    with pytest.raises(neoq.InvalidJobError, match=r"^job 1 of the list: payload\.n is an object"):
        backend.enqueue_many([good, bad])
    with pytest.raises(neoq.InvalidJobError, match=r"^job 1 of the list is 7; it takes Job objects"):
        backend.enqueue_many([good, 7])  # type: ignore[list-item]
    with (
        pytest.raises(neoq.InvalidJobError, match=r"^payload\.n is an object"),
        backend.batch(then=neoq.Job("q")) as batch,
    ):
        batch.enqueue("q", {"n": object()})
    backend.delete_all(queue="q")


def test_a_handler_that_takes_no_list(backend: neoq.MemBackend) -> None:
    """The handler of `listen_many` is told what it is called with."""
    with pytest.raises(neoq.InvalidJobError, match="with one argument, the list of jobs: its signature is"):
        backend.listen_many("many", lambda: None)


def test_attempts_of_nothing(backend: neoq.MemBackend) -> None:
    """A call says what it takes itself, and not what another one does."""
    with pytest.raises(neoq.InvalidJobError, match=r"^the id of a job is None; it takes an int"):
        backend.attempts(None)  # type: ignore[arg-type]


def test_a_second_handler(backend: neoq.MemBackend) -> None:
    """The message says what to do, and says it once."""
    with pytest.raises(neoq.ListenerExistsError, match=r"^queue 'q' has a handler already; give this"):
        backend.listen("q", print)
