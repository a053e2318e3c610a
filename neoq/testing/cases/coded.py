"""Jobs whose values a codec seals: above the store all is as without it, and the store sees nothing."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import pytest

from neoq.codec.codec import Codec
from neoq.errors import Discard, MissingKeyError
from neoq.held.step import Step
from neoq.job import Job
from neoq.outcome import lease_of
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.store import Demand
from neoq.testing.cases.suite import PATIENCE, Make, Seen, Suite, ended, eventually, id_of, needs, prepared


class Rot:
    """A key: it changes each byte by a number, and knows whether it has changed them so."""

    def __init__(self, number: int) -> None:
        self._number = number

    def encrypt(self, data: bytes) -> bytes:
        """The data, changed, after the number and their hash."""
        return bytes((self._number, *self._hash(data), *((byte + self._number) % 256 for byte in data)))

    def decrypt(self, data: bytes) -> bytes:
        """What was changed."""
        plain = bytes((byte - self._number) % 256 for byte in data[9:])
        if data[:9] != bytes((self._number, *self._hash(plain))):
            raise ValueError("another key, or damaged")
        return plain

    def _hash(self, data: bytes) -> bytes:
        return hashlib.blake2b(data, digest_size=8).digest()


def sealing(*numbers: int, **options: Any) -> Codec:
    """A codec with the keys of these numbers."""
    keys = [Rot(number) for number in numbers]
    return Codec(keys=keys, fingerprint_key="a key for fingerprints", **options)


def work(job: Job) -> dict[str, Any]:
    """Report, and return or fail as the payload says."""
    job.progress(0.5, "a secret report")
    if job.payload["fails"]:
        raise Discard(f"a secret {job.payload['text']}")
    return {"was": job.payload["text"]}


class CodecCases(Suite):
    """codec."""

    def test_what_jobs_carry_is_read_back(self, make: Make) -> None:
        """Payload, result, error, traceback, attempts and progress are as without a codec, and are found."""
        backend = make(codec=sealing(7, compress_above=100))
        backend.listen("q", work)
        well = ended(backend, backend.enqueue("q", {"text": "x" * 300, "fails": False}))
        badly = ended(backend, backend.enqueue("q", {"text": "y" * 300, "fails": True}))
        assert (well.payload, well.result) == ({"text": "x" * 300, "fails": False}, {"was": "x" * 300})
        error = "Discard: a secret " + "y" * 300
        assert (badly.payload["text"], badly.error) == ("y" * 300, error)
        assert "raise Discard" in (badly.traceback or "")
        assert badly.progress() == (0.5, "a secret report")
        assert [attempt.error for attempt in backend.attempts(id_of(badly))] == [error]
        assert [job.id for job in backend.jobs(payload={"fails": True})] == [badly.id]
        assert [job.id for job in backend.jobs(error="Discard")] == [badly.id]

    @needs("durable")
    def test_the_store_sees_nothing(self, make: Make) -> None:
        """What is stored shows nothing of a payload, a result, an error or a report."""
        backend = make(codec=sealing(7))
        backend.listen("q", work)
        jobs = [backend.enqueue("q", {"text": "secret", "fails": fails}) for fails in (False, True)]
        for job in jobs:
            assert ended(backend, job).payload["text"] == "secret"
        store: Any = backend.store
        for job in store.behind.of_ids([id_of(job) for job in jobs]):
            kept = (job.body, job.result_body, job.error, job.traceback, job.failed_attempts)
            assert "secret" not in f"{kept} {job.progress_report}"

    @needs("durable")
    def test_a_key_is_rotated(self, make: Make, again: Make, seen: Seen) -> None:
        """Plain jobs, and those sealed with an old key, run where a new key is in front of it."""
        first = make(autostart=False)
        first.enqueue("q", {"n": "plain"})
        first.shutdown()
        second = again(first, autostart=False, codec=sealing(7))
        second.enqueue("q", {"n": "old"})
        second.shutdown()
        third = again(second, codec=sealing(8, 7))
        third.enqueue("q", {"n": "new"})
        third.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        assert seen.wait(3) == ["plain", "old", "new"]

    @needs("durable")
    @pytest.mark.parametrize("codec", [None, sealing(8)], ids=["without a codec", "with another key"])
    def test_a_key_that_is_missing(
        self, make: Make, again: Make, seen: Seen, codec: Codec | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A job that no key opens is given back, uncharged, with one CRITICAL, and read by nobody."""
        first = make(autostart=False, codec=sealing(7))
        job = first.enqueue("q", {"n": 1})
        first.shutdown()
        second = again(first, codec=codec)
        second.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)

        def put_off() -> Job | None:
            found = second.get(id_of(job))
            late = found is not None and found.status is Status.PENDING and found.run_after != job.run_after
            return found if late else None

        found = eventually(put_off, "it is given back")
        assert found is not None
        assert found.retries == 0
        with pytest.raises(MissingKeyError, match="is sealed"):
            _ = found.payload
        eventually(lambda: [one for one in caplog.records if one.levelno == logging.CRITICAL], "the CRITICAL")
        second.shutdown()
        assert sum(one.levelno == logging.CRITICAL for one in caplog.records) == 1
        third = again(second, codec=sealing(7))
        third.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        third.retry(id_of(job))
        assert seen.wait() == [1]

    def test_equal_payloads_have_equal_fingerprints(self, make: Make) -> None:
        """A unique job is a duplicate of one with the same payload, however that is sealed."""
        backend = make(autostart=False, codec=sealing(7))
        backend.listen("q", lambda _job: None)
        first = backend.enqueue("q", {"n": 1})
        met = backend.enqueue("q", {"n": 1})
        assert (met.id, met.duplicate, met.payload) == (first.id, True, {"n": 1})
        assert not backend.enqueue("q", {"n": 2}).duplicate

    @needs("steps")
    def test_steps_and_signals_are_read_back(self, make: Make) -> None:
        """Steps, saved values and signals come back as they were, and the store sees none of them."""
        backend = make(autostart=False, codec=sealing(7))
        backend.listen("q", lambda _job: None)
        backend.queues()
        store: Any = backend.store
        store.add([prepared("q", {"n": 1})], token=store.new_token())
        [job] = store.claim([Demand("q", 1)]).jobs
        assert store.record([(lease_of(job), [Step("step:a", b'"secret"')])]) == set()
        assert store.signal(id_of(job), Step("signal:b", b'{"by":"secret"}'))
        assert [step.data for step in store.steps(id_of(job))] == [b'"secret"', b'{"by":"secret"}']
        assert not [step for step in store.behind.steps(id_of(job)) if b"secret" in step.data]

    @needs("batches", "steps")
    def test_what_waits_with_a_codec(self, make: Make) -> None:
        """Callbacks of batches, and parents of children, run when what they wait for has ended."""
        backend = make(codec=sealing(7))
        backend.listen("child", lambda job: job.payload["n"] * 2)
        backend.listen("q", lambda job: [one.result for one in job.gather("all", [Job("child", {"n": 4})])])
        backend.listen("then", lambda job: [job.payload["of"], *(one.result for one in job.batch.results())])
        with backend.batch(then=Job("then", {"of": "all"})) as batch:
            batch.enqueue("q", {"n": 3})
        assert backend.wait(batch.id, PATIENCE).result == ["all", [8]]

    @needs("steps")
    def test_a_step_runs_once_with_a_codec(self, make: Make, seen: Seen) -> None:
        """A step is not run again in a later attempt, which reads back what it returned."""

        def once(retries: int) -> int:
            seen()
            return retries

        def handler(job: Job) -> int:
            value = job.step("a", once, job.retries)
            if not job.retries:
                raise ValueError
            return value

        backend = make(codec=sealing(7))
        backend.listen("q", handler, retry=RetryPolicy(delay=0.0))
        assert ended(backend, backend.enqueue("q")).result == 0
        assert len(seen.items) == 1
