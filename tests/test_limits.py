"""Limits as a program gives them: which are refused, whose hold, and what shows them."""

from __future__ import annotations

import logging
import pickle
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

import neoq
from neoq import Job, Limits, Rate
from neoq.mem_backend import MemBackend

limited = pytest.mark.skipif("limits" not in MemBackend.features, reason="memory keeps no limits yet")


@pytest.fixture
def backend() -> Iterator[neoq.Backend]:
    with MemBackend(job_check_interval=0.05) as backend:
        yield backend


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"per_key": 0}, "per_key is 0"),
        ({"max_running": True}, "max_running is True"),
        ({"ordered": 1}, "ordered is 1"),
        ({"ordered": True, "per_key": 2}, "contradicts"),
        ({"on_dead": "go on"}, "give ordered=True"),
        ({"ordered": True, "on_dead": "stop"}, "on_dead is 'stop'"),
        ({"rate": 5}, "it takes neoq.Rate"),
        ({"aging": timedelta(0)}, "aging is"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(backend: neoq.Backend, options: Any, why: str) -> None:
    """A wrong limit raises InvalidJobError, which names it and what it takes."""
    with pytest.raises(neoq.InvalidJobError, match=why):
        backend.listen("q", lambda _: None, **options)


def test_a_span_of_uniqueness_and_a_delay_are_checked() -> None:
    """`unique` takes a span above nothing, and `max_delay` belongs to jobs that are replaced."""
    job = Job("q", unique=timedelta(minutes=1), on_duplicate="replace", max_delay=5)
    assert (job.unique, job.unique_for, job.max_delay) == (True, 60.0, 5.0)
    with pytest.raises(neoq.InvalidJobError, match="above 0"):
        Job("q", unique=timedelta(0))
    with pytest.raises(neoq.InvalidJobError, match="on_duplicate"):
        Job("q", max_delay=5)


@limited
def test_a_listener_gives_the_limits_and_an_operator_overrides_them(backend: neoq.Backend) -> None:
    """`limit` holds until it is taken back; what it does not name stays as the listener has it."""
    backend.listen("q", lambda _: None, per_key=3)
    assert backend.limits()["q"] == Limits(per_key=3)
    assert backend.limit("q", per_key=5) == Limits(per_key=5)
    assert backend.limit("q", None) == Limits(per_key=3)
    with pytest.raises(neoq.InvalidJobError, match="by their names"):
        backend.limit("q")
    with pytest.raises(TypeError, match="does not know per_job"):
        backend.limit("q", per_job=1)  # type: ignore[call-arg]


@limited
def test_ordered_jobs_of_a_key_run_one_after_another(backend: neoq.Backend) -> None:
    """Of one key one job runs at a time, in their order, while other keys go on."""
    order: list[int] = []
    lock, running = threading.Lock(), set[str]()

    def handler(job: Job) -> None:
        assert job.key is not None
        with lock:
            assert job.key not in running
            running.add(job.key)
            order.append(job.payload["n"])
        with lock:
            running.remove(job.key)

    backend.listen("q", handler, ordered=True, concurrency=4)
    backend.enqueue_many(Job("q", {"n": n}, key="ab"[n % 2]) for n in range(20))
    assert backend.drain(10)
    assert [n for n in order if n % 2] == list(range(1, 20, 2))
    assert [n for n in order if not n % 2] == list(range(0, 20, 2))


@limited
def test_a_dead_head_holds_its_line_and_not_a_drain(
    backend: neoq.Backend, caplog: pytest.LogCaptureFixture
) -> None:
    """The line is shown and logged; drain does not wait for it; it goes on after a delete."""
    ran: list[int] = []

    def handler(job: Job) -> None:
        if job.payload["n"] == 0:
            raise neoq.Discard
        ran.append(job.payload["n"])

    backend.listen("q", handler, ordered=True)
    first = backend.enqueue("q", {"n": 0}, key="a")
    backend.enqueue("q", {"n": 1}, key="a")
    assert backend.drain(10)
    assert ran == []
    (line,) = backend.lines("q")
    assert (line.key, line.state, line.head, line.waiting) == ("a", "dead", first.id, 1)
    assert any(one.levelno == logging.CRITICAL for one in caplog.records)
    backend.delete(first.id)
    assert backend.drain(10)
    assert ran == [1]


@limited
def test_a_child_in_its_parents_line_is_refused(backend: neoq.Backend) -> None:
    """It would wait for the turn that its parent keeps: the attempt fails at once."""
    backend.listen("q", lambda job: job.call("same", Job("q", key="a")), ordered=True, max_retries=0)
    job = backend.wait(backend.enqueue("q", key="a").id, 10)
    assert "has its key 'a' in the ordered queue 'q'" in str(job.error)


@limited
def test_tasks_of_a_queue_share_its_limits(backend: neoq.Backend) -> None:
    """A task gives limits to its queue; another one there must give the same, or none."""

    @backend.task(name="one", queue="t", per_key=2)
    def one() -> None:
        pass

    @backend.task(name="two", queue="t")
    def two() -> None:
        pass

    assert backend.limits()["t"] == Limits(per_key=2)
    with pytest.raises(neoq.InvalidJobError, match="different limits"):

        @backend.task(name="three", queue="t", rate=Rate(5))
        def three() -> None:
            pass


@limited
def test_a_queue_that_is_listened_to_with_other_limits_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """The last listener that starts wins, with a warning of the difference."""
    store: dict[str, Any] = {}
    with MemBackend() as backend:
        backend.listen("q", lambda _: None, per_key=3)
        store["limits"] = backend.limits()
        backend.store.limit("q", Limits(per_key=4), by_listener=True)
        backend.engine.holding.reset()
        backend.start()
    assert store["limits"] == {"q": Limits(per_key=3)}
    assert "another process gave per_key=4" in caplog.text


@limited
def test_what_is_claimed_ahead(backend: neoq.Backend) -> None:
    """Jobs are claimed ahead where only keys are limited, and not where a claim counts for other keys."""
    counts = {"max_running": 2, "rate": Rate(100), "rate_per_key": Rate(100)}
    backend.listen("keys", lambda _: None, ordered=True)
    backend.listen("slots", lambda _: None, per_key=2)
    for name, limit in counts.items():
        backend.listen(name, lambda _: None, per_key=2, **{name: limit})
    backend.start()
    nothing_ahead = backend.engine.pools["keys"].nothing_ahead
    assert {queue for queue in backend.limits() if queue in nothing_ahead} == set(counts)
    backend.limit("keys", max_running=1)
    assert "keys" in nothing_ahead
    backend.limit("keys", None)
    assert "keys" not in nothing_ahead


def test_a_rate_may_be_given_by_a_timedelta() -> None:
    """Seconds or a timedelta, as everywhere."""
    rate = Rate(5, per=timedelta(minutes=1), burst=2)
    assert rate == Rate(5, 60.0, 2)
    assert hash(rate) == hash(Rate(5, 60.0, 2))
    assert repr(rate) == "Rate(n=5, per=60.0, burst=2)"
    assert pickle.loads(pickle.dumps(rate)) == rate
    with pytest.raises(neoq.ConfigError, match="per must be seconds"):
        Rate(5, per=timedelta(0))
