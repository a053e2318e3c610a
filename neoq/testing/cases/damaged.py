"""What a codec has sealed, seen past neoq: nobody can read it there, and what is damaged does no harm."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from neoq.backend import Backend
from neoq.errors import Discard, MissingKeyError
from neoq.job import Job
from neoq.payload import CANNOT_OPEN
from neoq.record import Status
from neoq.retry import RetryPolicy
from neoq.testing.cases.coded import sealing
from neoq.testing.cases.suite import (
    LATER,
    Make,
    Seen,
    Suite,
    ended,
    eventually,
    id_of,
    ignore,
    needs,
    reached,
)
from neoq.testing.cases.workflows import held

HIDDEN = "top secret"  # what the jobs carry
_MIDDLE = slice(20, 24)

# How stored bytes are damaged so that they still say that they are sealed, and so that they do not.
SEALED_STILL: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda data: data[:-5],
    "nearly gone": lambda data: data[:1],
    "changed": lambda data: data[:20] + bytes(255 - byte for byte in data[_MIDDLE]) + data[24:],
    "longer": lambda data: data + b"\0",
}
SEALED_NO_MORE: dict[str, Callable[[bytes], bytes]] = {
    "gone": lambda _data: b"",
    "headless": lambda data: data[1:],
    "overwritten": lambda data: b"\xff" * len(data),
    "half json": lambda _data: b'{"n":',
}


def damaged_text(text: str) -> str:
    """A sealed text of which the end is lost."""
    return text[: len(text) // 2]


class SealedStoreCases(Suite):
    """What there is of sealed jobs in a store."""

    def dump(self, backend: Backend) -> list[bytes] | None:  # noqa: ARG002
        """All bytes that the store keeps, as others might read them; None where that is not known."""
        return None

    def damage(self, backend: Backend, old: bytes | str, new: bytes | str) -> bool:  # noqa: ARG002
        """Put a value in the place of another, as others might; False where nothing was done."""
        return False

    @needs("durable", "steps", "batches")
    def test_a_dump_shows_nothing(self, make: Make, gate: threading.Event) -> None:
        """A dump of a store shows nothing of what sealed jobs carry, whatever they are at."""
        backend = make(codec=sealing(7))
        for queue, handler in HANDLERS.items():
            backend.listen(queue, handler, retry=RetryPolicy(delay=LATER), max_retries=1)
        backend.listen("busy", lambda job: (job.progress(0.5, HIDDEN), gate.wait()))
        payload = {"text": HIDDEN, "long": HIDDEN * 300}
        jobs = {
            queue: backend.enqueue(queue, payload, uid=f"uid of {queue}") for queue in (*HANDLERS, "busy")
        }
        backend.enqueue("later", {"text": HIDDEN}, key="a", run_after=LATER)
        with backend.batch(then=Job("later", {"text": HIDDEN})) as batch:
            batch.enqueue("well", {"text": HIDDEN, "long": ""})
        for queue, status in STATES.items():
            reached(backend, jobs[queue], status)
        assert backend.signal(id_of(held(backend, jobs["waits"])), "other", {"by": HIDDEN})
        reached(backend, batch.callback, Status.SUCCEEDED)
        eventually(lambda: _behind(backend, jobs["busy"]).progress_report, "its report is stored")
        stored = self.dump(backend)
        if stored is None:
            pytest.skip("the suite of this backend does not override dump()")
        assert any(b"uid of waits" in value for value in stored)  # so it is a dump
        for disguise in disguises(HIDDEN.encode()):
            assert not [value for value in stored if disguise.lower() in value.lower()], disguise

    @needs("durable")
    @pytest.mark.parametrize("how", [*SEALED_STILL, *SEALED_NO_MORE])
    def test_a_damaged_payload(self, make: Make, seen: Seen, how: str) -> None:
        """A job whose sealed payload is damaged is run by nobody, and shown; it holds up no other."""
        waiting = make(autostart=False, codec=sealing(7))
        jobs = [waiting.enqueue("q", {"n": n, "text": HIDDEN}) for n in range(3)]
        body = _behind(waiting, jobs[1]).body
        if not self.damage(waiting, body, (SEALED_STILL | SEALED_NO_MORE)[how](body)):
            pytest.skip("the suite of this backend does not override damage()")
        waiting.listen("q", lambda job: seen(job.payload["n"]))
        waiting.start()
        assert sorted(seen.wait(2)) == [0, 2]
        if how in SEALED_STILL:
            found = _put_off(waiting, jobs[1])
            assert (found.retries, found.crashes) == (0, 0)
            with pytest.raises(MissingKeyError, match=f"job {found.id} of q is sealed"):
                _ = found.payload
        else:
            dead = reached(waiting, jobs[1], Status.DEAD)
            assert (dead.error or "").startswith("Unreadable: "), dead.error
        assert {job.id for job in waiting.jobs(brief=True)} == {job.id for job in jobs}
        seen.stays(2)
        if how in SEALED_STILL:
            assert waiting.cancel(id_of(jobs[1]))
        assert waiting.delete(id_of(jobs[1]))

    @needs("durable")
    def test_a_damaged_end(self, make: Make) -> None:
        """A damaged result raises where it is read; of a damaged error nothing but the type is shown."""
        backend = make(codec=sealing(7))
        for queue in ("well", "dead"):
            backend.listen(queue, HANDLERS[queue])
        payload = {"text": HIDDEN, "long": ""}
        well, dead = (ended(backend, backend.enqueue(queue, payload)) for queue in ("well", "dead"))
        stored = _behind(backend, dead)
        result = _behind(backend, well).result_body
        if not self.damage(backend, result, SEALED_STILL["torn"](result)):
            pytest.skip("the suite of this backend does not override damage()")
        for text in (stored.error, stored.traceback):
            assert self.damage(backend, text, damaged_text(text))
        found = backend.get(id_of(well))
        assert found is not None
        assert (found.status, found.payload) == (Status.SUCCEEDED, payload)
        with pytest.raises(MissingKeyError):
            _ = found.result
        [job] = backend.jobs("dead")
        assert (job.error, job.traceback, job.payload) == (f"Discard: {CANNOT_OPEN}", CANNOT_OPEN, payload)
        assert backend.retry(id_of(job))
        assert reached(backend, job, Status.DEAD).error == f"Discard: {HIDDEN}"

    @needs("durable", "steps")
    @pytest.mark.parametrize("what", ["step:a", "save:row", "signal:other"])
    def test_a_damaged_step(self, make: Make, what: str) -> None:
        """A job of which a step, a saved value or a signal is damaged is given back, again and again."""
        backend = make(codec=sealing(7))
        backend.listen("waits", HANDLERS["waits"])
        jobs = [backend.enqueue("waits", {"text": HIDDEN, "n": 0})]
        assert backend.signal(id_of(held(backend, jobs[0])), "other", {"by": HIDDEN})
        store: Any = backend.store
        [data] = [step.data for step in store.behind.steps(id_of(jobs[0])) if step.name == what]
        if not self.damage(backend, data, SEALED_STILL["torn"](data)):
            pytest.skip("the suite of this backend does not override damage()")
        jobs.append(backend.enqueue("waits", {"text": HIDDEN, "n": 1}))
        for job in jobs:
            assert backend.signal(id_of(held(backend, job)), "go", {})
        assert ended(backend, jobs[1]).result == [HIDDEN, HIDDEN]
        found = _put_off(backend, jobs[0])
        assert (found.retries, found.payload["n"]) == (0, 0)
        [step] = [step for step in backend.steps(found) if step.name == what]
        with pytest.raises(MissingKeyError, match=what):
            _ = step.value
        assert backend.cancel(id_of(found))


def disguises(secret: bytes) -> Iterator[bytes]:
    """What of a text could be found of it: as it is, in hex, and in base64 at each of three places."""
    yield secret
    yield secret.hex().encode()
    for before in range(3):
        text = base64.b64encode(bytes(before) + secret + bytes(-(before + len(secret)) % 3))
        yield text[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]


def _behind(backend: Backend, job: Job) -> Any:
    """A job as the store keeps it."""
    store: Any = backend.store
    [found] = store.behind.of_ids([id_of(job)])
    return found


def _put_off(backend: Backend, job: Job) -> Job:
    """Wait until a job was given back, to be tried later; return its snapshot."""

    def look() -> Job | None:
        found = backend.get(id_of(job))
        assert found is not None
        later = found.status is Status.PENDING and found.held is None and found.run_after != job.run_after
        return found if later else None

    found = eventually(look, f"{job} is given back")
    assert found is not None
    return found


def _well(job: Job) -> dict[str, str]:
    job.progress(0.5, HIDDEN)
    return {"was": job.payload["text"]}


def _dead(job: Job) -> None:
    raise Discard(job.payload["text"])


def _retrying(job: Job) -> None:
    job.progress(0.5, HIDDEN)
    job.save("row", HIDDEN)
    raise ValueError(job.payload["text"])


def _waits(job: Job) -> list[Any]:
    value = job.step("a", lambda: job.payload["text"])
    job.save("row", HIDDEN)
    job.wait_for("go")
    return [value, job.saved("row")]


def _gathers(job: Job) -> None:
    job.gather("all", [Job("later", {"text": HIDDEN, "n": n}, run_after=LATER) for n in range(2)])


def _followed(job: Job) -> None:
    job.enqueue("later", {"text": HIDDEN, "n": 9}, run_after=LATER)


HANDLERS: dict[str, Callable[[Job], Any]] = {
    "well": _well,
    "dead": _dead,
    "retrying": _retrying,
    "waits": _waits,
    "gathers": _gathers,
    "followed": _followed,
    "later": ignore,
}
STATES = {
    "well": Status.SUCCEEDED,
    "dead": Status.DEAD,
    "retrying": Status.RETRYING,
    "gathers": Status.PENDING,
    "followed": Status.SUCCEEDED,
    "busy": Status.RUNNING,
}
