"""No password of a URL is ever shown, however it is written and whatever goes wrong with it."""

from __future__ import annotations

import copy
import dataclasses
import logging
import pickle
import pprint
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import neoq
from neoq.wording.redact import Hider, Url, misread, shown

SECRET = "S3cretMarker"
PLACES = (
    "redis://app:{}@127.0.0.1:1/0",
    "rediss://:{}@127.0.0.1:1/0",
    "redis+unix://app:{}@/no/such.sock",
    "redis+sentinel://app:{}@127.0.0.1:1/m",
    "redis+cluster://app:{}@127.0.0.1:1",
    "postgresql://app:{}@127.0.0.1:1/shop?connect_timeout=2",
    "postgres://app:{}@127.0.0.1:1,127.0.0.1:2/shop",
    "postgresql://127.0.0.1:1/shop?user=app&password={}",
)
HOSTILE = (
    "/ ? # % @ [ ] : + = & ; , \\ ' \" ! $ * ( ) < > ^ ` { | } ~ % \t \n \x00 \x1b \ud800 é ℀ \uff1a".split(
        " "
    )
)
PARTS = ("SEC{}RET", "{}SECRET", "SECRET{}", "SEC{0}{0}RET", "SEC[1]{}RET", "SEC%2F{}RET", "SEC{}user=RET")


def told_by(call: Callable[[], Any]) -> str:
    """All that a call says: its result, or its error with everything that is chained to it."""
    try:
        result = call()
    except Exception as error:
        if not isinstance(error, neoq.NeoqError):
            raise
        return "\n".join(
            [repr(error), str(error), repr(vars(error)), *traceback.format_exception(error), *_chain(error)]
        )
    return repr(result)


def _chain(error: BaseException | None) -> Iterator[str]:
    """Also what a traceback leaves out, since other tools show it."""
    while error is not None:
        yield f"{error!r} {error} {error.args!r}"
        error = error.__cause__ or error.__context__


def said_of(url: Any, *, uses: bool) -> str:
    """All that is said by the calls that take a URL."""
    options: dict[str, Any] = {"autostart": False}
    if isinstance(url, str) and url.startswith("redis"):
        options["socket_timeout"] = 0.5

    def make() -> str:
        backend = neoq.connect(url, **options)
        config = backend.config
        said = (
            f"{backend!r} {backend} {config!r} {vars(config)} {dataclasses.asdict(config)} {config.changed()}"
        )
        logging.getLogger("neoq.test").warning("settings %s of %r", config, backend)
        said += (
            pprint.pformat(config)
            + repr(copy.deepcopy(config))
            + repr(pickle.loads(pickle.dumps(url)) == url)
        )
        if uses:
            said += told_by(lambda: backend.enqueue("q", {}))
        return said

    return told_by(make)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("sign", HOSTILE, ids=ascii)
def test_a_password_as_it_is(place: str, sign: str, caplog: pytest.LogCaptureFixture) -> None:
    """A password pasted into a URL as it is works or is refused with how to write it, and is never shown."""
    for part in PARTS:
        if "&" in sign and "password={}" in place:
            continue  # what follows is another setting, as far as anybody can tell
        url = place.format(part.format(sign))
        said = said_of(url, uses=False) + caplog.text
        for half in ("SEC", "RET"):
            assert half not in said, url


@pytest.mark.parametrize("sign", ["/", "?", "#", "@", "[", "]", " ", "%"])
@pytest.mark.parametrize("place", PLACES[:7])
def test_what_is_refused_says_how_to_write_it(place: str, sign: str) -> None:
    """The error for a password with characters of URLs in it tells their codes."""
    with pytest.raises(neoq.ConfigError, match="%2F") as caught:
        neoq.connect(place.format(f"SEC{sign}RET"), autostart=False)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    neoq.connect(place.format(quote(f"SEC{sign}RET", safe="")), autostart=False)


@pytest.mark.parametrize("place", PLACES)
def test_a_server_that_is_not_there(place: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is said of a server that cannot be reached, by us or by the driver, holds no password."""
    said = said_of(place.format(SECRET), uses=True) + caplog.text
    assert "Unavailable" in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "url",
    [
        f"postgress://app:{SECRET}@h/d",
        f"://app:{SECRET}@h/d",
        f"redis//app:{SECRET}@h/0",
        f"redis:/app:{SECRET}@h/0",
        f"redis:app:{SECRET}@h/0",
        f"app:{SECRET}@h:6379",
        f"app:{SECRET}@h/jobs.db",
        f"app:{SECRET}://h",
        f"'redis://app:{SECRET}@h/0'",
        f"mysql://app:{SECRET}@h/0",
        f"memory://app:{SECRET}@h",
        f"memory://app:12?{SECRET}@h",
        f"memory://?concurrency={SECRET}@h",
        f"sqlite://app:{SECRET}@h/jobs.db",
        f"redis://app:{SECRET}",
        f"redis://app:12?concurrency={SECRET}@h/0",
        f"redis://app:12?db={SECRET}&x@h/0",
        f"redis://h/0?password={SECRET}",
        f"redis://{SECRET}@127.0.0.1:1/0",
        f"postgresql://app:12?{SECRET}=1@h/d",
        f"postgresql://app:12?port={SECRET}@h/d",
        f"postgresql://h/d?password={SECRET}&port=x",
        f"postgresql://h:x/d?password={SECRET}",
        f"postgresql://h/d?passwrod={SECRET}",
        f"host=h dbname=d password={SECRET}",
        f"redis+sentinel://app:{SECRET}@h1,app:{SECRET}@h2/m",
        f"redis+sentinel://app:{SECRET}@h1",
        f"redis+cluster://app:{SECRET}@h1/7",
        f"redis://app:{SECRET}@h:port/0",
        f"redis://app:{SECRET}@/one",
        f"redis://app:{SECRET}@[::1/0",
        f"postgresql://app:{SECRET}@[::1/0",
        f"redis://app:{SECRET}@h/0?concurrency=0",
        f"redis://app:{SECRET}@h/0 " + "x" * 10,
        b"redis://app:%b@h/0" % SECRET.encode(),
        [f"redis://app:{SECRET}@h/0"],
        {"url": f"redis://app:{SECRET}@h/0"},
        (f"redis://app:{SECRET}@h/0",),
        Path(f"redis://app:{SECRET}@h/0"),
    ],
    ids=ascii,
)
def test_a_url_that_is_wrong(url: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A slip beside the password, or a URL of another type, does not make the error repeat it."""
    # Without a :// it is the name of a file to SQLite.
    makers: list[Callable[..., Any]] = [neoq.PostgresBackend, neoq.RedisBackend]
    if isinstance(url, str) and "://" in url:
        makers.append(neoq.SqliteBackend)
    said = said_of(url, uses=False) + told_by(lambda: neoq.connect(environ={"NEOQ_URL": url}))
    for make in makers:
        said += told_by(lambda make=make: make(url))
        said += told_by(
            lambda make=make: make(url=url, concurrency=0) if make is not neoq.SqliteBackend else 0
        )
    assert SECRET not in said + caplog.text


@pytest.mark.parametrize("text", ["{}", "'{}'", "{} x", "'{}", "'it''s {}'", r"\ {}"])
@pytest.mark.parametrize(
    "rest", ["host=127.0.0.1 port=1 dbname=d", "host", "port=x", "colour=red", "port='1"]
)
def test_a_connection_string(text: str, rest: str, caplog: pytest.LogCaptureFixture) -> None:
    """Connection strings of libpq's own are taken, and their password is shown as little as a URL's."""
    conninfo = f"password={text.format(SECRET)} {rest}"

    def use() -> str:
        backend = neoq.PostgresBackend(conninfo, autostart=False)
        return f"{backend!r} {backend.config!r} {told_by(lambda: backend.enqueue('q'))}"

    assert SECRET not in told_by(use) + caplog.text


def test_a_config_of_a_well_written_url_still_works() -> None:
    """A URL that hides itself in reprs is the text that was given, also in a copy or out of a pickle."""
    url = f"redis://app:{SECRET}@h:6380/0"
    config = neoq.connect(url, autostart=False).config
    for held in (config.url, copy.deepcopy(config.url), pickle.loads(pickle.dumps(config.url))):  # type: ignore[attr-defined]
        assert held == url
        assert isinstance(held, Url)
        assert repr(held) == "'redis://***@h:6380/0'"


@contextmanager
def server_that_answers(reply: bytes) -> Iterator[int]:
    """A server that gives one answer to whatever it is told."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    try:
                        if connection.recv(65536):
                            connection.sendall(reply)
                            connection.recv(65536)
                    except OSError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_server_that_repeats_the_password(caplog: pytest.LogCaptureFixture) -> None:
    """An old server, or a proxy, answers AUTH with what it was told; nothing passes that on."""
    reply = f"-ERR unknown command `AUTH`, with args beginning with: `app`, `{SECRET}`,\r\n".encode()
    with server_that_answers(reply) as port:
        said = said_of(f"redis://app:{SECRET}@127.0.0.1:{port}/0", uses=True)
    assert "unknown command" in said
    assert SECRET not in said + caplog.text


def test_a_plus_is_a_plus() -> None:
    """In the query of a URL a + is no blank: passwords and paths have it."""
    backend = neoq.connect("postgresql:///d?password=a+b%2B%20c&host=/run/a+b", autostart=False)
    assert isinstance(backend, neoq.PostgresBackend)
    given_to_libpq = psycopg.conninfo.conninfo_to_dict(backend.config.url)
    assert given_to_libpq == {"dbname": "d", "password": "a+b+ c", "host": "/run/a+b"}
    redis = neoq.connect("redis://h/0?prefix=a+b", autostart=False)
    assert isinstance(redis, neoq.RedisBackend)
    assert redis.config.prefix == "a+b"


def test_an_at_that_is_in_its_place_is_taken() -> None:
    """The name of a file, and a value of a setting, may hold an @."""
    sqlite = neoq.connect("sqlite:////srv/me@work/jobs.db", autostart=False)
    assert isinstance(sqlite, neoq.SqliteBackend)
    assert sqlite.config.path == "/srv/me@work/jobs.db"
    postgres = neoq.connect("postgresql://h:5432/d?user=me@corp&application_name=a@b", autostart=False)
    assert isinstance(postgres, neoq.PostgresBackend)
    assert psycopg.conninfo.conninfo_to_dict(postgres.config.url)["user"] == "me@corp"
    assert misread("redis://u:p@h/0?prefix=a@b") is None


def test_a_short_password_spoils_no_message() -> None:
    """Only the password goes out of a text: one of a letter is no reason to mask every such letter."""
    assert Hider(["a", "ok"]).text("a bad apple: 'a' is ok, look") == "*** bad apple: '***' is ***, look"
    assert Hider([None, ""]).text("as it is") == "as it is"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://u:p@h/0?prefix=x", "redis://***@h/0?prefix=x"),
        ("postgresql://h/d?sslmode=require&password=x", "postgresql://h/d?sslmode=require&password=***"),
        ("redis://a,b:1,[::1]:2/0", "redis://a,b:1,[::1]:2/0"),
        ("host=h password=x", "***"),
    ],
)
def test_a_url_as_it_is_shown(url: str, said: str) -> None:
    """Of a URL everything is shown that helps to find the server, and nothing that opens it."""
    assert shown(url) == said


# ------------------------------------------------------------------------------------------- any URL at all

_pieces = st.lists(
    st.sampled_from(
        [
            *HOSTILE,
            SECRET,
            SECRET,
            "%2F",
            "%40",
            "%ZZ",
            "a",
            "1",
            "://",
            "@h",
            "&",
            "=",
            "password=",
            "[::1]",
            "//",
        ]
    ),
    max_size=5,
).map("".join)
_schemes = st.sampled_from(
    "memory sqlite postgres postgresql redis rediss redis+unix redis+sentinel rediss+sentinel".split()
    + "redis+cluster rediss+cluster mysql postgress postgresql+psycopg REDIS unix".split()
)


@st.composite
def urls(draw: st.DrawFn) -> str:
    """URLs with anything in any part, and a password with the marker in it before their last @."""
    password = draw(_pieces) + SECRET + draw(_pieces)
    user = draw(st.sampled_from(["app", "", "a%20b"]) | _pieces)
    host = draw(st.sampled_from(["127.0.0.1", "h", "", "[::1]", "h1,h2", "[::1", "h:x"]))
    port = draw(st.sampled_from(["", ":1", ":99999", ":x", ":"]))
    path = draw(st.sampled_from(["", "/", "/0", "/d", "/m/0", "/one/two"]))
    query = draw(
        st.sampled_from(
            ["", "?concurrency=0", "?colour=red", "?db=x", "?db=1&db=2", "?sslmode=require", "?%", "?a=%zz"]
        )
    )
    separator = draw(st.sampled_from(["://"] * 8 + [":/", "//", ":", ""]))
    return f"{draw(_schemes)}{separator}{user}:{password}@{host}{port}{path}{query}"


def check_url(url: str) -> None:
    """Nothing that is said of a URL holds the marker."""
    heard: list[str] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(self.format(record))

    ear = Ear()
    logging.getLogger().addHandler(ear)
    try:
        said = told_by(lambda: _config_of(url))
        said += told_by(lambda: neoq.connect(environ={"NEOQ_URL": url}, autostart=False))
        for backend in (neoq.PostgresBackend, neoq.RedisBackend):
            said += told_by(lambda backend=backend: repr(backend(url, autostart=False).config))
        if misread(url) is not None:
            said += told_by(lambda: neoq.migrate(url))
    finally:
        logging.getLogger().removeHandler(ear)
    assert SECRET not in said + "\n".join(heard), url


def _config_of(url: str) -> str:
    backend = neoq.connect(url, autostart=False)
    config = backend.config
    logging.getLogger("neoq.test").warning("%s %r", config, backend)
    if isinstance(backend, neoq.SqliteBackend):
        return ""  # the name of a file is no secret
    return f"{backend!r} {config!r} {vars(config)!r} {dataclasses.asdict(config)!r}"


_fuzz = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None)


@given(urls())
@settings(_fuzz, max_examples=100)
@example(f"redis://app:1?x={SECRET}@h")
@example(f"postgresql://app:{SECRET}?user=1@h/d")
def test_no_url_shows_its_password(url: str) -> None:
    """Whatever stands in which part of a URL, its password is not repeated."""
    check_url(url)


@pytest.mark.faults
@pytest.mark.timeout(600)
@given(urls())
@settings(_fuzz, max_examples=5_000)
def test_no_url_shows_its_password_at_length(url: str) -> None:
    """The same with a great many URLs."""
    check_url(url)
