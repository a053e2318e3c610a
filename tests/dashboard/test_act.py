"""What the dashboard changes: who may, what a stale form does, and changes of all that match."""

from __future__ import annotations

import re
import threading
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from neoq.backend import Backend
from neoq.dashboard import sweeps
from neoq.dashboard.changes import CHANGES, state_of
from neoq.dashboard.pages import act as act_page
from tests.dashboard.conftest import client_of, text_of
from tests.dashboard.test_jobs import dead, nothing


def act(client: Client, path: str = "/act", **fields: Any) -> TestResponse:
    """Send a form as a browser does, and follow where it leads."""
    return client.post(path, data=fields, headers={"Sec-Fetch-Site": "same-origin"}, follow_redirects=True)


def seen(backend: Backend, job_id: int) -> str:
    job = backend.get(job_id)
    assert job is not None
    return f"{job_id}.{state_of(job)}"


def later(backend: Backend, count: int = 1, queue: str = "later") -> list[int]:
    backend.listen(queue, nothing)
    return [backend.enqueue(queue, {"n": n}, run_after=3600).id for n in range(count)]


@pytest.mark.parametrize(
    ("action", "status"), [("cancel", "cancelled"), ("run", "succeeded"), ("delete", None)]
)
def test_a_job_is_changed_from_its_page(
    backend: Backend, client: Client, action: str, status: str | None
) -> None:
    """A button changes the job, and the page that it leads back to says so once."""
    (one,) = later(backend)
    backend.start()
    page = text_of(act(client, action=action, job=seen(backend, one), back=f"job?id={one}"))
    assert f"1 job {CHANGES[action].past}." in page
    if status is None:
        assert backend.get(one) is None
    else:
        assert backend.wait(one, 10).status == status
    assert f"1 job {CHANGES[action].past}." not in text_of(client.get("/queues"))


def test_a_dead_job_is_retried(backend: Backend, client: Client) -> None:
    """A dead job that is retried runs again."""
    (one,) = dead(backend)
    assert "1 job retried." in text_of(act(client, action="retry", job=seen(backend, one)))
    backend.wait(one, 10)


def test_a_stale_form_changes_nothing_and_says_what_is_new(backend: Backend, client: Client) -> None:
    """A form whose job has changed since it was shown does nothing to any of its jobs, and says why."""
    one, other = later(backend, 2)
    form = [seen(backend, one), seen(backend, other)]
    backend.cancel(one)
    page = text_of(act(client, action="delete", job=form, back="jobs?queue=later"))
    assert f"job {one} was pending when the page was shown, and is cancelled now" in page
    assert backend.get(other) is not None
    backend.delete(one)
    assert f"job {one} is gone" in text_of(act(client, action="delete", job=form))
    again = text_of(act(client, action="cancel", job=form[1]))
    assert "1 job cancelled" in again
    assert "Nothing was cancelled" in text_of(act(client, action="cancel", job=form[1]))


def test_a_retry_that_meets_an_equal_job_leads_to_it(backend: Backend, client: Client) -> None:
    """A retry whose job has an unfinished equal one says so, with a link to that one."""
    (one,) = dead(backend)
    backend.pause("mails")
    holder = backend.enqueue("mails", {"n": 0})
    page = text_of(act(client, action="retry", job=seen(backend, one), back=f"job?id={one}"))
    assert f"job {holder.id} of mails is equal" in page
    assert re.search(rf'<a href="job\?id={holder.id}">job {holder.id}</a> is equal', page)
    listed = text_of(act(client, action="retry", job=seen(backend, one), back="jobs?status=dead"))
    assert f"job {holder.id} of mails is equal" in listed


def test_without_scripts_a_page_asks_before_jobs_are_deleted(backend: Backend, client: Client) -> None:
    """The button for browsers without scripts leads to a page that names the jobs, and changes nothing."""
    made = later(backend, 2)
    forms, ask = [seen(backend, one) for one in made], "/act?ask=yes"
    assert act(client_of(backend, "read"), ask, action="delete", job=forms).status_code == 403
    page = text_of(act(client, ask, action="delete", job=forms, back="jobs?queue=later"))
    assert all(f"Job {one}</a>" in page for one in made)
    assert 'href="jobs?queue=later"' in page
    assert backend.count(queue="later") == 2
    found = re.findall(r'name="job" value="([^"]+)"', page)
    assert "2 jobs deleted" in text_of(act(client, action="delete", job=found, back="jobs?queue=later"))


def test_nothing_ticked_changes_nothing(client: Client) -> None:
    """A form without a ticked job says so."""
    assert "no job is ticked" in text_of(act(client, action="delete", back="jobs"))


@pytest.mark.parametrize("action", [*CHANGES, "pause", "resume", "reveal"])
def test_each_action_takes_its_right(backend: Backend, action: str) -> None:
    """Each action is refused to those who have every right but its own, and changes nothing."""
    (one,) = later(backend)
    before = seen(backend, one)
    right = {"resume": "pause"}.get(action, action)
    rights = {"retry", "cancel", "delete", "run", "pause", "limit", "reveal"} - {right}
    for client in (client_of(backend, rights), client_of(backend, "read"), client_of(backend, "none")):
        for fields in ({"job": before}, *([] if action == "reveal" else [{"all": "yes"}])):
            answer = act(client, action=action, **{"queue": "later", **fields})
            assert answer.status_code == 403
    elsewhere = client_of(backend, {"later": rights, "*": {right}})
    assert act(elsewhere, action=action, job=before, queue="later").status_code == 403
    assert seen(backend, one) == before
    assert not backend.queues()[0].paused


def test_a_queue_is_paused_and_goes_on(backend: Backend, client: Client) -> None:
    """The button of a queue pauses it, and lets it go on."""
    later(backend)
    page = text_of(act(client, action="pause", queue="later", back="queue?name=later"))
    assert "Queue later is paused." in page
    assert "Resume" in page
    assert "Queue later goes on." in text_of(act(client, action="resume", queue="later"))


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "act", "static/x", "javascript:1", "jobs/../x", "\\x"]
)
def test_a_form_leads_back_to_our_own_pages_only(backend: Backend, client: Client, back: str) -> None:
    """Whatever a form says of where to go back, it leads to a page of the dashboard."""
    later(backend)
    answer = client.post(
        "/act",
        data={"action": "pause", "queue": "later", "back": back},
        headers={"Sec-Fetch-Site": "same-origin"},
    )
    assert answer.status_code == 303
    assert answer.headers["Location"] == "jobs"


def test_no_get_changes_anything(backend: Backend, client: Client) -> None:
    """A form that is sent by GET is refused."""
    (one,) = later(backend)
    answer = client.get("/act", query_string={"action": "cancel", "job": seen(backend, one)})
    assert answer.status_code == 405
    assert backend.get(one).status == "pending"


def all_of(client: Client, page: str, **more: Any) -> dict[str, Any]:
    """The fields of the form of a confirmation."""
    fields = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page))
    return {**fields, **more}


def test_all_that_match_are_changed_in_the_background(backend: Backend, client: Client) -> None:
    """All jobs that a filter takes are counted first, with some of them shown, and then changed in pages."""
    made = later(backend, 620)
    (other,) = later(backend, 1, "other")
    page = text_of(client.get("/confirm?action=cancel&queue=later&status=pending&since=1h"))
    assert "620 jobs" in page
    assert f"job?id={made[-1]}" in page
    shown = text_of(act(client, **all_of(client, page, action="cancel")))
    (sweep,) = client.application.board.sweeps.known()
    assert sweep.wait(20)
    assert sweep.id in shown or "Done" in shown
    done = text_of(client.get(f"/sweep?id={sweep.id}"))
    assert "Done." in done
    assert "620 cancelled" in done
    assert backend.count(queue="later", status="cancelled") == 620
    assert backend.get(other).status == "pending"


def test_a_sweep_is_stopped(backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of all that match ends after the page that it is at, once somebody stops it."""
    monkeypatch.setattr(sweeps, "PAGE", 5)
    monkeypatch.setattr(act_page, "MOMENT", 0.0)
    later(backend, 40)
    at_second, go_on = threading.Event(), threading.Event()
    cancel, calls = backend.cancel, []

    def slowly(ids: Any) -> Any:
        calls.append(ids)
        if len(calls) == 2:
            at_second.set()
            assert go_on.wait(10)
        return cancel(ids)

    monkeypatch.setattr(backend, "cancel", slowly)
    page = text_of(act(client, action="cancel", all="yes", queue="later"))
    assert at_second.wait(10)
    (sweep,) = client.application.board.sweeps.known()
    assert "Stop" in page
    assert f"sweep?id={sweep.id}" in text_of(client.get("/jobs"))
    again = text_of(act(client, action="cancel", all="yes", queue="later"))  # a double click
    assert sweep.id in again
    assert "Stopping" in text_of(act(client, action="stop", sweep=sweep.id))
    go_on.set()
    assert sweep.wait(10)
    assert "Stopped." in text_of(client.get(f"/sweep?id={sweep.id}"))
    assert backend.count(queue="later", status="cancelled") == 10


def test_a_server_that_ends_stops_what_runs_and_records_it(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing the application stops changes of all that match; the record tells how far they came."""
    monkeypatch.setattr(sweeps, "PAGE", 5)
    monkeypatch.setattr(sweeps, "PAUSE", 30.0)
    monkeypatch.setattr(act_page, "MOMENT", 0.0)
    later(backend, 20)
    act(client, action="cancel", all="yes", queue="later")
    (sweep,) = client.application.board.sweeps.known()
    client.application.close()
    assert sweep.state in {"stopped", "done"}
    assert [entry.count for entry in backend.audit()] == [sweep.changed]


def test_nothing_is_changed_without_a_filter(backend: Backend, client: Client) -> None:
    """A change of all that match needs a filter."""
    later(backend)
    assert client.get("/confirm?action=delete").status_code == 400
    assert act(client, action="delete", all="yes").status_code == 400
    assert client.get("/confirm?action=explode&queue=later").status_code == 400


def test_a_sweep_of_another_process_is_explained(client: Client) -> None:
    """The page of a change that this process does not know says that another one may have it."""
    assert "another one may carry it out" in text_of(client.get("/sweep?id=1-2"), 404)


def test_jobs_of_a_queue_are_counted_at_once(
    backend: Backend, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a filter names a queue and a status only, the number is exact without a look at each job."""
    monkeypatch.setattr(sweeps, "PAGE", 5)
    monkeypatch.setattr(sweeps, "COUNT_SECONDS", 0.0)
    later(backend, 40)
    page = text_of(client.get("/confirm?action=cancel&queue=later"))
    assert "<strong>40 jobs</strong>" in page
    assert "More than 5 jobs" in text_of(client.get("/confirm?action=cancel&queue=later&since=1h"))
