"""The application: routes, regions, static files, refusals, and what it says when the store is away."""

from __future__ import annotations

import gzip
import re
import threading
from typing import Any

import pytest
from werkzeug.test import Client

from neoq.backend import Backend
from neoq.dashboard import board
from neoq.dashboard.app import Dashboard
from neoq.errors import BackendUnavailable
from tests.dashboard.conftest import client_of, text_of

NAMES = ["plain", "with/slash", "with.dot", "50%", "a&b=c", "<b>bold</b>", "\N{PARTY POPPER}"]


def nothing(job: Any) -> None:
    pass


def test_queues_are_listed_with_their_counts(backend: Backend, client: Client) -> None:
    """The page of queues names each queue, whatever its name, and links to it by the query."""
    for name in NAMES:
        backend.listen(name, nothing)
        backend.enqueue(name, {"n": 1})
    page = text_of(client.get("/queues"))
    assert "<b>bold</b>" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "queue?name=with%2Fslash" in page
    assert "queue?name=50%25" in page


def test_a_region_is_answered_alone_and_with_304_while_it_is_the_same(
    backend: Backend, client: Client
) -> None:
    """A request that names a region gets that one and an ETag, and 304 for that ETag until it has changed."""
    backend.listen("mails", nothing)
    backend.enqueue("mails", {"n": 1})
    asked = {"HX-Request": "true", "HX-Target": "queues"}
    region = client.get("/queues", headers=asked)
    text = text_of(region)
    assert text.lstrip().startswith("<section")
    assert "<html" not in text
    again = client.get("/queues", headers={**asked, "If-None-Match": region.headers["ETag"]})
    assert again.status_code == 304
    assert again.get_data() == b""
    backend.enqueue("mails", {"n": 2})
    client.application.board.changed()
    changed = client.get("/queues", headers={**asked, "If-None-Match": region.headers["ETag"]})
    assert changed.status_code == 200


def test_a_region_that_is_unknown_gets_the_page(client: Client) -> None:
    """A request that names no region of the page gets the whole page."""
    for name in ("nothing", "../x", "queues\udcff", ""):
        page = text_of(
            client.get("/queues", environ_overrides={"HTTP_HX_REQUEST": "true", "HTTP_HX_TARGET": name})
        )
        assert "<html" in page


def test_static_files_are_cached_for_ever_under_their_hash(client: Client) -> None:
    """A page links to its files by their hash, under which a browser may keep them."""
    page = text_of(client.get("/queues"))
    for path in ("static/neoq.css", "static/neoq.js", "static/icon.svg"):
        (link,) = set(re.findall(rf'"({re.escape(path)}\?v=[0-9a-f]+)"', page))
        found = client.get(f"/{link}")
        assert found.status_code == 200
        assert "immutable" in found.headers["Cache-Control"]
    assert "immutable" not in client.get("/static/neoq.css?v=other").headers["Cache-Control"]


def test_static_files_are_packed_for_those_who_unpack(client: Client) -> None:
    """A browser that takes gzip gets its files so, and the pages, which hold secrets, as they are."""
    plain = client.get("/static/neoq.js")
    packed = client.get("/static/neoq.js", headers={"Accept-Encoding": "br, gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) < len(plain.data) / 2
    assert "Accept-Encoding" in plain.headers["Vary"]
    assert "Content-Encoding" not in client.get("/queues", headers={"Accept-Encoding": "gzip"}).headers


@pytest.mark.parametrize("path", ["static/../app.py", "static/nothing.css", "static//etc/passwd", "static/"])
def test_no_other_file_is_served(client: Client, path: str) -> None:
    """Only the dashboard's own static files are served."""
    assert client.get("/" + path).status_code == 404


def test_unknown_paths_and_methods_are_refused(client: Client) -> None:
    """An unknown path is 404, a method that a page does not answer is 405 and names those that it does."""
    assert "no such page" in text_of(client.get("/nothing"), 404)
    assert "../static/neoq.css" in text_of(client.get("/a/b"), 404).replace("../../", "../")
    refused = client.put("/queues")
    assert refused.status_code == 405
    assert refused.headers["Allow"] == "GET"
    head = client.head("/queues")
    assert head.status_code == 200
    assert head.get_data() == b""


@pytest.mark.parametrize("mount", ["/jobs", "/a/b c"])
def test_the_mount_without_its_slash_leads_to_the_first_page(backend: Backend, mount: str) -> None:
    """Relative links work from the first page, also where the mount is asked for without a slash."""
    client = client_of(backend)
    found = client.get(
        "http://localhost/", environ_overrides={"SCRIPT_NAME": mount, "PATH_INFO": ""}, follow_redirects=False
    )
    assert found.status_code == 303
    last = mount.rpartition("/")[2].replace(" ", "%20")
    assert found.headers["Location"] == f"{last}/"


def test_a_form_that_is_too_large_is_refused(client: Client) -> None:
    """A body beyond the limit is refused before it is read."""
    refused = client.post("/queues", data={"a": "b" * 2_000_000})
    assert refused.status_code in {405, 413}


def test_nobody_is_let_in_who_may_not_read(backend: Backend) -> None:
    """Without the right to read every page is 403, and the static files are served for its looks."""
    client = client_of(backend, "none")
    assert client.get("/queues").status_code == 403
    assert client.get("/static/neoq.css").status_code == 200


def test_only_queues_that_may_be_read_are_listed(backend: Backend) -> None:
    """A user of some queues sees only those."""
    for name in ("mails", "secret"):
        backend.listen(name, nothing)
        backend.enqueue(name, {})
    page = text_of(client_of(backend, {"mails": "read"}).get("/queues"))
    assert "mails" in page
    assert "secret" not in page


def test_many_viewers_cost_the_store_one_question(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many look, the counts are asked for once in two seconds."""
    asked = []
    counts = backend.store.counts
    monkeypatch.setattr(backend.store, "counts", lambda: asked.append(1) or counts())
    client = client_of(backend)
    barrier = threading.Barrier(8)

    def look() -> None:
        barrier.wait(10)
        assert client.application.board.counts().value == []

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(asked) == 1


def test_a_store_that_is_away_at_first_gets_a_plain_page(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store was never reached the page says so, with what the store said, and no traceback."""

    def away() -> Any:
        raise BackendUnavailable("no server at db:5432")

    monkeypatch.setattr(backend, "queues", away)
    page = text_of(client_of(backend).get("/queues"), 503)
    assert "no server at db:5432" in page
    assert "Traceback" not in page


def test_a_store_that_goes_away_leaves_the_last_numbers_and_their_age(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page comes with the last numbers that are known, and says how old they are and why."""
    backend.listen("mails", nothing)
    backend.enqueue("mails", {})
    answers = [backend.queues()]

    def away() -> Any:
        if answers:
            return answers.pop()
        raise BackendUnavailable("no server at db:5432")

    monkeypatch.setattr(backend, "queues", away)
    client = client_of(backend)
    assert "mails" in text_of(client.get("/queues"))
    client.application.board.changed()
    page = text_of(client.get("/queues"))
    assert "mails" in page
    assert "The store does not answer (no server at db:5432)" in page


def test_a_slow_store_does_not_hold_up_a_page(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that hangs holds up a page for a moment only, which then has older numbers."""
    monkeypatch.setattr(board, "PATIENCE", 0.01)
    let_go = threading.Event()
    answers = [backend.queues()]
    monkeypatch.setattr(backend, "queues", lambda: answers.pop() if answers else let_go.wait(30) and [])
    client = client_of(backend)
    text_of(client.get("/queues"))
    client.application.board.changed()
    try:
        assert "has not answered" in text_of(client.get("/queues"))
    finally:
        let_go.set()


def test_a_store_that_hangs_leaves_the_threads_that_serve(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that only the store can fill is given up after a while, and later ones at once."""
    monkeypatch.setattr(board, "FIRST_PATIENCE", 0.05)
    monkeypatch.setattr(board, "MOST_ASKED", 2)
    let_go = threading.Event()
    monkeypatch.setattr(backend, "get", lambda *_, **__: let_go.wait(30))
    client = client_of(backend)
    try:
        for said in ("has not answered for", "has not answered for", "what other pages have asked"):
            assert said in text_of(client.get("/job?id=7"), 503)
    finally:
        let_go.set()


def test_what_was_asked_before_a_change_is_not_shown_after_it() -> None:
    """A look that was on its way when somebody changed something is asked again."""
    asked, let_go, answers = threading.Event(), threading.Event(), [1, 2]

    def ask() -> int:
        answer = answers.pop(0)
        if answer == 1:
            asked.set()
            assert let_go.wait(10)
        return answer

    look = board.Look(ask)
    first = threading.Thread(target=look.seen)
    first.start()
    assert asked.wait(10)
    look.forget()
    assert look.seen().value == 2
    let_go.set()
    first.join(10)
    assert look.seen().value == 2


def test_a_question_that_hangs_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look whose question is never answered, as after a fork, asks it again after a while."""
    monkeypatch.setattr(board, "FIRST_PATIENCE", 0.01)
    let_go, now, answers = threading.Event(), [0.0], ["late", "new"]

    def ask() -> str:
        answer = answers.pop(0)
        if answer == "late":
            let_go.wait(30)
        return answer

    look = board.Look(ask, clock=lambda: now[0])
    with pytest.raises(board.StoreAway):
        look.seen()
    now[0] = board.LOST + 1
    monkeypatch.setattr(board, "FIRST_PATIENCE", 10)
    assert look.seen().value == "new"
    let_go.set()
    assert look.seen().value == "new"


def test_a_failure_of_the_dashboard_is_logged_and_shown_without_a_traceback(
    backend: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An unexpected error is 500 with a plain page; its traceback is in the log only."""
    monkeypatch.setattr(backend, "queues", lambda: 1 // 0)
    page = text_of(client_of(backend).get("/queues"), 500)
    assert "ZeroDivisionError" not in page
    assert "ZeroDivisionError" in caplog.text


def test_metrics_are_read_with_a_token_or_by_those_who_may_look(backend: Backend) -> None:
    """The metrics of all queues need the bearer token, or the right to look at every queue."""
    backend.listen("mails", nothing)
    backend.enqueue("mails", {})
    closed = Client(Dashboard(backend, access=lambda environ: "none", metrics_token="hunter2"))
    found = closed.get("/metrics", headers={"Authorization": "Bearer hunter2"})
    assert 'queue="mails"' in text_of(found)
    assert found.headers["Content-Type"].startswith("text/plain")
    for given in ("Bearer hunter3", "Basic hunter2", "Bearer", ""):
        assert closed.get("/metrics", headers={"Authorization": given}).status_code == 403
    assert closed.get("/queues", headers={"Authorization": "Bearer hunter2"}).status_code == 403
    assert client_of(backend, "read").get("/metrics").status_code == 200
    assert client_of(backend, {"mails": "read"}).get("/metrics").status_code == 403
