"""Who did what: what an entry says of ids and filters, and what becomes of one that no store takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from neoq import AuditEntry, BackendUnavailable, InvalidJobError, MemBackend, ThreadInfo, WorkerInfo
from neoq.audit import acting_as, filter_text, ids_text
from neoq.filter import filter_of
from neoq.stored import report_of, reported
from neoq.wording.redact import MASK
from tests.garbage import STORES, Spot, target_of


@pytest.fixture
def backend() -> Iterator[MemBackend]:
    with MemBackend(autostart=False) as backend:
        yield backend


@pytest.mark.parametrize(
    ("filters", "text"),
    [
        ({"status": "dead", "queue": "emails"}, "status=dead queue=emails"),
        ({"queue": "two words", "kind": "a.b"}, "queue='two words' kind=a.b"),
        ({"since": datetime(2026, 1, 2, tzinfo=UTC), "time": "due"}, "since=2026-01-02T00:00:00Z time=due"),
        ({"until": 86400.0}, "until=2026-01-01T00:00:00Z"),
        ({"error": "password is hunter2"}, f"error={MASK}"),
        (
            {"payload": {"user.id": 7, "ok": None, "s": "x y"}},
            "payload.user.id=7 payload.ok=null payload.s='x y'",
        ),
        ({"payload": {"login.apiToken": "hunter2"}}, f"payload.login.apiToken={MASK}"),
        ({"payload": {"a": "x" * 200}}, f"payload.a={'x' * 97}..."),
    ],
)
def test_a_filter_is_told(filters: Any, text: str) -> None:
    """A filter is told in one readable line, without errors and secrets."""
    now = datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    assert filter_text(filter_of(filters, now)) == text


def test_twenty_ids_are_told() -> None:
    """At most 20 ids are named, and how many more there are."""
    assert ids_text([1, 2]) == "ids 1, 2"
    assert ids_text(range(1, 1501)) == f"ids {', '.join(map(str, range(1, 21)))} and 1,480 more"


def test_the_count_is_exact(backend: MemBackend) -> None:
    """An operation on many jobs counts those that it has changed, in all its parts."""
    backend.listen("q", lambda _: None)
    ids = [backend.enqueue("q", {"n": n}).id for n in range(1203)]
    with acting_as("ada"):
        assert backend.retry([*ids, 7]) == {*ids}
        assert backend.cancel_all(queue="q") == 1203
    assert [(entry.action, entry.count) for entry in backend.audit()] == [("cancel", 1203), ("retry", 1203)]


def test_the_first_part_counts(backend: MemBackend) -> None:
    """An operation that fails in its second part leaves an entry with the count of the first."""
    backend.listen("q", lambda _: None)
    for n in range(501):
        backend.enqueue("q", {"n": n})
    change, parts = backend.store.change, []

    def fail_later(ids: list[int], action: Any) -> Any:
        parts.append(len(ids))
        if len(parts) > 1:
            raise BackendUnavailable("gone")
        return change(ids, action)

    with pytest.MonkeyPatch.context() as patch, acting_as("ada"):
        patch.setattr(backend.store, "change", fail_later)
        with pytest.raises(BackendUnavailable):
            backend.cancel_all(queue="q")
    assert [(entry.count, entry.what) for entry in backend.audit()] == [
        (500, "status=pending,retrying,running queue=q")
    ]
    assert parts == [500, 1]


def test_a_thread_acts_for_itself(backend: MemBackend) -> None:
    """Who acts in one thread does not act in another, and blocks nest."""
    with acting_as("ada"):
        thread = threading.Thread(target=backend.pause, args=("q",))
        thread.start()
        thread.join()
        with acting_as("bob"):
            backend.pause("q")
        backend.resume("q")
    assert [(entry.user, entry.via) for entry in backend.audit()] == [("ada", "code"), ("bob", "code")]


@pytest.mark.parametrize("user", ["", " ", None, 7])
def test_a_user_has_a_name(user: Any) -> None:
    """acting_as() refuses what is no name."""
    with pytest.raises(InvalidJobError, match="user"), acting_as(user):
        pass


def test_an_entry_that_the_store_refuses(backend: MemBackend, caplog: pytest.LogCaptureFixture) -> None:
    """Where the store takes no entry the operation counts, and the log says what was done."""
    backend.queues()

    def refuse(entry: AuditEntry) -> None:
        raise BackendUnavailable("gone")

    with pytest.MonkeyPatch.context() as patch, acting_as("ada", via="test"):
        patch.setattr(backend.store, "add_audit", refuse)
        backend.pause("q")
    assert [one.paused for one in backend.queues()] == [True]
    assert caplog.messages[-1] == "pause by ada via test: 1 in queue q is not in the audit: gone"


@pytest.mark.parametrize("store", STORES)
def test_entries_are_forgotten(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Entries older than 30 days are not listed, and prune() forgets them; later ones keep their places."""
    target = target_of(store, request, tmp_path)
    with target.connect(autostart=False) as backend, acting_as("ada"):
        backend.pause("q")
        [entry] = backend.audit()
        if store == "redis":
            target.spoil(Spot("audit", "other"), orjson.dumps([1, 1.0, "eve", "x", "run", 1, None, ""]), None)
        else:
            target.spoil(Spot("neoq_audit" if store == "sqlite" else "audit", "at"), 1.0, None)
        assert [one.user for one in backend.audit()] == (["ada"] if store == "redis" else [])
        backend.prune()
        backend.resume("q")
        later = [one for one in backend.audit() if one.action != "pause"]
        assert [one.action for one in later] == ["resume", "prune"]
        assert later[0].id > later[1].id > entry.id


def test_what_the_threads_of_a_worker_run_is_kept_short() -> None:
    """A worker tells of at most 100 threads in some bytes each, and what is garbage there is left out."""
    at = datetime(2026, 1, 2, tzinfo=UTC)
    threads = (
        ThreadInfo("p", 2**52, "kind", at, True),
        ThreadInfo("q", 7, None, at),
        *[ThreadInfo("q")] * 98,
    )
    bare = WorkerInfo("id", "host", 1, at, at, ("p", "q"))
    worker = replace(bare, threads=threads, memory=5 * 2**30, abandoned=1)
    report = report_of(worker)
    assert len(report) < 600
    assert reported(bare, report) == worker
    for garbage in (None, b"", b"[]", b"7", b'{"t": 1}', b'{"t": [1, {}, [9], [[]]], "m": "x", "a": -1}'):
        found = reported(bare, garbage)
        assert (found.memory, found.abandoned, {one.job_id for one in found.threads} <= {None}) == (
            None,
            0,
            True,
        )
