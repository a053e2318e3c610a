"""A project with the dashboard, for staff; prints what each of its users sees. test_mounts.py runs it."""

from __future__ import annotations

import json
import sys
from typing import Any
from urllib.parse import urlencode

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="x",
    ALLOWED_HOSTS=["testserver"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.admin",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.messages",
        "django.contrib.sessions",
        "neoq.django",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    MIGRATION_MODULES=dict.fromkeys(["admin", "auth", "contenttypes", "sessions"]),  # tables at once: quicker
    TASKS={"default": {"BACKEND": "neoq.django.TaskBackend", "QUEUES": []}},
)
django.setup()

from django.contrib import admin  # noqa: E402
from django.contrib.auth.models import Permission, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.test import Client  # noqa: E402
from django.urls import include, path  # noqa: E402

from neoq.dashboard.changes import state_of  # noqa: E402
from neoq.django import backend  # noqa: E402

urlpatterns = [path("admin/", admin.site.urls), path("jobs/", include("neoq.django.urls"))]
call_command("migrate", verbosity=0, run_syncdb=True)
jobs = backend()
seen: dict[str, Any] = {}


def client_of(name: str | None, *permissions: str, **flags: Any) -> Client:
    client = Client(enforce_csrf_checks=True, SCRIPT_NAME="/ops")
    if name is not None:
        user = User.objects.create_user(name, **flags)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
    return client


def act(client: Client, job_id: int, action: str, site: str = "same-origin") -> int:
    form = {"action": action, "job": f"{job_id}.{state_of(jobs.get(job_id))}"}
    kind = "application/x-www-form-urlencoded"
    headers = {"Sec-Fetch-Site": site}
    return client.post("/jobs/act", urlencode(form), content_type=kind, headers=headers).status_code


def status_of(job_id: int) -> str | None:
    found = jobs.jobs(queue="mails")
    return next((job.status.value for job in found if job.id == job_id), None)


def look(client: Client) -> int:
    return client.get("/jobs/queues").status_code


job = jobs.enqueue("mails", {"n": 1}).id
visitor = client_of(None)
found = visitor.get("/jobs/queues")
seen["visitor"] = [found.status_code, found["Location"]]
seen["visitor posts"] = [act(visitor, job, "delete"), status_of(job)]
seen["customer"] = look(client_of("customer", "view_job"))
seen["staff without permission"] = look(client_of("new", is_staff=True))
reader = client_of("reader", "view_job", is_staff=True)
seen["reader"] = [look(reader), act(reader, job, "cancel")]
seen["reader's job"] = status_of(job)
editor = client_of("editor", "change_job", is_staff=True)
seen["forged"] = act(editor, job, "cancel", "cross-site")
seen["editor"] = [look(editor), act(editor, job, "delete"), act(editor, job, "cancel")]
seen["editor's job"] = status_of(job)
root = client_of("root", is_staff=True, is_superuser=True)
other = jobs.enqueue("mails", {"n": 1}).id
seen["superuser"] = [look(root), act(root, other, "delete")]
seen["superuser's job"] = status_of(other)
seen["other host"] = root.get("/jobs/queues", headers={"Host": "evil.com"}).status_code
seen["page"] = root.get("/jobs/queues").content.decode()
jobs.shutdown(0)
print(json.dumps(seen))
