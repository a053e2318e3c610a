"""The pages of jobs and of a job: filters, pages, what is shown, and what is not."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from werkzeug.test import Client

import neoq
from neoq.backend import Backend
from neoq.dashboard import search
from neoq.dashboard.pages import jobs as jobs_page
from neoq.errors import Discard, LookTimeoutError
from neoq.job import Job
from neoq.store import Page
from neoq.testing.cases.suite import eventually
from tests.dashboard.conftest import client_of, text_of

HOSTILE = "<script>alert(1)</script>\"'&"


def nothing(job: Any) -> None:
    pass


def fail(job: Any) -> None:
    raise RuntimeError(f"no luck with {HOSTILE}")


def ids_in(page: str) -> list[int]:
    return [int(one) for one in re.findall(r'id="job-(\d+)"', page)]


def dead(backend: Backend, queue: str = "mails", count: int = 1, **options: Any) -> list[int]:
    """Jobs that have died."""
    backend.listen(queue, fail, max_retries=0)
    made = [backend.enqueue(queue, {"n": n}, **options).id for n in range(count)]
    backend.start()
    for one in made:
        assert backend.wait(one, 10).status == "dead"
    return made


@pytest.mark.parametrize("order", ["newest", "oldest"])
def test_pages_lead_forth_and_back(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """Following the links of pages shows each job once, and the links back show the same pages again."""
    monkeypatch.setattr(jobs_page, "LIMIT", 3)
    backend.listen("mails", nothing)
    made = [backend.enqueue("mails", {"n": n}, run_after=3600).id for n in range(8)]
    if order == "newest":
        made.reverse()
    path, pages = f"/jobs?queue=mails&order={'oldest' if order == 'oldest' else ''}", []
    while path:
        page = text_of(client.get(path))
        pages.append(ids_in(page))
        links = re.findall(r'rel="next" href="([^"]+)"', page)
        path = f"/{links[0].replace('&amp;', '&')}" if links else ""
    assert [one for page in pages for one in page] == made
    assert [len(page) for page in pages] == [3, 3, 2]
    back = []
    while links := re.findall(r'rel="prev" href="([^"]+)"', page):
        page = text_of(client.get(f"/{links[0].replace('&amp;', '&')}"))
        back.append(ids_in(page))
    assert back == pages[-2::-1]


def test_filters_find_what_they_say(backend: Backend, client: Client) -> None:
    """Each field of the form filters, and stands in the form and in the command of the page."""
    (died,) = dead(backend)
    backend.listen("later", nothing)
    waits = backend.enqueue("later", {"user": {"id": 7}}, run_after=3600, key="ada").id
    soon = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
    for query, found in [
        ({"queue": "mails"}, [died]),
        ({"status": "dead"}, [died]),
        ({"status": "pending"}, [waits]),
        ({"key": "ada"}, [waits]),
        ({"error": "no luck"}, [died]),
        ({"payload": "user.id=7"}, [waits]),
        ({"payload": "user.id=8"}, []),
        ({"since": "1h"}, [waits, died]),
        ({"since": soon}, []),
        ({"time": "finished"}, [died]),
        ({"queue": "nobody"}, []),
    ]:
        page = text_of(client.get("/jobs", query_string=query))
        assert ids_in(page) == found, query
        assert "neoq jobs --" in page
    assert 'value="ada"' in text_of(client.get("/jobs?key=ada"))


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("since=tomorrow-ish", "This is no time"),
        ("status=lost", "no such status"),
        ("payload=user", "Write path=value"),
        ("payload=user.password=x", "hidden"),
        ("time=finished&status=pending", "has not ended"),
        ("since=1h&until=2h", "Since is not before until"),
    ],
)
def test_what_a_filter_cannot_mean_is_said(backend: Backend, client: Client, query: str, said: str) -> None:
    """A filter that cannot be read is shown again with what is wrong, and finds nothing."""
    backend.listen("mails", nothing)
    backend.enqueue("mails", {})
    page = text_of(client.get(f"/jobs?{query}"), 400)
    assert said in page
    assert ids_in(page) == []


def test_a_job_shows_its_attempts_and_what_follows(backend: Backend, client: Client) -> None:
    """The page of a job has its state, its timeline, its error and each attempt with its traceback."""
    (died,) = dead(backend)
    page = text_of(client.get(f"/job?id={died}"))
    for part in ("Attempt 1 failed", "no attempt is left", "Traceback", "RuntimeError", "neoq retry"):
        assert part in page
    assert "<script>alert" not in page
    backend.listen("later", nothing)
    later = backend.enqueue("later", {"a": 1}, run_after=3600, uid="my/uid 1")
    assert "for a later time" in text_of(client.get("/job", query_string={"id": "my/uid 1"}))
    assert f"Job {later.id}" in text_of(client.get(f"/job?id={later.id}"))


@pytest.mark.parametrize("name", ["0", "-1", "99999", "9" * 30, "", "nobody", "\N{PARTY POPPER}", "1.5"])
def test_a_job_that_is_unknown_is_404(client: Client, name: str) -> None:
    """An id or uid that no job has is answered by a plain page."""
    assert "no such job" in text_of(client.get("/job", query_string={"id": name}), 404)


def test_secrets_are_hidden_until_they_are_revealed(backend: Backend) -> None:
    """Secret values are hidden on every page; who has the right may see them on the page of their job."""
    backend.listen("mails", nothing)
    job = backend.enqueue("mails", {"to": "ada", "password": "hunter2"}, run_after=3600)
    client = client_of(backend)
    page = text_of(client.get(f"/job?id={job.id}"))
    for shown in (
        page,
        text_of(client.get("/jobs")),
        text_of(client.get(f"/download?id={job.id}")),
        text_of(client.get("/confirm?action=cancel&queue=mails")),
    ):
        assert "hunter2" not in shown
    assert "ada" in page
    form = {"action": "reveal", "job": f"{job.id}.pending.1.0"}
    same = {"Sec-Fetch-Site": "same-origin"}
    assert "hunter2" in text_of(client.post("/act", data=form, headers=same))
    assert client_of(backend, {"cancel"}).post("/act", data=form, headers=same).status_code == 403


def test_numbers_are_shown_as_exactly_as_they_are_stored(backend: Backend, client: Client) -> None:
    """An integer beyond 2**53 is shown with all its digits."""
    backend.listen("mails", nothing)
    job = backend.enqueue("mails", {"id": 2**63 - 1}, run_after=3600)
    assert str(2**63 - 1) in text_of(client.get(f"/job?id={job.id}"))


def test_a_large_payload_is_downloaded(client: Client) -> None:
    """A payload of 30 MB leaves the pages small, and is a link there."""
    with neoq.connect("memory://", autostart=False, max_payload=40_000_000) as backend:
        backend.listen("mails", nothing)
        job = backend.enqueue("mails", {"text": "x" * 30_000_000}, run_after=3600)
        client = client_of(backend)
        began = time.monotonic()
        page = text_of(client.get(f"/job?id={job.id}"))
        assert time.monotonic() - began < 2
        assert "too large to be shown" in page
        assert len(page) + len(text_of(client.get("/jobs"))) < 40_000
        assert f'href="download?id={job.id}&amp;part=payload"' in page
        small = backend.enqueue("mails", {"text": "x" * 100_000, "token": "abc"}, run_after=3600)
        assert "too large to be shown" in text_of(client.get(f"/job?id={small.id}"))
        found = client.get(f"/download?id={small.id}")
        assert len(found.get_json()["text"]) == 100_000
        assert found.headers.getlist("Content-Disposition") == [
            f'attachment; filename="job-{small.id}-payload.json"'
        ]
        backend.shutdown(0)


def test_a_job_of_a_queue_that_may_not_be_read_is_not_there(backend: Backend) -> None:
    """A user of one queue finds no job, list or page of another one."""
    backend.listen("mails", nothing)
    backend.listen("secret", nothing)
    job = backend.enqueue("secret", {}, run_after=3600)
    client = client_of(backend, {"mails": "read"})
    for path in (f"/job?id={job.id}", f"/download?id={job.id}"):
        assert client.get(path).status_code == 404
    for path in ("/jobs", "/jobs?queue=secret", "/queue?name=secret", "/confirm?action=retry&queue=secret"):
        assert client.get(path).status_code == 403
    assert client.get("/jobs?queue=mails").status_code == 200


def test_a_queue_shows_its_levels_and_who_listens(backend: Backend, client: Client) -> None:
    """The page of a queue counts its jobs by level, links to them, and is 404 for a queue of nobody."""
    dead(backend, count=3)
    page = text_of(client.get("/queue?name=mails"))
    assert re.search(r'status=dead">3</a>', page)
    assert client.get("/queue?name=other").status_code == 404
    assert client.get("/queue").status_code == 404


@pytest.mark.parametrize("order", ["", "oldest"])
def test_a_search_that_takes_long_can_go_on(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    """A page that has looked for long enough shows what it found, how far it looked, and a link to go on."""
    backend.listen("mails", nothing)
    made = [backend.enqueue("mails", {"n": n}, run_after=3600, key=f"k{n % 4}").id for n in range(12)]
    find = backend.store.find_brief

    def in_steps(wanted: Any, *, limit: int, after: int | None = None, before: int | None = None) -> Page:
        rows = find(limit=3, after=after, before=before)
        jobs = [job for job in rows.jobs if wanted.matches(job)]
        last = None if not rows.jobs else rows.jobs[-1 if before is None else 0].id
        return Page(jobs, last)

    monkeypatch.setattr(backend.store, "find_brief", in_steps)
    monkeypatch.setattr(search, "SECONDS", -1)
    path, found, looks = f"/jobs?key=k1&order={order}", [], 0
    while path:
        page = text_of(client.get(path))
        found += ids_in(page)
        looks += 1
        links = re.findall(r'href="([^"]+)">Look further', page)
        path = f"/{links[0].replace('&amp;', '&')}" if links else ""
    assert found == (made[1::4] if order else made[1::4][::-1])
    assert looks > 3


def test_a_list_that_many_refresh_is_asked_for_once(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refreshes of a list share one question a second; a page that is loaded, or an action, asks anew."""
    backend.listen("mails", nothing)
    backend.enqueue("mails", {"n": 1}, run_after=3600)
    asked = []
    find = backend.store.find_brief
    monkeypatch.setattr(backend.store, "find_brief", lambda *a, **k: asked.append(1) or find(*a, **k))
    refresh = {"HX-Request": "true", "HX-Target": "jobs"}
    for _ in range(3):
        text_of(client.get("/jobs?queue=mails", headers=refresh))
    assert len(asked) == 1
    newest = backend.enqueue("mails", {"n": 2}, run_after=3600).id
    assert newest in ids_in(text_of(client.get("/jobs?queue=mails")))
    client.application.board.changed()
    text_of(client.get("/jobs?queue=mails", headers=refresh))
    assert len(asked) == 3


def test_a_search_that_the_store_breaks_off_is_explained(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the store breaks a search off the page says so, and a change counts as far as it came."""
    backend.listen("mails", nothing)

    def broken_off(*_: Any, **__: Any) -> Page:
        raise LookTimeoutError("a look at the jobs was broken off after 2 s; filter by queue")

    monkeypatch.setattr(backend.store, "find_brief", broken_off)
    assert "A look at the jobs was broken off after 2 s" in text_of(client.get("/jobs?error=x"), 503)
    monkeypatch.setattr(backend, "jobs", lambda **_: [])
    assert "More than 0 jobs" in text_of(client.get("/confirm?action=delete&error=x"))


def test_a_job_shows_what_it_has_recorded(backend: Backend) -> None:
    """The steps of a job, its signals and what it waits for are on its page; a secret is hidden in them."""

    @backend.listen("orders")
    def fulfil(job: Job) -> None:
        job.step("charge", dict, id=7)
        job.step("api_key", str, "hunter2")
        job.wait_for("approval", timeout=600)

    job = backend.enqueue("orders", {"a": 1})
    backend.start()
    eventually(lambda: backend.queues()[0].held == 1, "it waits")
    page = text_of(client_of(backend).get(f"/job?id={job.id}"))
    assert "It goes on when its signal comes, or its time." in page
    assert re.search(r"Step <bdi>charge</bdi>.*?&#34;id&#34;: 7|Step <bdi>charge</bdi>.*?7", page, re.DOTALL)
    assert "hunter2" not in page
    assert '<span class="state state-held">held</span>' in page


def test_a_callback_shows_the_counts_of_its_batch(backend: Backend) -> None:
    """The page of a callback says how many members have ended, and how."""
    backend.listen("m", fail_odd, max_retries=0)
    backend.listen("done", lambda job: None)
    with backend.batch(then=Job("done", {})) as batch:
        batch.enqueue_many(Job("m", {"n": n}) for n in range(3))
        backend.start()
        eventually(lambda: backend.get(batch.id).batch.ended == 3, "all have ended")  # type: ignore[union-attr]
        page = text_of(client_of(backend).get(f"/job?id={batch.id}"))
    assert "3 of 3 members have ended: 2 succeeded, 1 dead, 0 cancelled" in page
    assert "open: members may be added" in page
    assert "It runs when all members of its batch have ended." in page


def fail_odd(job: Job) -> None:
    if job.payload["n"] % 2:
        raise Discard("odd")


def test_a_queue_shows_its_limits_and_the_lines_that_stand_still(backend: Backend) -> None:
    """The page of a queue names the key behind whose dead job others wait, and leads to that job."""
    backend.listen("hooks", fail_odd, ordered=True)
    jobs = [backend.enqueue("hooks", {"n": 1, "of": n}, key="ada<b>") for n in range(3)]
    backend.start()
    eventually(lambda: backend.lines("hooks")[0].state == "dead", "the line stands still")
    page = text_of(client_of(backend).get("/queue?name=hooks"))
    assert "<code>ordered=True</code>" in page
    assert "<bdi>ada&lt;b&gt;</bdi>" in page
    assert f'<a href="job?id={jobs[0].id}">{jobs[0].id}</a>' in page
