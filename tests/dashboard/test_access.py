"""Who may look at the dashboard and act: the answer of `access=`, and of the dashboard without one."""

from __future__ import annotations

import base64
import logging
from typing import Any

import pytest

from neoq.dashboard.access import RIGHTS, Access, Granted, Loopback, Password, rights_of

LOCAL = {"REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost:8080", "REQUEST_METHOD": "GET"}
REMOTE = {**LOCAL, "REMOTE_ADDR": "10.0.0.7", "HTTP_HOST": "ops.example.com"}


def granted(answer: Any, environ: dict[str, Any] = REMOTE) -> Granted:
    return rights_of(environ, lambda _: answer)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]", "[::1]:8080"])
def test_this_machine_may_read_without_access(address: str, host: str) -> None:
    """Without access= a local request may read everything and change nothing."""
    its = rights_of({**LOCAL, "REMOTE_ADDR": address, "HTTP_HOST": host})
    assert its.refusal is None
    assert its.may_read("any")
    assert not any(its.may(right, "any") or its.may_somewhere(right) for right in RIGHTS)


@pytest.mark.parametrize(
    "change",
    [
        {"REMOTE_ADDR": "10.0.0.7"},
        {"REMOTE_ADDR": ""},
        {"REMOTE_ADDR": "127.0.0.1.evil.com"},
        {"HTTP_HOST": "evil.com"},
        {"HTTP_HOST": "localhost.evil.com"},
        {"HTTP_HOST": "evil.com:localhost"},
        {"HTTP_HOST": "[::1].evil.com"},
        {"HTTP_HOST": ""},
        {"HTTP_X_FORWARDED_FOR": "127.0.0.1"},
        {"HTTP_VIA": "1.1 proxy"},
        {"SERVER_PROTOCOL": "HTTP/1.0"},
    ],
    ids=str,
)
def test_others_are_refused_without_access(change: dict[str, str]) -> None:
    """Without access= another address, a rebound name and a proxy are refused, and access= is named."""
    its = rights_of({**LOCAL, **change})
    assert "access=" in str(its.refusal)
    assert not its.may_read()
    assert not its.may_read("any")


@pytest.mark.parametrize(
    ("answer", "reads", "rights"),
    [
        ("none", False, set()),
        ("read", True, set()),
        (set(), True, set()),
        ({"retry", "read"}, True, {"retry"}),
        (["retry", "delete"], True, {"retry", "delete"}),
        (RIGHTS, True, RIGHTS),
        (Access({"run"}, user="ada"), True, {"run"}),
    ],
    ids=["none", "read", "nothing more", "a set", "a list", "all", "an Access"],
)
def test_an_answer_holds_for_every_queue(answer: Any, reads: bool, rights: set[str]) -> None:
    """What access= returns is what its sender may do, on every queue and nothing more."""
    its = granted(answer)
    assert (its.refusal is None, its.may_read(), its.may_read("any"), its.sees_something) == (reads,) * 4
    assert {right for right in RIGHTS if its.may(right) and its.may(right, "any")} == set(rights)


def test_rights_may_be_given_by_queue() -> None:
    """A mapping gives each queue its rights; a right on all of them is asked of each."""
    its = granted(Access({"mails": {"retry"}, "secret": "none", "*": "read"}, user="ada"))
    assert its.readable(["mails", "secret", "other"]) == ["mails", "other"]
    assert its.sees_something
    assert not its.may_read()
    assert its.may("retry", "mails")
    assert its.may_somewhere("retry")
    assert not its.may("retry", "other")
    assert not its.may("retry")
    only = granted({"mails": RIGHTS})
    assert only.readable(["mails", "other"]) == ["mails"]
    assert not only.may("retry")
    assert granted({"mails": "none"}).refusal


@pytest.mark.parametrize(
    "answer", [None, True, "retry", "admin", {"rule"}, {"a": "all"}, {"a": {"b": "read"}}, 7, b"read", [[]]]
)
def test_a_wrong_answer_lets_nobody_in(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An access= that returns something else than it may refuses everybody, and the log says what it was."""
    its = granted(answer, LOCAL)
    assert its.refusal
    assert not its.may_read("any")
    assert "access= of the dashboard returned" in caplog.text


def test_an_access_that_raises_lets_nobody_in(caplog: pytest.LogCaptureFixture) -> None:
    """An access= that raises refuses its request, and the log has the traceback but not the query."""

    def fails(environ: Any) -> Any:
        raise KeyError("session")

    with caplog.at_level(logging.ERROR):
        its = rights_of({**LOCAL, "PATH_INFO": "/jobs", "QUERY_STRING": "q=hunter2"}, fails)
    assert its.refusal
    assert not its.may_read()
    assert "KeyError" in caplog.text
    assert "hunter2" not in caplog.text


def test_the_user_is_that_of_access_or_of_the_server() -> None:
    """The user of the record is the one of Access, else REMOTE_USER, as one line of text."""
    environ = {**REMOTE, "REMOTE_USER": "bob", "HTTP_REMOTE_USER": "forged"}
    assert granted(Access("read", user="ada"), environ).user == "ada"
    assert granted("read", environ).user == "bob"
    assert granted("read").user is None
    assert granted(Access("read", user="a\nb\x1b\ud800" + "x" * 500)).user == "a?b??" + "x" * 95


def test_a_password_lets_in() -> None:
    """A user who sends the password has the rights, and anybody else is asked for it."""

    def sends(value: str | None) -> Granted:
        header = {} if value is None else {"HTTP_AUTHORIZATION": value}
        return rights_of({**REMOTE, **header}, Password("pä:ss", {"retry"}))

    def basic(text: str) -> str:
        return "Basic " + base64.b64encode(text.encode()).decode()

    its = sends(basic("ada:pä:ss"))
    assert its.may("retry")
    assert its.user == "ada"
    for value in [
        None,
        "",
        "Basic",
        "Basic !!",
        "Bearer x",
        basic("ada:"),
        basic("ada:pä:ssx"),
        basic("pä:ss"),
    ]:
        refused = sends(value)
        assert refused.refusal
        assert refused.challenge
        assert not refused.may_read()


def test_an_empty_password_is_refused() -> None:
    """A password that everybody knows is an error when it is given, not an open door."""
    with pytest.raises(ValueError, match="empty"):
        Password("", RIGHTS)


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [
        (0, "6.6.6.6", "10.0.0.7"),
        (1, "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        (2, "6.6.6.6, 1.2.3.4, 5.5.5.5", "1.2.3.4"),
        (2, "1.2.3.4", ""),
        (1, "", ""),
    ],
)
def test_only_trusted_proxies_say_where_a_request_comes_from(
    proxies: int, forwarded: str, address: str
) -> None:
    """The address is the one that the first trusted proxy saw; the client's own additions do not count."""
    seen: list[Any] = []
    environ = {**REMOTE, **({"HTTP_X_FORWARDED_FOR": forwarded} if forwarded else {})}
    rights_of(environ, lambda its: seen.append(its["REMOTE_ADDR"]) or "read", proxies)
    assert seen == [address]


def test_a_trusted_proxy_gives_host_scheme_and_prefix() -> None:
    """X-Forwarded-Host, -Proto and -Prefix are taken from a trusted proxy, unless they are malformed."""
    seen: list[Any] = []
    forwarded = {"FOR": "1.2.3.4", "HOST": "ops.example.com", "PROTO": "https", "PREFIX": "/ops/"}
    environ = {**LOCAL, "SCRIPT_NAME": "/jobs", "wsgi.url_scheme": "http"}
    rights_of({**environ, **{f"HTTP_X_FORWARDED_{k}": v for k, v in forwarded.items()}}, seen.append, 1)
    bad = {"FOR": "1.2.3.4", "HOST": "a/b", "PROTO": "javascript", "PREFIX": "//evil.com"}
    rights_of({**environ, **{f"HTTP_X_FORWARDED_{k}": v for k, v in bad.items()}}, seen.append, 1)
    what = [(one["HTTP_HOST"], one["wsgi.url_scheme"], one["SCRIPT_NAME"]) for one in seen]
    assert what == [("ops.example.com", "https", "/ops/jobs"), ("localhost:8080", "http", "/jobs")]


def test_the_rights_of_this_machine_can_be_widened() -> None:
    """Loopback gives a local request the rights that it is made with, and others none."""
    assert rights_of(LOCAL, Loopback({"retry"})).may("retry")
    assert "access=" in str(rights_of(REMOTE, Loopback({"retry"})).refusal)
