"""Hostile texts in every field are shown as text on every page, and hostile requests get a plain refusal."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote
from wsgiref.validate import validator

import pytest
from werkzeug.test import Client

import neoq
from neoq.backend import Backend
from neoq.dashboard import routes
from tests.dashboard.conftest import client_of

EVIL = "\"'><script id=ran>ran()</script><img src=x onerror=ran()></style></textarea></title>{{7*191}}"
TEXTS = {
    "markup": EVIL,
    "url": "javascript:ran()//" + EVIL,
    "lines": "a\r\nSet-Cookie: ran=1\r\n\r\n" + EVIL,
    "controls": "\x00\x07\x1b[31m\x7f\u2028" + EVIL,
    "surrogates": "\ud800 \udfff" + EVIL,
    "direction": "\u202e\u2066" + EVIL + "\u202d",
    "long": EVIL + "x" * 5000,
}
GETS = sorted({route.path for route in routes.ROUTES if route.method == "GET"})
SAME = {"Sec-Fetch-Site": "same-origin"}
_LINKS = {"href", "src", "action", "formaction", "hx-get", "hx-post"}


class Reader(HTMLParser):
    """Reads a page, and raises for what a browser would run, or load from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert given.get("id") != "ran", "a text became an element"
        assert tag not in {"iframe", "object", "embed", "base", "style"}, tag
        assert tag not in {"script", "img"} or str(given["src"]).lstrip("./").startswith("static/"), given
        assert not [name for name in given if name.startswith("on") or name in {"style", "srcdoc"}], given
        for name in _LINKS & given.keys():
            assert not re.match(r"\s*(/|[\w.+-]+:)", given[name] or ""), given

    def handle_data(self, data: str) -> None:
        self.text += data


def read(client: Client, path: str, **query: Any) -> tuple[int, str]:
    """A page that is safe to show: its status and its text."""
    answer = client.get(f"/{path}", query_string=query, headers=SAME)
    headers = dict(answer.headers)
    assert "ran" not in headers.get("Set-Cookie", "").partition(";")[0].partition("=")[0]
    if not headers.get("Content-Type", "text/html").startswith("text/html"):
        plain = headers["Content-Type"].startswith("text/plain")
        assert plain or headers["Content-Disposition"].startswith("attachment")
        assert "sandbox" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        return answer.status_code, answer.get_data(as_text=True)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert headers["Cache-Control"] == "no-store"
    reader = Reader(answer.get_data(as_text=True))
    assert "1337" not in reader.text, "a text was run as a template"
    return answer.status_code, reader.text


def taken(**options: Any) -> Any:
    """The options that a job can have: stores refuse NUL and lone surrogates in some of them."""
    for name, value in list(options.items()):
        try:
            neoq.Job("q", {}, **{name: value})
        except neoq.NeoqError:
            del options[name]
    return options


@pytest.fixture(params=sorted(TEXTS))
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[Backend, str]]:
    """A backend with a hostile text in each field that takes it."""
    text = TEXTS[request.param]
    backend = neoq.connect("memory://", autostart=False)

    def fail(job: neoq.Job) -> Any:
        job.progress(0.5, text)
        if job.payload["fail"]:
            raise type(text[:40].replace("\x00", "?") or "E", (Exception,), {})(text)
        return {text: text}

    queue = text[:60].replace("\x00", "?")
    try:
        backend.listen(queue, fail, max_retries=0)
    except neoq.NeoqError:
        queue = "plain"
        backend.listen(queue, fail, max_retries=0)
    try:
        backend.listen_cron("@daily", print, name=text[:60], queue=queue)
    except (neoq.NeoqError, TypeError, ValueError):
        backend.listen_cron("@daily", print)
    ended = []
    for failing in (True, False):
        own = text[:100] + str(failing)
        options = taken(kind=text[:100], key=own, uid=own, meta={text[:99]: text})
        payload = {"fail": failing, "a": text, "b": [{"c": text}]}
        try:
            ended.append(backend.enqueue(queue, payload, **options))
        except neoq.NeoqError:
            ended.append(backend.enqueue(queue, {"fail": failing}))
    backend.start()
    try:
        for job in ended:
            backend.wait(job.id, 10)
        backend.enqueue(queue, {"fail": True}, run_after=3600)
        with neoq.audit.acting_as(text[:100], via=text[:50]):
            backend.pause(queue)
        yield backend, queue
    finally:
        backend.shutdown(0)


def test_hostile_texts_are_shown_as_text(filled: tuple[Backend, str]) -> None:
    """Whatever a field holds, every page is whole, runs nothing and loads nothing from elsewhere."""
    backend, queue = filled
    client = client_of(backend, title=TEXTS["markup"])
    for path in GETS:
        status, _ = read(client, path)
        assert status < 500, path
    for job in backend.jobs():
        status, text = read(client, "job", id=job.id)
        assert status == 200
        assert queue.split()[0][:10] in text
        read(client, "download", id=job.id)
    assert read(client, "queue", name=queue)[0] == 200
    assert read(client, "jobs", queue=queue)[0] == 200
    assert read(client, "confirm", queue=queue, action="delete")[0] == 200


@pytest.mark.parametrize("text", TEXTS.values(), ids=list(TEXTS))
def test_a_hostile_query_is_refused_or_shown_as_text(backend: Backend, text: str) -> None:
    """A hostile value of any field of a query or a form gets a page that is whole."""
    client = client_of(backend)
    fields = [
        *"id name queue status kind key since until time error payload order after before".split(),
        *"action part holder span window".split(),
        text,
    ]
    sent = text.encode("utf-8", "surrogatepass")
    place = list(TEXTS.values()).index(text)
    for path in [*GETS, quote(sent)]:
        for field in fields[place :: len(TEXTS)]:  # all texts together try each field
            name = quote(field.encode("utf-8", "surrogatepass"))
            answer = client.get(f"/{path}?{name}={quote(sent)}&{name}={quote(sent)}")
            assert answer.status_code < 500, (path, field)
            if answer.content_type.startswith("text/html"):
                Reader(answer.get_data(as_text=True))
    plain = text.encode("utf-8", "replace")
    for form in (
        {"action": plain},
        {"action": "retry", "job": plain},
        {"action": "retry", "back": plain},
        {"action": "retry", "back": b"?" + plain},
        {"action": "retry", "back": b"jobs?" + b"&a=1" * 500 + plain},
        {"action": "retry", "back": b"jobs?a=" + plain * 100},
        {"action": "pause", "queue": plain, "back": plain},
    ):
        answer = client.post("/act", data=form, headers=SAME)
        assert answer.status_code in {303, 400}, form
        place = answer.headers.get("Location", "jobs")
        assert place.startswith(("jobs", "queues", "./?")), place
        assert len(str(answer.headers)) < 20_000, "a proxy refuses larger headers"
        Reader(answer.get_data(as_text=True))


@pytest.mark.parametrize(
    "query",
    [
        "jobs?limit=-1", "jobs?after=-1", "jobs?after=abc", "jobs?before=99999999999999999999999",
        "jobs?status=nothing", "jobs?time=never", "jobs?since=nan", "jobs?since=1e999",
        "jobs?since=99999999999999999w", "jobs?since=-1h", "jobs?until=0000-00-00", "jobs?payload==",
        "jobs?payload=a", "jobs?payload=a..b=1", "jobs?payload=a=[1]", "jobs?payload=a=1e999",
        "jobs?payload=a=NaN", "jobs?queue=%FF%FE", "jobs?%FF=%FF", "jobs?since=1h&until=2h",
        "jobs?order=sideways", "jobs?since=9999-12-31T23:59:59%2B00:00", "jobs?since=0001-01-01",
        "jobs?queue=%00", "job?id=abc", "job?id=-1", "job?id=99999999999999999999999", "job?id=%00",
        "job?id=%EF%BC%91", "job?id=", "job", "queue", "queue?name=%00", "download?id=1&part=secrets",
        "confirm", "confirm?action=explode", "confirm?action=delete",
        "confirm?action=delete&status=running", "sweep?id=1-2", "actions?before=abc",
        "actions?before=99999999999999999999", "actions?before=" + "9" * 5000, "failures?group=x",
        "overview?hours=-1", "jobs?" + "&".join(f"a{n}=1" for n in range(6000)),
        "jobs?queue=" + "x" * 100_000, "a/../../etc/passwd",
    ],
)  # fmt: skip
def test_bad_values_get_a_page_that_says_so(backend: Backend, query: str) -> None:
    """A value that cannot be is answered by a page with what is wrong, and never by a failure."""
    backend.listen("mails", print)
    backend.enqueue("mails", {})
    answer = client_of(backend).get(f"/{query}")
    assert answer.status_code in {200, 303, 400, 404}, answer.status_code
    Reader(answer.get_data(as_text=True))


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"CONTENT_LENGTH": "10000000"}, 413),
        ({"CONTENT_LENGTH": "-1"}, 400),
        ({"CONTENT_LENGTH": "abc"}, 400),
        ({"CONTENT_LENGTH": "99999999999999999999"}, 413),
        ({"CONTENT_TYPE": "multipart/form-data; boundary=x"}, 415),
        ({"CONTENT_TYPE": "application/json"}, 415),
        ({"CONTENT_LENGTH": ""}, 400),
        ({"QUERY_STRING": "\xff\xfe%"}, 400),
        ({"HTTP_COOKIE": "neoq_said=%00%ff; =; \x00"}, 400),
        ({"PATH_INFO": "/\xff\xfe"}, 404),
        ({"HTTP_HX_REQUEST": "true", "HTTP_HX_TARGET": "\xff"}, 400),
    ],
)
def test_bad_requests_are_refused(backend: Backend, change: dict[str, str], status: int) -> None:
    """A body that is too large is not read, and a malformed request is a refusal that names the mistake."""

    class Body(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None
            assert 0 <= size <= 1_000_000
            return super().read(size)

    environ = {
        "REQUEST_METHOD": "POST", "PATH_INFO": "/act", "QUERY_STRING": "", "CONTENT_LENGTH": "3",
        "CONTENT_TYPE": "application/x-www-form-urlencoded", "SERVER_NAME": "x", "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "localhost", "REMOTE_ADDR": "127.0.0.1",
        "HTTP_SEC_FETCH_SITE": "same-origin", "wsgi.input": Body(b"a=b" * 10**6), "wsgi.url_scheme": "http",
    }  # fmt: skip
    sent: list[Any] = []
    application = client_of(backend).application
    body = b"".join(application({**environ, **change}, lambda *given: sent.append(given)))
    assert sent[0][0].startswith(str(status)), sent[0]
    Reader(body.decode())


def test_answers_are_as_wsgi_has_them(backend: Backend) -> None:
    """Pages, files, redirects and refusals keep the rules that wsgiref checks."""
    backend.listen("mails", print)
    job = backend.enqueue("mails", {"a": 1})
    client = Client(validator(client_of(backend).application))
    for path in [*GETS, "", "nothing", "static/neoq.css", f"job?id={job.id}", f"download?id={job.id}"]:
        for method in ("GET", "HEAD", "PUT"):
            with client.open(f"/{path}", method=method) as answer:
                answer.get_data()
    for headers in (SAME, {}):
        with client.post("/act", data={"action": "pause", "queue": "mails"}, headers=headers) as answer:
            answer.get_data()
