"""The dashboard in a project: for its staff, with the rights that the permissions of each give."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import NoReverseMatch, URLPattern, re_path, reverse
from django.views.decorators.csrf import csrf_exempt

from neoq.backend import Backend
from neoq.dashboard import RIGHTS, Access, wsgi
from neoq.dashboard.mounts import at
from neoq.django.installed import aliases
from neoq.django.registry import backend

_CHANGE = frozenset({"retry", "cancel", "run", "pause", "limit"})
_ASKED = "neoq.access"


def urls_of(alias: str | None = None) -> list[URLPattern]:
    """The URLs of the dashboard of an alias of TASKS; of the first alias that neoq has, if none is named."""
    return [re_path(r"^(?P<page>.*)$", _view_of(alias), name="neoq_dashboard")]


def rights_of(request: HttpRequest) -> Access:
    """What the user of a request may do: staff only, by the permissions on the model ``neoq.job``.

    ``view`` reads; ``change`` retries, cancels, runs and pauses, and sets limits; ``delete`` deletes. Only a
    superuser may see what is masked.
    """
    user: Any = getattr(request, "user", None)
    if user is None or not (user.is_active and user.is_staff):
        return Access("none")
    name = user.get_username()
    if user.is_superuser:
        return Access(RIGHTS, name)
    rights = set(_CHANGE if user.has_perm("neoq.change_job") else ())
    rights |= {"delete"} if user.has_perm("neoq.delete_job") else set()
    may_read = rights or user.has_perm("neoq.view_job")
    return Access(rights if may_read else "none", name)


def _view_of(alias: str | None) -> Callable[..., HttpResponseBase]:
    made: list[tuple[Backend, Any]] = []  # a backend is made anew where the settings change, as in tests

    def view(request: HttpRequest, page: str) -> HttpResponseBase:
        options = dict(getattr(settings, "NEOQ_DASHBOARD", {}))
        answer = options.pop("access", rights_of)(request)
        if isinstance(answer, HttpResponseBase):
            return answer
        user: Any = getattr(request, "user", None)
        if answer in ("none", Access("none")) and request.method == "GET" and not _is_known(user):
            return redirect_to_login(request.get_full_path(), _login())
        backend_now = backend(alias or next(iter(aliases()), "default"))
        if not made or made[-1][0] is not backend_now:
            made[:] = [(backend_now, wsgi(backend_now, access=lambda environ: environ[_ASKED], **options))]
        environ = at(request.META, _mount_of(request, page), page, request.body)
        environ |= {
            "HTTP_HOST": request.get_host(),
            "wsgi.url_scheme": request.scheme,
            _ASKED: answer,
        }
        return _response_of(made[-1][1], environ)

    # The forms of the dashboard have a protection of their own.
    exempt: Callable[..., HttpResponseBase] = csrf_exempt(view)
    return exempt


def _is_known(user: Any) -> bool:
    return bool(getattr(user, "is_authenticated", False))


def _login() -> str | None:
    try:
        return str(reverse("admin:login"))
    except NoReverseMatch:
        return None  # LOGIN_URL


def _mount_of(request: HttpRequest, page: str) -> str:
    return str(request.path_info).removesuffix(page).rstrip("/")


def _response_of(application: Callable[..., Iterable[bytes]], environ: dict[str, Any]) -> HttpResponse:
    """What a WSGI application answers, as Django has it."""
    response = HttpResponse()

    def start(status: str, headers: list[tuple[str, str]], *_: Any) -> None:
        response.status_code = int(status.partition(" ")[0])
        for name, value in headers:
            if name.lower() == "set-cookie":
                response.cookies.load(value)
            else:
                response[name] = value

    response.content = b"".join(application(environ, start))
    return response
