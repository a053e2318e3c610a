"""Redis over TLS: what is verified of a server and of sentinels, and with what they are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.cluster
import redis.sentinel

import neoq
from tests.servers import RedisServer, running_server
from tests.tls import Certificate, sentinel, tls_before

AOF = ("--appendonly", "yes", "--appendfsync", "no", "--loglevel", "warning")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that the tests of this module share."""
    with running_server(*AOF) as server:
        yield server


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of the host that the tests use."""
    return Certificate(tmp_path_factory.mktemp("good"), "DNS:localhost", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate of another host."""
    return Certificate(tmp_path_factory.mktemp("elsewhere"), "DNS:elsewhere.example")


def enqueued(url: str, **options: Any) -> bool:
    with neoq.connect(url, autostart=False, **options) as backend:
        return bool(backend.enqueue("q").id)


def test_a_server_with_its_certificate(server: RedisServer, good: Certificate) -> None:
    """A server is reached over TLS with the certificates of tls_ca."""
    with tls_before(server.port, good) as port:
        assert enqueued(f"rediss://localhost:{port}?tls_ca={good.file}")
        assert enqueued(f"rediss://127.0.0.1:{port}", tls_ca=str(good.file))


def test_a_server_that_nobody_vouches_for(server: RedisServer, good: Certificate) -> None:
    """A certificate that is signed by nobody we trust is refused, with what to do."""
    with tls_before(server.port, good) as port:
        for verify in ("full", "certificate"):
            with pytest.raises(neoq.BackendUnavailable, match="tls_ca and tls_verify"):
                enqueued(f"rediss://127.0.0.1:{port}?tls_verify={verify}")
        assert enqueued(f"rediss://127.0.0.1:{port}?tls_verify=none")


def test_the_certificate_of_another_host(server: RedisServer, elsewhere: Certificate) -> None:
    """A good certificate of another host is refused, unless only the certificate is to be verified."""
    with tls_before(server.port, elsewhere) as port:
        url = f"rediss://127.0.0.1:{port}?tls_ca={elsewhere.file}"
        with pytest.raises(neoq.BackendUnavailable, match="another host's"):
            enqueued(url)
        assert enqueued(f"{url}&tls_verify=certificate")
        assert enqueued(f"{url}&tls_verify=none")


def test_a_server_without_tls(server: RedisServer) -> None:
    """Where a server does not speak TLS the error says so, and nothing is sent in the clear."""
    with pytest.raises(neoq.BackendUnavailable, match=r"speak TLS|cannot reach"):
        enqueued(f"rediss://127.0.0.1:{server.port}", socket_timeout=1)


def test_sentinels_over_tls(server: RedisServer, good: Certificate) -> None:
    """Sentinels of a rediss+sentinel:// URL are spoken to over TLS, with a user and password of their own."""
    heard: list[list[str]] = []
    with ExitStack() as stack:
        master = stack.enter_context(tls_before(server.port, good))
        port = stack.enter_context(sentinel(master, heard, good))
        url = f"rediss+sentinel://127.0.0.1:{port}/mymaster?tls_ca={good.file}"
        assert enqueued(f"{url}&sentinel_username=watch&sentinel_password=s3cret")
        assert ["AUTH", "watch", "s3cret"] in heard
        assert enqueued(url)
        with pytest.raises(neoq.BackendUnavailable):
            enqueued(f"rediss+sentinel://127.0.0.1:{port}/mymaster")


def test_sentinels_in_the_clear_are_refused(server: RedisServer, good: Certificate) -> None:
    """A sentinel without TLS hears neither a password nor a question of a rediss+sentinel:// URL."""
    heard: list[list[str]] = []
    with sentinel(server.port, heard, None) as port:
        url = f"rediss+sentinel://127.0.0.1:{port}/mymaster?sentinel_password=s3cret"
        with pytest.raises(neoq.BackendUnavailable) as caught:
            enqueued(url, socket_timeout=0.5)
    assert "s3cret" not in f"{heard}{caught.value}{caught.value.__cause__!r}"


def test_sentinels_with_a_password(server: RedisServer) -> None:
    """Sentinels have a password of their own, also without TLS; it is shown nowhere."""
    heard: list[list[str]] = []
    with sentinel(server.port, heard, None) as port:
        url = f"redis+sentinel://127.0.0.1:{port}/mymaster?sentinel_password=s3cret"
        assert enqueued(url)
        assert ["AUTH", "s3cret"] in heard
        backend = neoq.connect(url, autostart=False)
        assert "s3cret" not in f"{backend!r} {backend.config!r} {vars(backend.config)}"


@pytest.mark.parametrize("verify", ["full", "certificate", "none"])
@pytest.mark.parametrize("kind", ["rediss://h", "rediss+sentinel://h/m", "rediss+cluster://h"])
def test_what_the_driver_is_told(kind: str, verify: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is told outright what to verify, whatever its version takes for granted."""
    told: list[dict[str, Any]] = []

    class Stop(redis.RedisError):
        pass

    def keep(*_: Any, **options: Any) -> Any:
        told.extend([options, *([options["sentinel_kwargs"]] if "sentinel_kwargs" in options else [])])
        raise Stop

    class Master(redis.sentinel.Sentinel):
        def master_for(self, *_: Any, **options: Any) -> Any:
            keep(**options, sentinel_kwargs=self.sentinel_kwargs)

    monkeypatch.setattr(redis, "Redis", keep)
    monkeypatch.setattr(redis.sentinel, "Redis", lambda *_, **__: None)
    monkeypatch.setattr(redis.sentinel, "Sentinel", Master)
    monkeypatch.setattr("neoq.redis.client.Cluster", keep)
    with pytest.raises(neoq.BackendError):
        neoq.connect(f"{kind}?tls_verify={verify}", autostart=False).enqueue("q")
    assert told
    for options in told:
        assert options["ssl"] is True
        assert options["ssl_check_hostname"] is (verify == "full")
        assert options["ssl_cert_reqs"] == ("none" if verify == "none" else "required")
    assert "ssl_check_hostname" in redis.cluster.REDIS_ALLOWED_KEYS or "cluster" not in kind


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://h?tls_verify=none", "without TLS: write rediss://"),
        ("redis+cluster://h?tls_verify=none", "without TLS: write rediss\\+cluster://"),
        ("redis://h?sentinel_password=x", "no sentinels"),
        ("rediss://h?tls_verify=maybe", "one of full, certificate, none"),
        ("rediss://h?tls_ca=/no/such/file", "no such file"),
        ("rediss://h?ssl_cert_reqs=none", "write tls_verify="),
        ("rediss://h?ssl_ca_certs=x", "write tls_ca"),
    ],
)
def test_settings_that_would_not_hold(url: str, problem: str) -> None:
    """A setting of TLS or of sentinels that this URL has no use for is refused, never ignored."""
    with pytest.raises(neoq.ConfigError, match=problem):
        neoq.connect(url)


def test_a_file_is_needed(tmp_path: Path) -> None:
    """A folder is no file with certificates."""
    with pytest.raises(neoq.ConfigError, match="no such file"):
        neoq.RedisBackend("rediss://h", tls_ca=str(tmp_path))
