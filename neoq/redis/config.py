"""The settings of RedisBackend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from neoq.config import OPTIONAL_TEXT, SECRET, Config, Kind, Settings, count, setting, span, url_kind
from neoq.redis.address import Address
from neoq.wording.redact import misread, shown


def _prefix(value: Any) -> str:
    if not isinstance(value, str) or not value or set(value) & set("{}:") or not value.isprintable():
        raise ValueError(value)
    return value


class Choice(Kind):
    """Words, of which none is one."""

    def read(self, value: Any) -> Any:
        """The word that was given."""
        return self.parse(value)


def _verify(value: Any) -> str:
    if value not in VERIFY:
        raise ValueError(value)
    return str(value)


class RedisSettings(Settings, total=False):
    """The keywords of `RedisBackend` beside its URL."""

    db: int | None
    prefix: str
    socket_timeout: timedelta | float
    wait_replicas: int
    tls_ca: str | None
    tls_cert: str | None
    tls_key: str | None
    tls_verify: Literal["full", "certificate", "none"]
    sentinel_username: str | None
    sentinel_password: str | None


@dataclass(frozen=True)
class RedisConfig(Config):
    """The settings of `RedisBackend`: those of every backend, and the server's."""

    of_others = {  # noqa: RUF012  # as in Config
        **dict.fromkeys(
            ("password", "username", "user"), "write it in the URL: redis://user:password@host:6379/0"
        ),
        **dict.fromkeys(("ssl", "tls"), "write rediss://host:6379/0"),
        **dict.fromkeys(
            ("ssl_cert_reqs", "ssl_check_hostname", "verify", "insecure"),
            "write tls_verify=full (also the default), certificate (any host name) or none (insecure)",
        ),
        **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_cafile"), "write tls_ca, a file"),
        "ssl_certfile": "write tls_cert, a file",
        "ssl_keyfile": "write tls_key, a file",
        **dict.fromkeys(("host", "port"), "write redis://host:6379/0"),
        **dict.fromkeys(
            ("service_name", "master_name", "master"), "write redis+sentinel://host:26379/mymaster"
        ),
        **dict.fromkeys(
            "socket_connect_timeout timeout_connect health_check_interval retry_on_timeout".split(),
            "see socket_timeout; what may be repeated is repeated by itself",
        ),
        **dict.fromkeys(
            """decode_responses encoding encoding_errors max_connections protocol client_name socket_keepalive
            virtual_host db_number single_connection_client connection_class""".split(),
            "leave it out: neoq opens its connections as it needs them",
        ),
    }

    url: str = setting(
        "redis://localhost:6379/0",
        url_kind("a URL such as redis://localhost:6379/0"),
        "The server: redis://, rediss:// (TLS), redis+unix://, redis+sentinel://, redis+cluster://.",
    )
    db: int | None = setting(
        None, count(0, none=True), "The number of the database, where the URL does not end in it."
    )
    prefix: str = setting(
        "neoq", Kind("printable characters without { } :", _prefix), "What all keys begin with, in braces."
    )
    socket_timeout: float = setting(
        5.0, span(0.05, 3600), "How long the server may take to answer before it counts as away."
    )
    wait_replicas: int = setting(
        0, count(0, 100), "Replicas that must have a job before enqueue returns; 0: waits for none."
    )
    tls_ca: str | None = setting(
        None, OPTIONAL_TEXT, "A file with the certificates that sign the server's, for rediss:// URLs."
    )
    tls_cert: str | None = setting(
        None, OPTIONAL_TEXT, "A file with our certificate, where one is asked for."
    )
    tls_key: str | None = setting(None, OPTIONAL_TEXT, "A file with the key of ``tls_cert``.")
    tls_verify: str = setting(
        "full",
        Choice("one of full, certificate, none", _verify),
        "What is verified of a server: full, its certificate and its name; certificate, not its name; "
        "none, nothing: whoever sits between may read and change all.",
    )
    sentinel_username: str | None = setting(
        None, OPTIONAL_TEXT, "The user at the sentinels, where they ask for one."
    )
    sentinel_password: str | None = setting(
        None, SECRET, "The password of the sentinels, where they ask for one."
    )
    retention: float | None = setting(
        3600.0, span(0.0, none=True), "How long finished jobs can be looked up; None: for ever."
    )

    def address(self) -> Address:
        """Where the server is; ValueError where that is not said."""
        address = Address.of(self.url)
        if self.db is not None and address.kind == "cluster":
            raise ValueError("a cluster has no databases")
        return address if self.db is None else replace(address, db=self.db)

    def tls(self) -> dict[str, Any]:
        """What redis-py is told of certificates; its own defaults are not those of all its versions."""
        files = {"ssl_ca_certs": self.tls_ca, "ssl_certfile": self.tls_cert, "ssl_keyfile": self.tls_key}
        return {name: file for name, file in files.items() if file is not None} | {
            "ssl_cert_reqs": "none" if self.tls_verify == "none" else "required",
            "ssl_check_hostname": self.tls_verify == "full",
        }

    def _misplaced(self, address: Address) -> list[str]:
        """Settings that this URL has no use for: a user who gives them believes that they hold."""
        tls = [name for name in ("tls_ca", "tls_cert", "tls_key") if getattr(self, name) is not None]
        tls += ["tls_verify"] if self.tls_verify != "full" else []
        problems = [
            f"{name} is given, but without TLS: write {SECURE.get(address.kind, 'rediss://')}..."
            for name in tls
            if not address.tls
        ]
        problems += [
            f"{name} is {file!r}; there is no such file"
            for name in ("tls_ca", "tls_cert", "tls_key")
            if (file := getattr(self, name)) is not None and not Path(file).is_file()
        ]
        if address.kind != "sentinel" and (self.sentinel_username or self.sentinel_password):
            problems.append("sentinel_... is given, but no sentinels: write redis+sentinel://host/mymaster")
        return problems

    def _contradictions(self) -> list[str]:
        problems = super()._contradictions()
        if problem := misread(self.url):
            return [*problems, problem]
        try:
            address = self.address()
        except ValueError as error:
            return [*problems, f"url does not say where the server is: {error}"]
        return problems + self._misplaced(address)

    def __repr__(self) -> str:
        return f"RedisConfig({', '.join(f'{name}={value!r}' for name, value in self.changed().items())})"

    def changed(self) -> dict[str, Any]:
        """The settings that differ from their defaults, without the password."""
        changed = super().changed()
        if "url" in changed:
            changed["url"] = shown(self.url)
        return changed


VERIFY = ("full", "certificate", "none")
SECURE = {"sentinel": "rediss+sentinel://", "cluster": "rediss+cluster://"}
