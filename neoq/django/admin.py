"""The admin of background jobs: a list with filters, a page for each job, and actions by permission.

The jobs come from the backend and not from the ORM, so the pages are the same for every store.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse

from neoq import Status
from neoq.audit import acting_as
from neoq.backend import Backend
from neoq.django.installed import aliases
from neoq.django.models import Job
from neoq.django.registry import backend
from neoq.errors import NeoqError
from neoq.payload import CANNOT_OPEN, is_coded

PAGE = 50
FILTERS = ("queue", "status", "kind", "error")
ACTIONS = {"retry": "change", "cancel": "change", "delete": "delete"}  # with the permission of each


def _shown(stored: bytes | None) -> str | None:
    """A payload or a result for people to read."""
    if stored is None or is_coded(stored):
        return None if stored is None else CANNOT_OPEN
    return json.dumps(json.loads(stored), indent=2, ensure_ascii=False)


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    """The pages of background jobs."""

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        """Jobs are enqueued, and not added by hand."""
        return False

    def allowed_actions(self, request: HttpRequest) -> list[str]:
        """What a user may do to jobs."""
        may = {
            "change": self.has_change_permission(request),
            "delete": self.has_delete_permission(request),
        }
        return [name for name, permission in ACTIONS.items() if may[permission]]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """List jobs, newest first; or do something to those that were chosen."""
        self._check_view(request)
        alias, known = self._alias_of(request)
        if alias is None:
            return self._page(request, "list", {"aliases": known, **(extra_context or {})})
        jobs_of = backend(alias)
        if request.method == "POST":
            return self._act(request, jobs_of)
        given = {name: request.GET[name] for name in FILTERS if request.GET.get(name)}
        context: dict[str, Any] = {"aliases": known, "alias": alias, "given": given, "statuses": list(Status)}
        try:
            after = int(request.GET["after"]) if request.GET.get("after") else None
            wanted: dict[str, Any] = dict(given)
            found = jobs_of.jobs(limit=PAGE + 1, after=after, **wanted)
            context["queues"] = sorted({counts.queue for counts in jobs_of.queues()})
        except (NeoqError, ValueError) as error:
            messages.error(request, str(error))
            return self._page(request, "list", context)
        context["jobs"] = found[:PAGE]
        if len(found) > PAGE:
            context["next"] = urlencode({**given, "alias": alias, "after": found[PAGE - 1].id})
        return self._page(request, "list", {**context, **(extra_context or {})})

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",  # noqa: ARG002
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show a job with its attempts; or do something to it."""
        self._check_view(request)
        alias, _ = self._alias_of(request)
        if alias is None:
            raise Http404
        jobs_of = backend(alias)
        if request.method == "POST":
            return self._act(request, jobs_of)
        try:
            job = jobs_of.get(int(object_id))
        except (NeoqError, ValueError):
            job = None
        if job is None:
            raise Http404(f"nothing is known of job {object_id}")
        context = {
            "job": job,
            "alias": alias,
            "payload": _shown(job.body),
            "result": _shown(job.result_body),
            "attempts": jobs_of.attempts(job.id),
        }
        return self._page(request, "detail", {**context, **(extra_context or {})})

    def delete_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the job, whose page has a button for that."""
        return self.change_view(request, object_id, "", extra_context)

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the job: its attempts are its history."""
        return self.change_view(request, object_id, "", extra_context)

    def _check_view(self, request: HttpRequest) -> None:
        if not self.has_view_or_change_permission(request):
            raise PermissionDenied

    @staticmethod
    def _alias_of(request: HttpRequest) -> tuple[str | None, list[str]]:
        """The alias of TASKS that a request is about, and all there are."""
        known = list(aliases())
        asked = request.GET.get("alias")
        if asked is not None and asked not in known:
            raise Http404(f"TASKS has no {asked}")
        return asked or next(iter(known), None), known

    def _act(self, request: HttpRequest, jobs_of: Backend) -> HttpResponse:
        action = request.POST.get("action", "")
        if action not in self.allowed_actions(request):
            raise PermissionDenied
        do = {"retry": jobs_of.retry, "cancel": jobs_of.cancel, "delete": jobs_of.delete}[action]
        try:
            chosen = [int(one) for one in request.POST.getlist("job")]
            with acting_as(request.user.get_username() or "unknown", via="admin"):
                done = do(chosen) if chosen else set()
        except (NeoqError, ValueError) as error:
            messages.error(request, str(error))
        else:
            text = f"{action}: {len(done)} of {len(chosen)} jobs"
            (messages.success if done else messages.warning)(request, text)
        place = reverse("admin:neoq_job_changelist", current_app=self.admin_site.name)
        return HttpResponseRedirect(f"{place}?{request.GET.urlencode()}")

    def _page(self, request: HttpRequest, name: str, context: dict[str, Any]) -> HttpResponse:
        request.current_app = self.admin_site.name
        shared = {
            **self.admin_site.each_context(request),
            "title": "Background jobs",
            "opts": self.opts,
            "actions": self.allowed_actions(request),
        }
        return TemplateResponse(request, f"admin/neoq/job/{name}.html", {**shared, **context})
