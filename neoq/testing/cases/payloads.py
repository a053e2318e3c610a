"""Payloads and results: JSON, checked and serialised once, a fresh copy for everybody."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from neoq.backend import Backend
from neoq.errors import InvalidJobError, PayloadError, Retry
from neoq.job import Job
from neoq.record import Status
from neoq.testing.cases.suite import LATER, Make, Seen, Suite, ended, id_of, ignore, unfinished_jobs

EVERYTHING = {
    "text": "Grüße, \N{SNOWMAN} \N{PILE OF POO} \x00 \\ ' \" % {} \u2028",
    "empty": "",
    "numbers": [0, -1, 2**53 + 1, -(2**63), 2**63, 2**64 - 1, 0.1, -2.5e-300, 1.7976931348623157e308],
    "constants": [True, False, None],
    "nested": {"list": [[], [[1]], {}], "object": {"": {"a b": {}}}},
}
LOOP: dict[str, Any] = {}
LOOP["self"] = LOOP
NOT_JSON = {
    "set": {"a": {1}},
    "datetime": {"a": datetime(2030, 1, 1, tzinfo=UTC)},
    "uuid": {"a": UUID(int=7)},
    "bytes": {"a": b"x"},
    "object": {"a": object()},
    "nan": {"a": float("nan")},
    "infinity": {"a": [float("-inf")]},
    "too big an integer": {"a": 2**64},
    "too small an integer": {"a": -(2**63) - 1},
    "a key that is no str": {"a": {1: 2}},
    "lone surrogate": {"a": "\ud800"},
    "contains itself": {"a": LOOP},
}


class PayloadCases(Suite):
    """What a payload and a result may be, and which copy of it each caller sees."""

    def test_no_payload_is_an_empty_object(self, backend: Backend, seen: Seen) -> None:
        """A job enqueued without a payload has {}."""
        backend.listen("q", lambda job: seen(job.payload))
        assert backend.enqueue("q").payload == {}
        assert seen.wait() == [{}]

    def test_every_kind_of_json_arrives_unchanged(self, backend: Backend, seen: Seen) -> None:
        """Texts, integers of 64 bits, floats, constants, nested lists and objects arrive as they were."""
        backend.listen("q", lambda job: seen(job.payload))
        assert backend.enqueue("q", EVERYTHING).payload == EVERYTHING
        assert seen.wait() == [EVERYTHING]

    def test_a_tuple_becomes_a_list(self, backend: Backend, seen: Seen) -> None:
        """A tuple in a payload arrives as a list, however deep."""
        backend.listen("q", lambda job: seen(job.payload))
        backend.enqueue("q", {"pair": (1, (2, {"deep": ()}))})
        assert seen.wait() == [{"pair": [1, [2, {"deep": []}]]}]

    def test_numbers_keep_their_type(self, backend: Backend, seen: Seen) -> None:
        """An integer does not come back as a float, nor True as 1."""
        backend.listen("q", lambda job: seen([type(value) for value in job.payload["values"]]))
        backend.enqueue("q", {"values": [1, 1.0, True]})
        assert seen.wait() == [[int, float, bool]]

    def test_a_later_change_is_not_seen(self, waiting: Backend, seen: Seen) -> None:
        """What the caller does to a payload after enqueue, its handler does not see."""
        waiting.listen("q", lambda job: seen(job.payload))
        payload: dict[str, Any] = {"list": [1], "object": {}}
        waiting.enqueue("q", payload)
        payload["list"].append(2)
        payload["object"]["new"] = True
        payload["new"] = True
        waiting.start()
        assert seen.wait() == [{"list": [1], "object": {}}]

    def test_a_later_change_of_a_batch_is_not_seen(self, waiting: Backend, seen: Seen) -> None:
        """The same holds for the payloads of enqueue_many."""
        waiting.listen("q", lambda job: seen(job.payload))
        payload: dict[str, Any] = {"list": [1]}
        waiting.enqueue_many([Job("q", payload)])
        payload["list"].append(2)
        waiting.start()
        assert seen.wait() == [{"list": [1]}]

    def test_each_attempt_gets_a_fresh_copy(self, backend: Backend, seen: Seen) -> None:
        """What one attempt does to the payload, the next does not see."""

        def handler(job: Job) -> None:
            seen({**job.payload, "list": list(job.payload["list"])})
            job.payload["list"].append(2)
            job.payload["new"] = True
            if job.attempt == 1:
                raise Retry(after=0)

        backend.listen("q", handler)
        job = backend.enqueue("q", {"list": [1]})
        assert seen.wait(2) == [{"list": [1]}] * 2
        assert ended(backend, job).payload == {"list": [1]}

    def test_a_snapshot_is_nobodys_but_the_callers(self, waiting: Backend, seen: Seen) -> None:
        """A change to a returned job changes neither the job in the store nor other snapshots."""
        waiting.listen("q", lambda job: seen(job.payload))
        first = waiting.enqueue("q", {"list": [1]})
        first.payload["list"].append(2)
        second = waiting.get(id_of(first))
        assert second is not None
        assert second.payload == {"list": [1]}
        second.payload.clear()
        waiting.start()
        assert seen.wait() == [{"list": [1]}]

    @pytest.mark.parametrize("payload", NOT_JSON.values(), ids=NOT_JSON)
    def test_what_is_not_json_is_refused(self, waiting: Backend, payload: dict[str, Any]) -> None:
        """A payload that is not JSON is a PayloadError that names the place, and nothing is stored."""
        waiting.listen("q", ignore)
        with pytest.raises(PayloadError) as caught:
            waiting.enqueue("q", payload)
        assert "a" in caught.value.path
        assert unfinished_jobs(waiting) == []

    @pytest.mark.parametrize("payload", NOT_JSON.values(), ids=NOT_JSON)
    def test_what_is_not_json_is_refused_in_a_batch(self, waiting: Backend, payload: dict[str, Any]) -> None:
        """enqueue_many refuses what enqueue refuses, wherever in the batch it is."""
        waiting.listen("q", ignore)
        with pytest.raises(PayloadError, match="job 2 of the list"):
            waiting.enqueue_many(
                [Job("q", {"n": 1}), Job("q", {"n": 2}), Job("q", payload), Job("q", {"n": 4})]
            )
        assert unfinished_jobs(waiting) == []

    def test_a_payload_that_is_no_object_is_refused(self, waiting: Backend) -> None:
        """A list or a text as payload is a PayloadError."""
        waiting.listen("q", ignore)
        for payload in ([1], "text", 1):
            with pytest.raises(PayloadError):
                waiting.enqueue("q", payload)  # type: ignore[call-overload]
        assert unfinished_jobs(waiting) == []

    def test_max_payload_is_the_largest_size(self, make: Make) -> None:
        """A payload of max_payload bytes as JSON is accepted, and one of a byte more is not."""
        backend = make(autostart=False, max_payload=100)
        backend.listen("q", ignore)
        fits = {"a": "x" * (100 - len('{"a":""}'))}
        assert backend.enqueue("q", fits).payload == fits
        with pytest.raises(PayloadError):
            backend.enqueue("q", {"a": fits["a"] + "x"})

    def test_a_large_payload_arrives_whole(self, backend: Backend, seen: Seen) -> None:
        """Half a megabyte of text arrives as it was sent."""
        backend.listen("q", lambda job: seen(job.payload))
        payload = {"text": "\N{SNOWMAN}bc" * 100_000}
        backend.enqueue("q", payload)
        assert seen.wait() == [payload]

    def test_any_printable_name_will_do(self, backend: Backend, seen: Seen) -> None:
        """Queues and fingerprints may be any printable text."""
        name = "Post : '%s' {0} \"\\ $1;--*?[ü]\N{SNOWMAN}"
        backend.listen(name, lambda job: seen((job.queue, job.fingerprint)))
        job = backend.enqueue(name, {}, fingerprint=name * 10)
        assert seen.wait() == [(name, name * 10)]
        assert ended(backend, job).queue == name
        assert [found.id for found in backend.jobs(name)] == [job.id]

    @pytest.mark.parametrize("queue", ["", " ", None, 7, "a\nb", "x" * 201])
    def test_a_bad_queue_name_is_refused(self, waiting: Backend, queue: Any) -> None:
        """A queue that is empty, no text, unprintable or too long is an InvalidJobError."""
        with pytest.raises(InvalidJobError):
            waiting.enqueue(queue)
        with pytest.raises(InvalidJobError):
            waiting.listen(queue, ignore)

    def test_meta_travels_with_the_job(self, backend: Backend, seen: Seen) -> None:
        """The meta of a job reaches its handler and its snapshots."""
        meta = {"trace": "00-\N{SNOWMAN}", "": ""}
        backend.listen("q", lambda job: seen(dict(job.meta)))
        job = backend.enqueue("q", meta=meta)
        assert seen.wait() == [meta]
        assert dict(ended(backend, job).meta) == meta

    def test_key_travels_with_the_job(self, backend: Backend, seen: Seen) -> None:
        """The key of a job reaches its handler and its snapshots."""
        backend.listen("q", lambda job: seen(job.key))
        job = backend.enqueue("q", key="customer 7")
        assert seen.wait() == ["customer 7"]
        assert ended(backend, job).key == "customer 7"

    def test_an_accepted_job_tells_all_about_itself(self, waiting: Backend) -> None:
        """The job that enqueue returns is as it is in the store."""
        before = datetime.now(UTC) - timedelta(milliseconds=2)
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", {"a": 1}, priority=7, max_retries=3, deadline=LATER)
        stored = waiting.get(id_of(job))
        assert stored is not None
        for told in (job, stored):
            assert (told.queue, told.payload, told.status) == ("q", {"a": 1}, Status.PENDING)
            assert (told.priority, told.retries, told.max_retries, told.attempt) == (7, 0, 3, 1)
            assert told.created_at is not None
            assert told.run_after is not None
            assert told.deadline is not None
            assert told.created_at >= before
            assert told.created_at.utcoffset() == timedelta(0)
            # The one by the store's clock, the other by ours.
            assert abs(told.deadline - told.created_at - timedelta(seconds=LATER)) < timedelta(minutes=1)
            assert told.fingerprint
            assert [told.ran_at, told.finished_at, told.error, told.result] == [None] * 4
            assert told.duplicate is False
        assert stored.id == job.id
        assert stored.fingerprint == job.fingerprint

    @pytest.mark.parametrize("result", [{"a": [1, None]}, [], "", 0, False, 1.5, 2**64 - 1, None], ids=repr)
    def test_a_result_can_be_looked_up(self, backend: Backend, result: Any) -> None:
        """What a handler returns is the job's result, also where it counts as false."""
        backend.listen("q", lambda _job: result)
        done = ended(backend, backend.enqueue("q"))
        assert (done.status, done.result) == (Status.SUCCEEDED, result)
        assert type(done.result) is type(result)

    def test_a_tuple_in_a_result_becomes_a_list(self, backend: Backend) -> None:
        """Results follow the rules of payloads."""
        backend.listen("q", lambda _job: (1, {"deep": (2,)}))
        assert ended(backend, backend.enqueue("q")).result == [1, {"deep": [2]}]

    @pytest.mark.parametrize(
        "result", [object(), float("nan"), {1: 2}, 2**64], ids=["object", "nan", "key", "int"]
    )
    def test_a_result_that_is_not_json_is_null(
        self, backend: Backend, seen: Seen, caplog: pytest.LogCaptureFixture, result: Any
    ) -> None:
        """A result that is not JSON is stored as None with a warning; the job has succeeded at once."""

        def handler(job: Job) -> Any:
            seen(job.attempt)
            return result

        backend.listen("q", handler, max_retries=3)
        job = backend.enqueue("q")
        done = ended(backend, job)
        assert (done.status, done.result, seen.items) == (Status.SUCCEEDED, None, [1])
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [str(job.id) in record.getMessage() for record in warnings] == [True]

    def test_a_result_that_is_too_large_is_null(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        """A result beyond max_payload is stored as None with a warning; one that just fits is kept."""
        backend = make(max_payload=1000)
        backend.listen("q", lambda job: "x" * job.payload["size"])
        assert ended(backend, backend.enqueue("q", {"size": 998})).result == "x" * 998
        assert "stored as null" not in caplog.text
        done = ended(backend, backend.enqueue("q", {"size": 999}))
        assert (done.status, done.result) == (Status.SUCCEEDED, None)
        assert "stored as null" in caplog.text

    @pytest.mark.parametrize("letter", ["x", "\N{SNOWMAN}"])
    def test_a_huge_error_is_cut(self, backend: Backend, letter: str) -> None:
        """Of an exception with megabytes of text 8 KB of the message and 64 KB of the traceback are kept."""

        def post(_job: Job) -> None:
            raise ValueError("<html>" + letter * 2_000_000 + "the end")

        backend.listen("q", post, max_retries=0)
        dead = ended(backend, backend.enqueue("q"))
        assert dead.status is Status.DEAD
        assert dead.error is not None
        assert dead.traceback is not None
        assert len(dead.error.encode()) < 8 * 1024 + 200
        assert len(dead.traceback.encode()) < 64 * 1024 + 200
        for text in (dead.error, dead.traceback):
            assert "... [cut here: " in text
            assert text.rstrip().endswith("the end")
        assert "<html>" in dead.error
        assert dead.traceback.startswith("Traceback")

    def test_a_huge_report_of_progress_is_cut(self, make: Make) -> None:
        """The message of job.progress has at most max_payload bytes."""
        backend = make(max_payload=1000)
        backend.listen("size", lambda job: len((job.progress(0.5, "y" * 100_000) or (0, ""))[1]))
        assert ended(backend, backend.enqueue("size")).result < 1200

    def test_meta_that_is_too_large_is_refused(self, make: Make) -> None:
        """Meta beyond max_payload is refused as a payload is."""
        backend = make(max_payload=1000)
        backend.listen("q", ignore)
        with pytest.raises(PayloadError, match="meta"):
            backend.enqueue("q", meta={"trace": "z" * 1001})
        backend.enqueue("q", meta={"trace": "z" * 900})
