"""Each route and each action of the dashboard asks for its right, on each queue; looking changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

import neoq
from neoq.backend import Backend
from neoq.dashboard import RIGHTS, changes, routes
from neoq.dashboard.changes import CHANGES
from tests.dashboard.conftest import client_of

SAME = {"Sec-Fetch-Site": "same-origin"}
TEMPLATES = Path(routes.__file__).parent / "templates"
# Every action that a form can ask for, and the right that it takes; "stop" takes that of what it stops.
ACTIONS = {"pause": "pause", "resume": "pause", "reveal": "reveal", **{name: name for name in CHANGES}}
GETS = sorted({route.path for route in routes.ROUTES if route.method == "GET"})


@pytest.fixture
def jobs(backend: Backend) -> dict[str, neoq.Job]:
    """A waiting job in each of two queues."""
    return {queue: enqueued(backend, queue) for queue in ("mails", "secret-plan")}


def enqueued(backend: Backend, queue: str) -> neoq.Job:
    backend.listen(queue, print)
    return backend.enqueue(queue, {"n": 1, "password": "hunter2"}, run_after=3600)


def seen(job: neoq.Job) -> str:
    return f"{job.id}.{changes.state_of(job)}"


def state_of(backend: Backend) -> Any:
    """All that an action could change."""
    jobs = [(job.id, job.status, job.attempt, job.run_after) for job in backend.jobs()]
    return jobs, {one.queue: one.paused for one in backend.queues()}, len(backend.audit())


def ask(client: Client, action: str, *jobs: neoq.Job, **fields: Any) -> TestResponse:
    data = {"action": action, "queue": jobs[0].queue, "job": [seen(job) for job in jobs], **fields}
    return client.post("/act", data=data, headers=SAME)


def test_every_action_of_a_form_is_known_here() -> None:
    """The tests of this file know each action that a template asks for."""
    text = "".join(path.read_text(encoding="utf-8") for path in TEMPLATES.glob("*.html"))
    named = set(re.findall(r'name="action" value="([a-z-]+)"', text))
    assert {"pause", "reveal"} <= named <= {*ACTIONS, "stop"}
    assert {right for action, right in ACTIONS.items()} <= RIGHTS
    assert {route.path for route in routes.ROUTES if route.method != "GET"} == {"act"}


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_an_action_takes_its_right(backend: Backend, jobs: dict[str, neoq.Job], action: str) -> None:
    """Without its own right an action is refused, for one job and for all that match, and nothing changes."""
    right, job = ACTIONS[action], jobs["mails"]
    before = state_of(backend)
    for rights in ("none", "read", RIGHTS - {right}, {"secret-plan": RIGHTS, "*": RIGHTS - {right}}):
        client = client_of(backend, rights)
        for fields in ({}, {"all": "1"}, {"all": "1", "queue": ""}, {"all": "1", "kind": "x", "queue": ""}):
            answer = ask(client, action, job, **fields)
            assert answer.status_code in ({400, 403} if "all" in fields else {403}), (rights, fields)
    assert state_of(backend) == before
    allowed = ask(client_of(backend, {"mails": {right}}), action, job)
    assert allowed.status_code in {200, 303}
    assert state_of(backend) != before


@pytest.mark.parametrize("action", sorted(ACTIONS))
def test_the_rights_of_one_queue_are_none_on_another(
    backend: Backend, jobs: dict[str, neoq.Job], action: str
) -> None:
    """With all rights on one queue nothing can be done to another, whatever the form says."""
    client = client_of(backend, {"mails": RIGHTS})
    before = state_of(backend)
    mine, other = jobs["mails"], jobs["secret-plan"]
    for form in (
        {"job": seen(other), "queue": "secret-plan"},
        {"job": [seen(other), seen(mine)], "queue": ["mails", "secret-plan"]},
        {"job": seen(other), "queue": "secret-plan", "all": "1"},
        {"job": seen(other), "queue": "", "all": "1", "since": "1h"},
    ):
        answer = client.post("/act", data={"action": action, **form}, headers=SAME)
        assert answer.status_code in {303, 400, 403, 404}
        assert "hunter2" not in answer.text
        if answer.status_code == 303:
            assert "failed%3A" in str(answer.headers.get_all("Set-Cookie"))
    assert state_of(backend) == before


def test_what_may_not_be_read_is_not_shown(backend: Backend, jobs: dict[str, neoq.Job]) -> None:
    """A user of one queue finds nothing of another: no name, no job, and not whether there is one."""
    client = client_of(backend, {"mails": RIGHTS})
    other = jobs["secret-plan"]

    def fail(job: neoq.Job) -> None:
        raise RuntimeError("secret-error")

    backend.listen("secret-work", fail, max_retries=0)
    backend.listen_cron("@daily", print, queue="secret-cron")
    dead = backend.enqueue("secret-work", {}, kind="secret-kind")
    backend.start()
    backend.wait(dead.id, 10)
    with neoq.audit.acting_as("root", via="command"):
        backend.pause("secret-plan")
    backend.resume("secret-plan")
    for path in GETS:
        queries = [
            "",
            f"?id={other.id}",
            f"?id={other.uid}",
            "?error=x",
            f"?holder={other.id}&id={jobs['mails'].id}",
        ]
        for query in queries:
            page = client.get(f"/{path}{query}").text
            assert "secret-" not in page, (path, query)
            assert "root" not in page, (path, query)
        named = client.get(f"/{path}?queue=secret-plan&name=secret-plan&action=delete").text
        assert ">secret-plan<" not in named, path
    gone = ask(client, "delete", other)
    assert "secret-plan" not in gone.text + str(gone.headers)


@pytest.mark.parametrize("path", GETS)
def test_looking_changes_nothing(backend: Backend, jobs: dict[str, neoq.Job], path: str) -> None:
    """No GET changes anything, whatever its query asks for."""
    client = client_of(backend)
    before = state_of(backend)
    job = jobs["mails"]
    for action in (*ACTIONS, "stop"):
        query = {
            "action": action,
            "id": job.id,
            "job": seen(job),
            "queue": "mails",
            "name": "mails",
            "all": "1",
        }
        for method in (client.get, client.head):
            assert method(f"/{path}", query_string=query, headers=SAME).status_code < 500
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "POST"):
        answer = client.open(
            f"/{path}", method=method, data={"action": "delete", "job": seen(job)}, headers=SAME
        )
        assert answer.status_code == 405
    assert client.get("/act", query_string={"action": "delete", "job": seen(job)}).status_code == 405
    assert state_of(backend) == before


def test_a_forged_form_changes_nothing(backend: Backend, jobs: dict[str, neoq.Job]) -> None:
    """A form that another site sends is refused, with all rights, and says why."""
    client = client_of(backend)
    before = state_of(backend)
    for headers in (
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://evil.com"},
    ):
        answer = client.post("/act", data={"action": "delete", "job": seen(jobs["mails"])}, headers=headers)
        assert answer.status_code == 403
        assert "nothing was done" in answer.text
    assert state_of(backend) == before


def test_a_form_with_its_token_passes(backend: Backend, jobs: dict[str, neoq.Job]) -> None:
    """A browser that sends neither Sec-Fetch-Site nor Origin passes by the token of the page's form."""
    client = client_of(backend)
    page = client.get(f"/job?id={jobs['mails'].id}")
    token = re.findall(r'name="token" value="([^"]+)"', page.text)[0]
    answer = client.post("/act", data={"action": "cancel", "job": seen(jobs["mails"]), "token": token})
    assert answer.status_code == 303
    assert jobs["mails"].id not in [job.id for job in backend.jobs(status="pending")]


@pytest.mark.parametrize("action", sorted(CHANGES))
def test_a_thing_is_done_once(backend: Backend, jobs: dict[str, neoq.Job], action: str) -> None:
    """A double click, and a second operator with the same page, find the state changed and do nothing."""
    job = jobs["mails"]
    ada, bob = client_of(backend), client_of(backend)
    assert ask(ada, action, job).status_code == 303
    after = state_of(backend)
    for client in (ada, bob):
        again = ask(client, action, job)
        assert again.status_code == 303
    assert state_of(backend)[0] == after[0]
    assert sum(entry.count for entry in backend.audit()) == 1


def test_a_revealed_secret_is_recorded(backend: Backend, jobs: dict[str, neoq.Job]) -> None:
    """What is hidden is shown by its right only, and who asked for it stands in the audit."""
    job = jobs["mails"]
    assert "hunter2" not in client_of(backend).get(f"/job?id={job.id}").text
    assert "hunter2" not in client_of(backend).get(f"/download?id={job.id}").text
    assert "hunter2" in ask(client_of(backend), "reveal", job).text
    (entry,) = backend.audit()
    assert (entry.user, entry.action, entry.queue, entry.count) == ("ada", "reveal", "mails", 1)
    assert str(job.id) in entry.what


def test_a_double_click_on_all_that_match_begins_one_change(
    backend: Backend, jobs: dict[str, neoq.Job]
) -> None:
    """A form for all that match acts once, and leaves the jobs that were enqueued after it was shown."""
    client = client_of(backend)
    page = client.get("/confirm?action=cancel&queue=mails").text
    form = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page))
    later = backend.enqueue("mails", {"n": 2}, run_after=3600)
    places = set()
    for _ in range(3):
        answer = client.post("/act", data={**form, "action": "cancel"}, headers=SAME)
        places.add(answer.headers["Location"])
        (sweep,) = client.application.board.sweeps.known()
        assert sweep.wait(10)
    assert len(places) == 1
    assert backend.get(jobs["mails"].id).status is neoq.Status.CANCELLED
    assert backend.get(later.id).status is neoq.Status.PENDING


def test_a_secret_in_an_error_cannot_be_guessed(backend: Backend) -> None:
    """Neither the list, nor the count, nor a change finds a job by a part of its error that is hidden."""

    def fail(job: neoq.Job) -> None:
        raise ValueError("refused: password=hunter2")

    backend.listen("mails", fail, max_retries=0)
    job = backend.enqueue("mails", {})
    backend.start()
    backend.wait(job.id, 10)
    client = client_of(backend)
    for text, found in (("refused", True), ("hunter", False), ("=h", False)):
        listed = client.get("/jobs", query_string={"error": text}).text
        counted = client.get("/confirm", query_string={"error": text, "action": "delete"}).text
        assert (f"job?id={job.id}" in listed) is (f"job?id={job.id}" in counted) is found, text
        assert ("There is nothing to delete" in counted) is not found
    assert client.get("/jobs", query_string={"payload": "user.password=hunter2"}).status_code == 400
