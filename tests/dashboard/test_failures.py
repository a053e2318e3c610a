"""Dead jobs in groups: what is one group, what it shows, and who sees it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from werkzeug.test import Client

from neoq.backend import Backend
from neoq.dashboard import failures
from neoq.dashboard.failures import exception_of, place_of
from tests.dashboard.conftest import client_of, text_of

TRACEBACK = """Traceback (most recent call last):
  File "/srv/app/old.py", line 1, in before
    first()
KeyError: 'x'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/srv/venv/lib/python3.12/site-packages/neoq/engine/attempt.py", line 68, in attempt
    result = listener.call(job)
  File "/srv/app/shop/mail.py", line 31, in send
    smtp.send(job)
  File "/usr/lib/python3.12/smtplib.py", line 300, in send
    raise ConnectionError(5)
ConnectionError: 5
"""


def fail_here(job: Any) -> None:
    raise ConnectionError(f"host {job.payload['n']} refuses")


def fail_there(job: Any) -> None:
    raise ValueError("<b>wrong</b>")


def die(backend: Backend, queue: str, handler: Any, number: int) -> None:
    """Let jobs of a queue die of what a handler raises."""
    backend.listen(queue, handler, max_retries=0)
    for n in range(number):
        backend.enqueue(queue, {"n": n})
    backend.start()
    assert backend.drain(20)


@pytest.mark.parametrize(
    ("traceback", "place"),
    [
        (TRACEBACK, "shop/mail.py:31 in send"),
        ('Traceback (most recent call last):\n  File "C:\\app\\a.py", line 7, in f\nX\n', "app/a.py:7 in f"),
        (
            'Traceback (most recent call last):\n  File "/usr/lib/python3.12/x.py", line 3, in g\n',
            "python3.12/x.py:3 in g",
        ),
        ("nothing of the kind", ""),
        (None, ""),
    ],
)
def test_the_place_is_the_last_frame_of_ones_own_code(traceback: str | None, place: str) -> None:
    """The place of an error is the last frame of its traceback that is no library's, or else the last."""
    assert place_of(traceback) == place


@pytest.mark.parametrize(
    ("error", "name"),
    [
        ("ConnectionError: refused", "ConnectionError"),
        ("app.errors.Broken: x: y", "app.errors.Broken"),
        ("KeyError", "KeyError"),
        ("two words", "(other)"),
        ("", "(no error)"),
        (None, "(no error)"),
    ],
)
def test_the_exception_is_the_name_before_the_message(error: str | None, name: str) -> None:
    """The exception is what stands before the first colon of an error."""
    assert exception_of(error) == name


def test_jobs_that_raise_the_same_at_the_same_place_are_one_group(backend: Backend, client: Client) -> None:
    """Messages that differ in a number are one group; its count, its place and its newest job are shown."""
    die(backend, "mails", fail_here, 3)
    die(backend, "shop", fail_there, 1)
    page = text_of(client.get("/failures"))
    assert "4 dead jobs in 2 groups" in page
    assert len(re.findall('<tr id="group-', page)) == 2
    assert "ConnectionError" in page
    assert "in fail_here" in page
    newest = backend.jobs(queue="mails")[0]
    assert str(newest.error).partition(": ")[2] in page
    assert f'href="job?id={newest.id}"' in page
    assert "&lt;b&gt;wrong&lt;/b&gt;" in page


def test_only_the_queues_that_may_be_read_count(backend: Backend) -> None:
    """A group has only the jobs of queues that the request may look at."""
    die(backend, "mails", fail_here, 2)
    die(backend, "shop", fail_here, 5)
    page = text_of(client_of(backend, {"mails": "read"}).get("/failures"))
    assert "2 dead jobs in 1 group," in page
    assert "shop" not in page


def test_it_says_how_far_it_looked(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are more dead jobs than are looked at, the page says so, and has the newest."""
    monkeypatch.setattr(failures, "NEWEST", 4)
    monkeypatch.setattr(failures, "PAGE", 2)
    monkeypatch.setattr("neoq.dashboard.pages.failures.NEWEST", 4)
    die(backend, "mails", fail_here, 7)
    page = text_of(client_of(backend).get("/failures"))
    assert "Only the newest 4 of 7" in page
    assert f'href="job?id={backend.jobs()[0].id}"' in page


def test_without_dead_jobs_it_says_so(client: Client) -> None:
    """The page of failures without any says that no job is dead."""
    assert "No job is dead" in text_of(client.get("/failures"))


def form_of(page: str, action: str) -> dict[str, str]:
    """The fields of the first form of a group, as a browser sends them."""
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    return {**fields, "action": action}


def test_a_group_is_retried_at_once(backend: Backend, client: Client) -> None:
    """One press retries the dead jobs of a group; one that was retried before is left, and it says so."""
    die(backend, "mails", fail_here, 3)
    form = form_of(text_of(client.get("/failures")), "retry")
    backend.pause("mails")
    first = backend.jobs(queue="mails")[0]
    assert backend.retry(first.id)
    page = text_of(client.post("/act", data=form, follow_redirects=True))
    assert "2 of 3 jobs retried." in page
    assert "no longer dead" in page
    assert backend.count(status="dead") == 0
    (entry,) = backend.audit()
    assert (entry.user, entry.action, entry.count) == ("ada", "retry", 2)
    assert "ConnectionError" in entry.what


def test_without_scripts_a_page_asks_before_a_group_is_deleted(backend: Backend, client: Client) -> None:
    """The button for browsers without scripts leads to a page that says how many, and changes nothing."""
    die(backend, "mails", fail_here, 3)
    form = form_of(text_of(client.get("/failures")), "delete")
    page = text_of(client.post("/act?ask=yes", data=form))
    assert "Delete 3 jobs that died of" in page
    assert backend.count(queue="mails", status="dead") == 3
    sure = text_of(client.post("/act", data=form_of(page, "delete"), follow_redirects=True))
    assert "3 of 3 jobs deleted." in sure
    assert client_of(backend, "read").post("/act?ask=yes", data=form).status_code == 403


def test_jobs_that_died_since_the_page_was_shown_are_left(backend: Backend, client: Client) -> None:
    """A delete of a group takes the jobs that the form has shown, and not those that came later."""
    die(backend, "mails", fail_here, 2)
    form = form_of(text_of(client.get("/failures")), "delete")
    die_again = backend.enqueue("mails", {"n": 99})
    assert backend.drain(20)
    client.application.board.changed()  # type: ignore[union-attr]
    page = text_of(client.post("/act", data=form, follow_redirects=True))
    assert "2 of 2 jobs deleted." in page
    assert "1 died since" in page
    assert [job.id for job in backend.jobs()] == [die_again.id]
    gone = text_of(client.post("/act", data={**form, "group": "0"}, follow_redirects=True))
    assert "the group is gone" in gone


def test_a_group_is_retried_once_by_a_form_that_is_sent_twice(backend: Backend, client: Client) -> None:
    """Jobs that have died again since the form was shown are left, so a double click retries them once."""
    die(backend, "mails", fail_here, 2)
    form = form_of(text_of(client.get("/failures")), "retry")
    for _ in range(2):
        text_of(client.post("/act", data=form, follow_redirects=True))
        assert backend.drain(20)
        client.application.board.changed()  # type: ignore[union-attr]
    assert sum(entry.count for entry in backend.audit()) == 2
    for wrong in (
        {"newest": "9" * 5000},
        {"last": "x"},
        {"last": "0001-01-01T00:00:00+23:59"},
        {"newest": ""},
    ):
        assert client.post("/act", data={**form, **wrong}).status_code in {303, 400}


def test_a_group_takes_the_right_in_each_of_its_queues(backend: Backend) -> None:
    """A user with the right in one of two queues of a group may not retry the group, and has no button."""
    die(backend, "mails", fail_here, 1)
    die(backend, "shop", fail_here, 1)
    client = client_of(backend, {"mails": {"retry"}, "shop": "read"})
    page = text_of(client.get("/failures"))
    assert "<button" not in page
    group = re.findall(r'id="group-(\w+)"', page)[0]
    assert client.post("/act", data={"action": "retry", "group": group}).status_code == 403
    assert backend.count(status="dead") == 2
