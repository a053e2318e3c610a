"""Requests that another site sends with the browser of an operator are refused; those of a page are not."""

from __future__ import annotations

from typing import Any

import pytest

from neoq.dashboard import forgery
from neoq.dashboard.proxies import behind

POST = {"REQUEST_METHOD": "POST", "HTTP_HOST": "ops.example.com", "wsgi.url_scheme": "http"}
HTTPS = {**POST, "wsgi.url_scheme": "https"}


@pytest.mark.parametrize(
    "environ",
    [
        {**HTTPS, "HTTP_SEC_FETCH_SITE": "same-origin"},
        {**POST, "HTTP_SEC_FETCH_SITE": "same-origin", "HTTP_ORIGIN": "https://ops.example.com"},
        {**POST, "HTTP_HOST": "localhost:8080", "HTTP_SEC_FETCH_SITE": "same-origin"},
        {**POST, "HTTP_HOST": "10.0.0.5:8080", "HTTP_ORIGIN": "http://10.0.0.5:8080"},
        {**POST, "HTTP_HOST": "box.local", "HTTP_ORIGIN": "http://box.local"},
        {**POST, "HTTP_HOST": "[fd00::1]:8080", "HTTP_ORIGIN": "http://[fd00::1]:8080"},
        {**POST, "HTTP_HOST": "OPS.example.com:80", "HTTP_ORIGIN": "http://ops.example.com"},
        {**POST, "HTTP_ORIGIN": "https://ops.example.com"},  # a proxy ended TLS
        {**POST, "HTTP_ORIGIN": "https://ops.example.com", "SCRIPT_NAME": "/ops/jobs"},
    ],
    ids=str,
)
def test_a_page_of_the_dashboard_may_post(environ: dict[str, str]) -> None:
    """A form passes over https, localhost, plain http in a private net, under a prefix, behind TLS."""
    assert forgery.refusal_of(environ, {}) is None


def test_a_proxy_that_changes_the_host_passes_when_it_is_trusted() -> None:
    """Behind a proxy that asks for another host a form passes by X-Forwarded-Host."""
    changed = {**POST, "HTTP_HOST": "127.0.0.1:8000", "HTTP_ORIGIN": "http://10.0.0.5"}
    assert "trusted_proxies" in str(forgery.refusal_of(changed, {}))
    trusted = behind({**changed, "HTTP_X_FORWARDED_FOR": "10.0.0.9", "HTTP_X_FORWARDED_HOST": "10.0.0.5"}, 1)
    assert forgery.refusal_of(trusted, {}) is None


@pytest.mark.parametrize(
    "environ",
    [
        {**HTTPS, "HTTP_SEC_FETCH_SITE": "cross-site"},
        {**HTTPS, "HTTP_SEC_FETCH_SITE": "same-site", "HTTP_ORIGIN": "https://ops.example.com"},
        {**HTTPS, "HTTP_SEC_FETCH_SITE": "none"},
        {**HTTPS, "HTTP_SEC_FETCH_SITE": "Same-Origin, cross-site"},
        {**HTTPS, "HTTP_SEC_FETCH_SITE": ""},
        {**HTTPS, "HTTP_ORIGIN": "http://ops.example.com"},
        {**POST, "HTTP_ORIGIN": "http://evil.com"},
        {**POST, "HTTP_ORIGIN": "http://ops.example.com.evil.com"},
        {**POST, "HTTP_ORIGIN": "http://ops.example.com@evil.com"},
        {**POST, "HTTP_ORIGIN": "http://ops.example.com:81"},
        {**POST, "HTTP_ORIGIN": "http://ops.example.com:x"},
        {**POST, "HTTP_ORIGIN": "file://"},
        {**POST, "HTTP_ORIGIN": ""},
        {**POST, "HTTP_ORIGIN": "null"},
        {**POST, "HTTP_ORIGIN": "http://", "HTTP_HOST": ""},
        POST,
        {**POST, "REQUEST_METHOD": "DELETE"},
        {**POST, "REQUEST_METHOD": "get"},
    ],
    ids=str,
)
def test_another_site_may_not_post(environ: dict[str, str]) -> None:
    """A request of another site, of another port, or of nobody knows where, is refused."""
    assert forgery.refusal_of(environ, {forgery.FIELD: "x" * 32}, {"neoq_token": "y" * 32})


@pytest.mark.parametrize("environ", [POST, HTTPS, {**POST, "HTTP_ORIGIN": "null"}], ids=str)
def test_the_token_of_the_form_lets_an_old_browser_in(environ: dict[str, str]) -> None:
    """Without the headers of today the token of the form has to be the one of the cookie."""
    token, cookie = forgery.token_of(environ)
    assert cookie is not None
    assert ("Secure" in cookie) is (environ["wsgi.url_scheme"] == "https")
    assert "; HttpOnly; SameSite=Strict" in cookie
    sent = {**environ, "HTTP_COOKIE": 'odd={"a": 1}; =; ' + cookie.partition(";")[0]}
    assert forgery.token_of(sent) == (token, None)
    assert forgery.refusal_of(sent, {forgery.FIELD: token}) is None
    for wrong in ["", token[:-1], "é" * 32, "\ud800"]:
        assert forgery.refusal_of(sent, {forgery.FIELD: wrong})
    assert forgery.refusal_of(environ, {forgery.FIELD: token})
    assert forgery.refusal_of(
        {**environ, "HTTP_COOKIE": "neoq_token=; __Host-neoq_token="}, {forgery.FIELD: ""}
    )


def test_a_cookie_of_a_sister_site_is_no_token_over_https() -> None:
    """Over https only a cookie that no other host can set counts."""
    token = "x" * 32
    assert forgery.refusal_of({**HTTPS, "HTTP_COOKIE": f"neoq_token={token}"}, {forgery.FIELD: token})


@pytest.mark.parametrize(
    ("site", "mode", "passes"),
    [
        (None, None, True),
        ("none", "navigate", True),
        ("cross-site", "navigate", True),
        ("same-origin", "cors", True),
        ("cross-site", "no-cors", False),
        ("same-site", "cors", False),
    ],
)
def test_another_site_may_link_and_not_load(site: Any, mode: Any, passes: bool) -> None:
    """A link from elsewhere is followed; what another site embeds or fetches is refused."""
    environ: dict[str, Any] = {**HTTPS, "REQUEST_METHOD": "GET"}
    environ |= {} if site is None else {"HTTP_SEC_FETCH_SITE": site, "HTTP_SEC_FETCH_MODE": mode}
    assert (forgery.refusal_of(environ, {}) is None) is passes
