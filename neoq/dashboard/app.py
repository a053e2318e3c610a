"""Dashboard: the WSGI application. It finds the page, asks once who may see it, and answers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from neoq.dashboard import access as rights
from neoq.dashboard import forgery, headers, view
from neoq.dashboard.board import Board
from neoq.dashboard.mask import Formatter, Mask, Names
from neoq.dashboard.pages import metrics
from neoq.dashboard.proxies import behind
from neoq.dashboard.request import Request
from neoq.dashboard.response import Answer, Page, Redirect, Refused, Reply, Response
from neoq.dashboard.routes import BY_PATH, NAVIGATION, Route, methods_of
from neoq.errors import BackendError, InvalidJobError

if TYPE_CHECKING:
    from neoq.backend import Backend

_logger = logging.getLogger("neoq.dashboard")
_SAID = "neoq_said"  # the cookie of a message that the next page shows once
_MOST_SAID = 1000  # bytes of it; percent codes make it three times as long, and a cookie holds 4 KB
StartResponse = Callable[..., Any]


class Dashboard:
    """A WSGI application that shows a backend; `neoq.dashboard.wsgi` makes one."""

    def __init__(
        self,
        backend: Backend,
        *,
        access: Callable[[dict[str, Any]], Any] | None = None,
        title: str = "neoq",
        mask: Names | None = None,
        formatter: Formatter | None = None,
        trusted_proxies: int = 0,
        metrics_token: str | None = None,
    ) -> None:
        self.board = Board(backend, Mask(mask, formatter))
        self._access = access
        self._title = title
        self._metrics_token = metrics_token
        self._trusted_proxies = trusted_proxies

    def close(self, timeout: float = 5.0) -> None:
        """Stop changes of all that match that run in the background; for servers that end in order."""
        self.board.sweeps.stop(timeout)

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        response = self._answer(environ)
        if isinstance(response, Reply):
            return response.application(environ, start_response)
        body = response.body
        own = {name for name, _ in response.headers}
        sent = [
            *((name, value) for name, value in headers.of(response.kind) if name not in own),
            ("Content-Type", response.content_type),
            ("Content-Length", str(len(body))),
            *response.headers,
        ]
        if response.status == 304:
            sent = [(name, value) for name, value in sent if not name.startswith("Content-")]
        start_response(response.status_line, sent)
        return [] if environ.get("REQUEST_METHOD", "").upper() == "HEAD" else [body]

    def _answer(self, environ: dict[str, Any]) -> Response | Reply:
        request = Request(environ, "GET", "", Request.of({}).query)
        try:
            request = Request.of(behind(environ, self._trusted_proxies))
            if request.path.startswith("static/"):
                return _static(request)
            answer = self._page(request)
            return answer if isinstance(answer, Reply) else self._sent(request, answer)
        except Refused as error:
            return self._refusal(request, error)
        except InvalidJobError as error:
            return self._refusal(request, Refused(400, f"{error}."))
        except BackendError as error:
            return self._sent(request, Page("away.html", {"why": str(error)}, 503))
        except Exception:
            _logger.exception("the dashboard cannot answer %r %r", request.method, request.path)
            return self._refusal(
                request, Refused(500, "The dashboard failed. The log of its process says why.")
            )

    # -- what is asked -----------------------------------------------------------------------------------

    def _page(self, request: Request) -> Answer | Reply:
        """The answer of the page that is asked for, to those who may ask for it."""
        if metrics.knows(request, self._metrics_token):
            request.granted = rights.Granted(others=frozenset())
        else:
            request.granted = rights.rights_of(request.environ, self._access)
        if request.granted.reply is not None:
            return Reply(request.granted.reply)
        if request.granted.refusal is not None:
            raise _not_let_in(request.granted)
        route = self._route_of(request)
        if route is None:
            return Redirect(_first(request))
        if route.queue is not None and (queue := request.query.text(route.queue)) is not None:
            request.need_read(queue)
        why = forgery.refusal_of(request.environ, request.form if route.method == "POST" else {})
        if why is not None:
            raise Refused(403, why)
        return route.page(request, self.board)

    def _route_of(self, request: Request) -> Route | None:
        """The route of a request; None where another page is the first one."""
        method = "GET" if request.method == "HEAD" else request.method
        route = BY_PATH.get((method, request.path))
        # Without a slash behind the mount, relative links would lead out of it.
        if request.environ.get("SCRIPT_NAME", "").strip("/") and not request.environ.get("PATH_INFO"):
            return None
        if route is None:
            allowed = methods_of(request.path)
            if not allowed:
                raise Refused(404, "There is no such page.")
            raise Refused(
                405, f"This page answers {', '.join(allowed)} only.", (("Allow", ", ".join(allowed)),)
            )
        return route

    # -- what is answered --------------------------------------------------------------------------------

    def _sent(self, request: Request, answer: Answer) -> Response:
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, Redirect):
            return _redirect(request, answer)
        token, cookie = forgery.token_of(request.environ)
        said = request.cookies.get(_SAID)
        html, is_region = view.html_of(
            request, answer.template, dict(answer.data) | self._common(request, answer, token, said)
        )
        response = Response(html.encode("utf-8", "replace"), answer.status)
        if is_region:
            return _region(request, html, response, answer)
        if cookie is not None:
            response.headers.append(("Set-Cookie", cookie))
        if said is not None:
            response.headers.append(("Set-Cookie", f"{_SAID}=; Max-Age=0; HttpOnly; SameSite=Strict"))
        return response

    def _common(self, request: Request, page: Page, token: str, said: str | None) -> dict[str, Any]:
        """What every template may use."""
        failed, _, message = unquote(said or "").partition(":")
        return {
            "request": request,
            "granted": request.granted,
            "title": self._title,
            "token": token,
            "url": lambda path="", **query: request.url(path, query),
            "static": lambda name: view.static_url(request, name),
            "navigation": NAVIGATION,
            "message": message[:_MOST_SAID],
            "message_failed": failed == "failed",
            "late": next((seen for seen in page.seen if seen.late), None),
        }

    def _refusal(self, request: Request, error: Refused) -> Response:
        data = {"status": error.status, "why": error.why}
        response = self._sent(request, Page("refused.html", data, error.status))
        response.headers.extend(error.headers)
        return response


def _not_let_in(granted: rights.Granted) -> Refused:
    why = granted.refusal or ""
    if granted.challenge is None:
        return Refused(403, why)
    return Refused(401, why, (("WWW-Authenticate", granted.challenge),))


def _first(request: Request) -> str:
    """The way to the first page from the mount that was asked for without its slash."""
    name = request.environ["SCRIPT_NAME"].rstrip("/").rpartition("/")[2]
    return f"{quote(name.encode('latin-1', 'replace'))}/"


def _redirect(request: Request, answer: Redirect) -> Response:
    to = request.root + answer.to
    sent = [("Location", f"./{to}" if to[:1] in ("", "?") else to)]
    if answer.message is not None:
        kind = "failed" if answer.failed else "done"
        said = f"{kind}:{answer.message}".encode("utf-8", "replace")[:_MOST_SAID]
        text = quote(said.decode("utf-8", "ignore"))
        sent.append(("Set-Cookie", f"{_SAID}={text}; Max-Age=60; HttpOnly; SameSite=Strict"))
    return Response(status=303, headers=sent)


def _region(request: Request, html: str, response: Response, page: Page) -> Response:
    etag = view.etag_of(html)
    response.headers.append(("ETag", etag))
    late = max((seen.age for seen in page.seen if seen.late), default=None)
    if late is not None:  # the banner that says so is not in a region
        response.headers.append(("Neoq-Age", f"{late:.0f}"))
    if etag in request.environ.get("HTTP_IF_NONE_MATCH", ""):
        response.body, response.status = b"", 304
    return response


def _static(request: Request) -> Response:
    found = view.static_file(request.path.removeprefix("static/"))
    if found is None or request.method not in {"GET", "HEAD"}:
        return Response(b"There is no such file.\n", 404, "text/plain; charset=utf-8")
    kind: headers.Kind = "static" if request.query.get("v") == found.version else "page"
    response = Response(found.body, content_type=found.content_type, kind=kind)
    response.headers.append(("Vary", "Accept-Encoding"))
    # Pages are never packed: how long one is would tell of its secrets to somebody who puts words into it.
    if "gzip" in request.environ.get("HTTP_ACCEPT_ENCODING", ""):
        response.body = found.packed
        response.headers.append(("Content-Encoding", "gzip"))
    return response
