"""The admin of background jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.test.utils import setup_test_environment, teardown_test_environment
from shop import tasks

LIST = "/admin/neoq/job/"


@pytest.fixture(autouse=True)
def contexts_of_pages() -> Iterator[None]:
    setup_test_environment()
    yield
    teardown_test_environment()


@pytest.fixture
def client_of() -> Iterator[Callable[..., Client]]:
    """A client that is logged in as a member of the staff with some permissions."""

    def client_of(*permissions: str) -> Client:
        user = User.objects.create_user("staff", is_staff=True)
        found = Permission.objects.filter(codename__in=[f"{one}_job" for one in permissions])
        assert len(found) == len(permissions)
        user.user_permissions.set(found)
        client = Client()
        client.force_login(user)
        return client

    yield client_of
    User.objects.all().delete()


def test_the_list(store: Any, client_of: Callable[..., Client]) -> None:
    """The list has the jobs that its filters take, page by page, and no actions for one who may only look."""
    client = client_of("view")
    for number in range(60):
        tasks.add.enqueue(f"<{number}>")
    tasks.mail.enqueue(1)
    page = client.get(LIST)
    assert page.status_code == 200
    text = page.content.decode()
    assert "shop.tasks.mail" in text
    assert "older jobs" in text
    assert 'value="retry"' not in text
    assert len(page.context["jobs"]) == 50
    older = client.get(f"{LIST}?{page.context['next']}")
    assert len(older.context["jobs"]) == 11
    assert len(client.get(LIST, {"queue": "emails"}).context["jobs"]) == 1
    assert len(client.get(LIST, {"kind": "shop.tasks.add", "status": "pending"}).context["jobs"]) == 50
    assert client.get(LIST, {"status": "unknown"}).status_code == 200
    assert client.get(LIST, {"alias": "unknown"}).status_code == 404


def test_a_job(running: Any, finished: Callable[[Any], Any], client_of: Callable[..., Client]) -> None:
    """The page of a job has its payload, its attempts and their tracebacks, with what is HTML escaped."""
    client = client_of("view")
    result = finished(tasks.fail.enqueue("<script>"))
    job = running.get(uid=result.id)
    text = client.get(f"{LIST}{job.id}/change/").content.decode()
    assert "&lt;script&gt;" in text
    assert "<script>" not in text.partition("Attempts")[2].partition("</div>")[0]
    assert "Traceback" in text
    assert client.get(f"{LIST}999999/change/").status_code == 404
    assert client.get(f"{LIST}nonsense/change/").status_code == 404


@pytest.mark.parametrize(
    ("action", "permission", "status"), [("cancel", "change", "cancelled"), ("delete", "delete", None)]
)
def test_actions(
    store: Any, client_of: Callable[..., Client], action: str, permission: str, status: str | None
) -> None:
    """An action works on the chosen jobs, for one who has its permission, and the audit names them."""
    client = client_of("view", permission)
    first, other = (store.get(uid=tasks.add.enqueue(n).id) for n in range(2))
    assert client.post(LIST, {"action": action, "job": [first.id]}).status_code == 302
    found = store.get(first.id)
    assert (found and found.status) == status
    assert store.get(other.id).status == "pending"
    entry = store.audit()[0]
    assert (entry.action, entry.count, entry.via) == (action, 1, "admin")
    assert entry.user


def test_retry(running: Any, finished: Callable[[Any], Any], client_of: Callable[..., Client]) -> None:
    """A dead job is run again from its page."""
    client = client_of("view", "change")
    job = running.get(uid=finished(tasks.fail.enqueue("x")).id)
    page = client.post(f"{LIST}{job.id}/change/", {"action": "retry", "job": [job.id]}, follow=True)
    assert [str(message) for message in page.context["messages"]] == ["retry: 1 of 1 jobs"]


def test_permissions(store: Any, client_of: Callable[..., Client]) -> None:
    """A user who may only look changes nothing, and one who may not look sees nothing."""
    job = store.get(uid=tasks.add.enqueue(1).id)
    client = client_of("view")
    for action in ("retry", "cancel", "delete", "unknown"):
        assert client.post(LIST, {"action": action, "job": [job.id]}).status_code == 403
    assert client.get(f"{LIST}add/").status_code == 403
    User.objects.all().delete()
    client = client_of()
    assert client.get(LIST).status_code == 403
    assert client.get(f"{LIST}{job.id}/change/").status_code == 403
    assert Client().get(LIST).status_code == 302
    assert store.get(job.id).status == "pending"
