"""A codec seals and compresses what jobs carry, with keys of Fernet; see docs/codec.md.

`neoq.testing.cases.coded` holds every store to it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

import neoq
from neoq import Codec
from neoq.errors import ConfigError, InvalidJobError, MissingKeyError
from neoq.testing.cases.suite import eventually

OLD, NEW = Fernet.generate_key(), Fernet.generate_key()
HASHES = "a key for fingerprints"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An empty store that other processes share."""
    return f"sqlite:///{tmp_path}/jobs.db"


def sealing(*keys: bytes) -> Codec:
    return Codec(keys=keys, fingerprint_key=HASHES)


def fail(job: neoq.Job) -> None:
    job.progress(0.5, "top secret progress")
    raise ValueError(f"top secret {job.payload['n']}")


def test_what_jobs_carry_is_read_back_and_can_be_looked_up(url: str) -> None:
    """Payload, result, error, traceback, attempts and progress are as without a codec."""
    with neoq.connect(url, codec=Codec(keys=[NEW], fingerprint_key=HASHES, compress_above=100)) as backend:
        backend.listen("well", lambda job: {"was": job.payload["text"]})
        backend.listen("badly", fail, max_retries=0)
        well = backend.enqueue("well", {"text": "x" * 500})
        badly = backend.enqueue("badly", {"n": 7})
        backend.start()
        assert backend.drain(20)
        assert backend.get(well.id).result == {"was": "x" * 500}  # type: ignore[union-attr]
        found = backend.get(badly.id)
        assert found is not None
        assert found.payload == {"n": 7}
        assert found.error == "ValueError: top secret 7"
        assert "raise ValueError" in (found.traceback or "")
        assert found.progress() == (0.5, "top secret progress")
        assert [attempt.error for attempt in backend.attempts(badly.id)] == ["ValueError: top secret 7"]
        assert [job.id for job in backend.jobs(payload={"n": 7})] == [badly.id]
        assert [job.id for job in backend.jobs(error="ValueError")] == [badly.id]


def test_nothing_can_be_read_in_the_file(tmp_path: Path) -> None:
    """A dump of the database shows nothing of a payload, a result, an error or a report."""
    with neoq.connect(f"sqlite:///{tmp_path}/jobs.db", codec=sealing(NEW)) as backend:
        backend.listen("badly", fail, max_retries=1)
        backend.listen("well", lambda job: "top secret result")
        backend.enqueue("badly", {"n": "top secret payload"}, max_retries=0)
        backend.enqueue("badly", {"n": "top secret retried"}, max_retries=1)
        backend.enqueue("well", {"n": "top secret too"})
        backend.start()
        eventually(lambda: backend.stats().succeeded == 1 and backend.stats().dead == 1, "two ends")
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        dump = "\n".join(connection.iterdump())
    assert "top secret" not in dump
    assert b"top secret".hex() not in dump.lower()


def test_a_key_is_rotated(url: str) -> None:
    """Jobs sealed with the old key run where the new one is in front, and plain ones do, too."""
    with neoq.connect(url) as before:
        before.enqueue("q", {"n": "plain"})
    with neoq.connect(url, codec=sealing(OLD)) as before:
        before.enqueue("q", {"n": "old"})
    with neoq.connect(url, codec=sealing(NEW, OLD)) as backend:
        backend.enqueue("q", {"n": "new"})
        seen: list[str] = []
        backend.listen("q", lambda job: seen.append(job.payload["n"]), concurrency=1)
        backend.start()
        assert backend.drain(20)
    assert seen == ["plain", "old", "new"]


@pytest.mark.parametrize("codec", [None, sealing(OLD)], ids=["without a codec", "with another key"])
def test_a_job_whose_key_is_missing_is_given_back(
    url: str, codec: Codec | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is charged nothing, waits for a later time, and is read by nobody; one CRITICAL says so."""
    with neoq.connect(url, codec=sealing(NEW)) as before:
        job = before.enqueue("q", {"n": 1})
    with neoq.connect(url, codec=codec) as backend:
        backend.listen("q", lambda job: job.payload["n"], concurrency=1)
        backend.start()
        eventually(lambda: any(one.levelname == "CRITICAL" for one in caplog.records), "the CRITICAL")
        eventually(lambda: backend.get(job.id).status == "pending", "it is given back")  # type: ignore[union-attr]
        found = backend.get(job.id)
        assert found is not None
        assert found.retries == 0
        assert found.run_after > job.run_after  # type: ignore[operator]
        assert [line.preview for line in backend.jobs(brief=True)] == [
            "(sealed, and no key of this process opens it)"
        ]
        with pytest.raises(MissingKeyError, match=f"job {job.id} of q is sealed"):
            _ = found.payload
    assert sum(one.levelname == "CRITICAL" for one in caplog.records) == 1
    with neoq.connect(url, codec=sealing(NEW)) as after:
        assert after.get(job.id).payload == {"n": 1}  # type: ignore[union-attr]


def test_equal_payloads_have_equal_fingerprints(url: str) -> None:
    """A unique job is a duplicate of one with the same payload, however differently they are sealed."""
    with neoq.connect(url, codec=sealing(OLD)) as backend:
        first = backend.enqueue("q", {"n": 1})
        assert backend.enqueue("q", {"n": 1}).duplicate
        assert not backend.enqueue("q", {"n": 2}).duplicate
    with neoq.connect(url, codec=sealing(NEW, OLD)) as backend:
        again = backend.enqueue("q", {"n": 1})
        assert (again.duplicate, again.id, again.payload) == (True, first.id, {"n": 1})


def test_torn_bytes_are_no_payload(tmp_path: Path) -> None:
    """A sealed payload that was damaged is given back as one whose key is missing, and never run."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    with neoq.connect(url, codec=sealing(NEW)) as before:
        job = before.enqueue("q", {"n": 1})
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection, connection:
        connection.execute("update neoq_jobs set payload = substr(payload, 1, 40)")
    with neoq.connect(url, codec=sealing(NEW)) as backend, pytest.raises(MissingKeyError):
        _ = backend.get(job.id).payload  # type: ignore[union-attr]


def test_unique_jobs_need_a_key_for_their_fingerprints() -> None:
    """Without one a unique job is refused, with what to do; others are not."""
    with neoq.connect("memory://", codec=Codec(keys=[NEW]), autostart=False) as backend:
        backend.listen("q", lambda job: None)
        with pytest.raises(InvalidJobError, match="fingerprint_key"):
            backend.enqueue("q", {"n": 1})
        assert backend.enqueue("q", {"n": 1}, unique=False).payload == {"n": 1}
        assert backend.enqueue("q", {"n": 1}, fingerprint="one").fingerprint == "one"
        backend.shutdown()


def test_a_call_of_a_task_needs_a_key_for_its_fingerprint_too(tmp_path: Path) -> None:
    """The plain hash of a sealed payload is stored for no call of a task, nor for a job that follows."""
    with neoq.connect(f"sqlite:///{tmp_path}/jobs.db", codec=Codec(keys=[NEW])) as backend:

        @backend.task(name="send")
        def send(n: int) -> None: ...

        def follow(job: neoq.Job) -> None:
            job.enqueue("q", {"n": 1})

        with pytest.raises(InvalidJobError, match="fingerprint_key"):
            send.using(unique=True).enqueue(1)
        backend.listen("follow", follow, max_retries=0)
        job = backend.wait(backend.enqueue("follow", unique=False).id, 10)
        assert "fingerprint_key" in str(job.error)


def test_the_fingerprint_of_a_task_is_keyed(tmp_path: Path) -> None:
    """Two keys make two fingerprints of the same call: nobody guesses the arguments by their hash."""
    found = set()
    for number in range(2):
        codec = Codec(keys=[NEW], fingerprint_key=f"{number}" * 16)
        with neoq.connect(f"sqlite:///{tmp_path}/{number}.db", codec=codec, autostart=False) as backend:

            @backend.task(name="send")
            def send(n: int) -> None: ...

            job = send.using(unique=True).enqueue(1)
            assert send.using(unique=True).enqueue(1).duplicate
            found.add(backend.get(job.id).fingerprint)  # type: ignore[union-attr]
            backend.shutdown()
    assert len(found) == 2


def test_the_job_of_a_duplicate_error_is_plain(tmp_path: Path) -> None:
    """`DuplicateJobError.job` has its payload, whether an enqueue or a batch has raised it."""
    with neoq.connect(f"sqlite:///{tmp_path}/jobs.db", codec=sealing(NEW), autostart=False) as backend:
        backend.enqueue("q", {"n": 1}, fingerprint="one")
        with pytest.raises(neoq.DuplicateJobError) as raised:
            backend.enqueue("q", {"n": 2}, fingerprint="one", on_duplicate="raise")
        assert raised.value.job.payload == {"n": 1}
        with pytest.raises(neoq.DuplicateJobError) as raised, backend.batch(neoq.Job("q"), name="one"):
            pass
        assert raised.value.job.payload == {"n": 1}
        backend.shutdown()


def test_steps_whose_key_is_missing_are_shown_and_not_read(tmp_path: Path) -> None:
    """They are listed by their names; their values, and an attempt that needs them, ask for the key."""
    url, runs = f"sqlite:///{tmp_path}/jobs.db", list[int]()

    def wait(job: neoq.Job) -> None:
        runs.append(job.retries)
        job.step("a", int)
        job.wait_for("go")

    with neoq.connect(url, codec=Codec(keys=[OLD])) as backend:
        backend.listen("q", wait)
        job = backend.enqueue("q", unique=False)
        eventually(lambda: backend.get(job.id).held == "signal", "it waits")  # type: ignore[union-attr]
        backend.shutdown()
    for codec in (Codec(keys=[NEW]), None):
        with neoq.connect(url, codec=codec, autostart=False) as backend:
            steps = backend.steps(job.id)
            assert [step.name for step in steps] == ["step:a", "wait:go"]
            with pytest.raises(MissingKeyError, match="step:a"):
                _ = steps[0].value
            backend.shutdown()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keys": NEW}, "a list of keys"),
        ({"keys": [b"short"]}, "key 0 is no Fernet key"),
        ({"keys": [object()]}, "key 0 has no methods encrypt and decrypt"),
        ({"fingerprint_key": "short"}, "from 16 to 64 bytes"),
        ({"compress_above": -1}, "a number of bytes"),
    ],
)
def test_a_wrong_codec_is_refused(options: dict[str, Any], said: str) -> None:
    """A ConfigError says which part of a codec is wrong, and never shows a key."""
    with pytest.raises(ConfigError, match=said) as raised:
        Codec(**options)
    assert NEW.decode() not in str(raised.value)


def test_a_codec_does_not_show_its_keys() -> None:
    """Neither the text of a codec nor that of a backend with one shows a key."""
    backend = neoq.connect("memory://", codec=sealing(NEW))
    shown = f"{sealing(NEW)!r} {backend!r} {backend.config!r}"
    backend.shutdown()
    assert NEW.decode() not in shown
    assert HASHES not in shown


def test_a_compressed_value_that_would_fill_the_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than any payload when it is unpacked counts as damaged."""
    codec = Codec(compress_above=10)
    data = codec.encode(b'{"n": "' + b"0" * 10_000 + b'"}')
    assert len(data) < 100
    monkeypatch.setattr("neoq.codec.codec.MOST_BYTES", 1000)
    with pytest.raises(MissingKeyError, match="too large"):
        codec.decode(data)


class Turned:
    """A key of one's own: it turns the bytes around."""

    def encrypt(self, data: bytes) -> bytes:
        return data[::-1]

    def decrypt(self, data: bytes) -> bytes:
        return data[::-1]


def test_a_key_of_ones_own_needs_two_methods() -> None:
    """Objects with encrypt and decrypt are keys, too."""
    codec = Codec(keys=[Turned()])
    assert codec.encode(b'{"n":1}') == b'\x02}1:"n"{'
    assert codec.decode(codec.encode(b'{"n":1}')) == b'{"n":1}'
