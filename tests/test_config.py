"""Config: what each setting takes, where it comes from, and that all its problems are told at once."""

from __future__ import annotations

import configparser
import dataclasses
import inspect
import logging
import math
import os
import subprocess
import sys
import time
import typing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import neoq
from neoq.config import OPTIONAL_TEXT, TEXT, Config, setting
from neoq.errors import ConfigError

DEFAULTS = {
    "job_check_interval": 1.0,
    "future_job_window": 30.0,
    "queue_capacity": None,
    "enqueue_timeout": 10.0,
    "concurrency": min(32, (os.cpu_count() or 1) + 4),
    "max_running": None,
    "timeout": 600.0,
    "max_retries": 23,
    "max_abandoned": 100,
    "shutdown_timeout": 30.0,
    "lease": 30.0,
    "heartbeat": 5.0,
    "max_crashes": 3,
    "retention": 86400.0,
    "max_finished": None,
    "max_dead": None,
    "max_payload": 2**20,
    "unique": True,
    "timezone": "UTC",
    "autostart": None,
    "on_error": None,
    "logger": logging.getLogger("neoq"),
    "codec": None,
}
ENV = {"NEOQ_CONCURRENCY": "3", "NEOQ_TIMEOUT": "3", "NEOQ_MAX_RETRIES": "3", "NEOQ_LEASE": "300"}


def problems_of(*args: Any, **kwargs: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        Config.load(*args, **kwargs)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


# ------------------------------------------------------------------------------------------- the settings


def test_the_defaults_are_those_of_the_documentation() -> None:
    """Every setting has the default that is promised."""
    assert dataclasses.asdict(Config()) == DEFAULTS


def test_a_config_cannot_be_changed() -> None:
    """A Config is frozen: nobody turns a running backend's settings under it."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().concurrency = 5  # type: ignore[misc]


def test_spans_are_seconds_or_timedeltas() -> None:
    """A span is a number of seconds, a timedelta or, in a URL, a text; it is held in seconds."""
    for minute in (60, 60.0, timedelta(minutes=1), "60", "60.0"):
        assert Config(timeout=minute).timeout == 60.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["timeout", "enqueue_timeout", "queue_capacity", "retention", "max_finished", "max_dead"]
)
@pytest.mark.parametrize("none", [None, "none", "None", "null"])
def test_no_limit_is_none(name: str, none: Any) -> None:
    """A limit that can be switched off takes None, in a URL the word."""
    assert getattr(Config(**{name: none}), name) is None


REFUSED: list[tuple[str, Any]] = [
    ("job_check_interval", 0),
    ("job_check_interval", -1),
    ("job_check_interval", None),
    ("job_check_interval", "soon"),
    ("job_check_interval", math.nan),
    ("job_check_interval", math.inf),
    ("job_check_interval", True),
    ("job_check_interval", timedelta(0)),
    ("job_check_interval", [1.0]),
    ("future_job_window", -0.1),
    ("future_job_window", "nan"),
    ("future_job_window", timedelta(days=2)),
    ("queue_capacity", 0),
    ("queue_capacity", -1),
    ("queue_capacity", 1.5),
    ("queue_capacity", "many"),
    ("queue_capacity", True),
    ("enqueue_timeout", -1),
    ("enqueue_timeout", "inf"),
    ("concurrency", 0),
    ("concurrency", 10_001),
    ("concurrency", None),
    ("concurrency", 2.0),
    ("concurrency", "2.5"),
    ("timeout", 0),
    ("timeout", -5),
    ("timeout", 10**400),
    ("timeout", timedelta.max),
    ("max_retries", -1),
    ("max_retries", None),
    ("max_retries", 2**31),
    ("max_abandoned", 0),
    ("shutdown_timeout", None),
    ("shutdown_timeout", -1),
    ("lease", 0),
    ("heartbeat", 0),
    ("max_crashes", 0),
    ("retention", -1),
    ("max_finished", -1),
    ("max_dead", 0),
    ("max_payload", 1),
    ("max_payload", "1MiB"),
    ("unique", "until"),
    ("unique", None),
    ("unique", 1),
    ("timezone", "Mars/Olympus"),
    ("timezone", ""),
    ("timezone", "Europe"),
    ("timezone", "../etc/passwd"),
    ("timezone", "/etc/localtime"),
    ("timezone", 7),
    ("timezone", None),
    ("autostart", "maybe"),
    ("autostart", 2),
    ("on_error", "print"),
    ("on_error", 7),
    ("logger", 7),
    ("logger", print),
    ("logger", None),
]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=[f"{n}={v!r:.20}" for n, v in REFUSED])
def test_a_bad_value_is_refused_with_what_the_setting_takes(name: str, value: Any) -> None:
    """A wrong type or a value out of range is a ConfigError that names setting, value and what it takes."""
    with pytest.raises(ConfigError) as caught:
        Config(**{name: value})
    (problem,) = caught.value.problems
    assert problem.startswith(f"{name} is {value!r}; it takes ")


def test_a_config_error_is_a_value_error() -> None:
    """Code that knows nothing of neoq's errors catches ValueError."""
    with pytest.raises(ValueError, match="concurrency"):
        Config(concurrency=0)


def test_every_problem_is_reported_at_once() -> None:
    """Values out of range and unknown keys come in one error, one line each."""
    problems = problems_of(
        {"concurrency": 0, "timeout": -1, "colour": "red"}, {"lease": "x", "size": "1"}, {}
    )
    assert sorted(problem.split()[0] for problem in problems) == [
        "colour",
        "concurrency",
        "lease",
        "size",
        "timeout",
    ]


def test_settings_that_contradict_each_other_are_refused() -> None:
    """A lease that does not outlive two heartbeats is refused, naming both."""
    (problem,) = problems_of({"lease": 5, "heartbeat": 3}, {}, {})
    assert "heartbeat is 3 s" in problem
    assert "lease 5 s" in problem


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("true", True), ("Yes", True), ("ON", True), ("0", False), ("False", False), ("no", False)],
)
def test_a_switch_can_be_written_in_several_ways(text: str, value: bool) -> None:
    """In a URL or a variable a switch is 1 or 0, or one of the usual words."""
    assert Config.load({}, {"autostart": text}, {}).autostart is value


def test_unique_can_be_written_in_a_url() -> None:
    """In a URL or the environment unique is a switch, or until_started."""
    assert Config.load({}, {"unique": "until_started"}).unique == "until_started"
    assert Config.load({}, {"unique": "0"}).unique is False
    assert Config.load({}, {}, {"NEOQ_UNIQUE": "true"}).unique is True
    with neoq.connect("memory://?unique=no") as backend:
        backend.listen("q", print)
        assert backend.enqueue("q", run_after=3600).unique is False
        with pytest.raises(neoq.InvalidJobError, match="unique is 'no'"):
            backend.listen("p", print, unique="no")  # type: ignore[call-overload]
        with pytest.raises(neoq.InvalidJobError, match="until_started"):
            backend.listen("p", print, unique=None)  # type: ignore[call-overload]


def test_a_logger_may_be_given_by_name_or_as_an_adapter() -> None:
    """A logger is a Logger, a LoggerAdapter, or a logger's name."""
    adapter = logging.LoggerAdapter(logging.getLogger("mine"), {})
    assert Config(logger=adapter).logger is adapter
    assert Config(logger="mine").logger is logging.getLogger("mine")  # type: ignore[arg-type]


def test_what_was_changed_can_be_listed() -> None:
    """changed() lists the settings that differ from their defaults, and no others."""
    assert Config(timeout=5, max_retries=23).changed() == {"timeout": 5.0}


# --------------------------------------------------------------------------------------- unknown settings


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("job_check_intervall", "job_check_interval"),
        ("concurency", "concurrency"),
        ("max_retry", "max_retries"),
        ("capacity", "queue_capacity"),
        ("shutdown_timout", "shutdown_timeout"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_one_meant(misspelt: str, meant: str) -> None:
    """An unknown key is never ignored, and the error says which one it may have been."""
    for options, url_options in (({misspelt: 1}, {}), ({}, {misspelt: "1"})):
        (problem,) = problems_of(options, url_options, {})
        assert problem == f"{misspelt} is not a setting of Config; did you mean {meant}?"


def test_a_setting_like_no_other_is_refused_with_all_there_are() -> None:
    """An unknown key that resembles none lists those that exist."""
    (problem,) = problems_of({"xyzzy": 1}, {}, {})
    assert all(name in problem for name in DEFAULTS)


def test_a_misspelt_variable_is_refused() -> None:
    """A NEOQ_* variable that is nearly a setting is a mistake that somebody wants to hear of."""
    (problem,) = problems_of({}, {}, {"NEOQ_CONCURENCY": "5"})
    assert (
        problem == "the variable NEOQ_CONCURENCY is not a setting of Config; did you mean NEOQ_CONCURRENCY?"
    )


@pytest.mark.parametrize(
    "name", ["NEOQ_URL", "NEOQ_TEST_POSTGRES", "NEOQ_POOL_SIZE", "neoq_timeout", "TIMEOUT"]
)
def test_a_variable_that_is_not_ours_is_left_alone(name: str) -> None:
    """What another backend, the tests or another program reads is no mistake."""
    assert Config.load({}, {}, {name: "no number"}) == Config()


# ------------------------------------------------------------------------------------------- where from


def test_a_variable_counts_where_nothing_else_is_given() -> None:
    """NEOQ_* variables replace the defaults."""
    config = Config.load({}, {}, ENV)
    assert (config.concurrency, config.timeout, config.max_retries) == (3, 3.0, 3)


def test_the_url_counts_more_than_a_variable() -> None:
    """A setting in the URL beats the same one in the environment, and leaves the others."""
    config = Config.load({}, {"concurrency": "2", "timeout": "2"}, ENV)
    assert (config.concurrency, config.timeout, config.max_retries) == (2, 2.0, 3)


def test_a_keyword_counts_most() -> None:
    """A keyword beats the URL, which beats the environment."""
    config = Config.load({"concurrency": 1}, {"concurrency": "2", "timeout": "2"}, ENV)
    assert (config.concurrency, config.timeout, config.max_retries) == (1, 2.0, 3)


def test_a_keyword_of_none_is_a_value_too() -> None:
    """None as a keyword means no limit; it does not mean "look elsewhere"."""
    assert Config.load({"timeout": None}, {"timeout": "2"}, ENV).timeout is None


def test_a_bad_value_that_is_overruled_does_no_harm() -> None:
    """Only the value that counts is judged."""
    assert Config.load({"concurrency": 1}, {"concurrency": "x"}, {"NEOQ_CONCURRENCY": "y"}).concurrency == 1


@pytest.mark.parametrize("name", ["NEOQ_TIMEOUT", "NEOQ_QUEUE_CAPACITY", "NEOQ_CONCURRENCY"])
def test_an_empty_variable_is_as_good_as_none(name: str) -> None:
    """A variable that is set to nothing, as compose files do, counts as not set; it lifts no limit."""
    assert Config.load({}, {}, {name: ""}) == Config()


def test_a_bad_variable_is_named_as_it_is_spelt() -> None:
    """The error for a bad variable names the variable, for that is what has to be corrected."""
    (problem,) = problems_of({}, {}, {"NEOQ_CONCURRENCY": "lots"})
    assert "NEOQ_CONCURRENCY" in problem


@dataclass(frozen=True)
class ShopConfig(Config):
    schema: str = setting("shop", TEXT, "Where the tables are.")
    label: str | None = setting(None, OPTIONAL_TEXT, "What to call it.")
    timeout: float | None = setting(5.0, Config.__dataclass_fields__["timeout"].metadata["kind"], "Shorter.")


def test_a_backend_adds_its_own_settings() -> None:
    """A derived Config knows its own keys beside the common ones, and may have other defaults."""
    config = ShopConfig.load({"label": "x"}, {"schema": "mine"}, {"NEOQ_CONCURRENCY": "2"})
    assert (config.schema, config.label, config.timeout, config.concurrency) == ("mine", "x", 5.0, 2)
    (problem,) = problems_of({"schema": "mine"}, {}, {})
    assert problem.startswith("schema is not a setting of Config")


# ------------------------------------------------------------------------------------- through the backend


def test_settings_in_the_url_reach_the_backend() -> None:
    """Query parameters of the URL are settings."""
    with neoq.connect("memory://?job_check_interval=0.5") as backend:
        assert isinstance(backend, neoq.MemBackend)
        assert backend.config.job_check_interval == 0.5


def test_keywords_reach_the_backend_and_beat_url_and_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """connect() takes keywords, then the URL's settings, then variables."""
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    with neoq.connect("memory://?concurrency=2&timeout=2", concurrency=1) as backend:
        config = backend.config
    assert (config.concurrency, config.timeout, config.max_retries) == (1, 2.0, 3)


def test_variables_reach_a_backend_that_is_made_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """MemBackend() reads the environment as connect() does."""
    monkeypatch.setenv("NEOQ_CONCURRENCY", "3")
    with neoq.MemBackend() as backend:
        assert backend.config.concurrency == 3


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """connect() without a URL takes $NEOQ_URL."""
    monkeypatch.setenv("NEOQ_URL", "memory://?concurrency=2")
    with neoq.connect() as backend:
        assert backend.config.concurrency == 2


def test_without_any_url_it_is_memory() -> None:
    """connect() with nothing given anywhere is in memory."""
    with neoq.connect() as backend:
        assert isinstance(backend, neoq.MemBackend)


@pytest.mark.parametrize("url", ["memory", "jobs.db", "mysql://h/jobs", "memmory://", "://", "amqp://x"])
def test_an_unknown_url_is_refused_with_those_that_exist(url: str) -> None:
    """A URL of no backend is a ConfigError that names the schemes there are."""
    with pytest.raises(ConfigError, match=r"memory://"):
        neoq.connect(url)


@pytest.mark.parametrize(
    ("backend", "positional"),
    [
        (neoq.MemBackend, set()),
        (neoq.SqliteBackend, {"path"}),
        (neoq.PostgresBackend, {"url"}),
        (neoq.RedisBackend, {"url"}),
    ],
)
def test_every_setting_is_a_keyword_that_type_checkers_know(
    backend: type[neoq.Backend], positional: set[str]
) -> None:
    """The typed keywords of a backend are its settings, all of them and no others."""
    module = sys.modules[backend.__module__]
    (options,) = typing.get_args(typing.get_type_hints(backend.__init__, vars(module))["options"])
    settings = {spec.name for spec in dataclasses.fields(backend.config_class)}
    assert set(options.__annotations__) == settings - positional


@pytest.mark.parametrize(
    ("url", "guess"),
    [("mem://", "memory"), ("sqlite3:///x.db", "sqlite"), ("postgresql+psycopg://h/x", "postgresql")],
)
def test_a_misspelt_url_is_guessed(url: str, guess: str) -> None:
    """A URL like one that exists is a ConfigError that guesses which was meant."""
    with pytest.raises(ConfigError, match=f"did you mean {guess}://"):
        neoq.connect(url)


TAKEN = [
    " redis://h/0",
    "redis://h/0 ",
    "redis://h/0\r\n",
    "\tmemory://",
    "sqlite:///my jobs.db\n",
    "REDIS://h/0",
]


@pytest.mark.parametrize("url", TAKEN, ids=repr)
def test_blanks_around_a_url_mean_nothing(url: str) -> None:
    """A blank or a line end that came with a pasted URL, or from a file, is no part of it."""
    assert neoq.connect(url, autostart=False).config == neoq.connect(url.strip(), autostart=False).config


PASTED = {
    "postgresql+psycopg2://u@h/d": "write postgresql://",
    "postgresql+asyncpg://u@h/d": "write postgresql://",
    "postgis://u@h/d": "write postgresql://",
    "pgsql://u@h/d": "write postgresql://",
    "unix:///run/redis.sock?db=0": r"write redis\+unix:///",
    "redis+socket:///run/redis.sock": r"write redis\+unix:///",
    "sentinel://h:26379/m": r"write redis\+sentinel://",
    "valkey://h/0": "write redis://",
    "valkeys://h/0": "write rediss://",
    "keydb://h": "write redis://",
    "rediscluster://h": r"write redis\+cluster://",
    "sqlite+pysqlite:///jobs.db": "write sqlite:///",
    "file:jobs.db": "write sqlite:///jobs.db",
    "file:///var/lib/jobs.db": "write sqlite:///",
    "/var/lib/jobs.db": "write sqlite:////var/lib/jobs.db",
    "jobs.sqlite3": "write sqlite:///jobs.sqlite3",
    "memory": "write memory://",
    "redis": "write redis://",
    "redis:/h/0": "write redis://",
    "redis//h": "write redis://",
    "localhost:6379": "write redis://localhost:6379",
    "10.0.0.1:6379/2": "write redis://10.0.0.1:6379/2",
    "db.example:5432": "write postgresql://",
    "'redis://h/0'": "quotes",
    '"memory://"': "quotes",
    "redis://h/0'": "quotes",
    "mysql://u@h/d": "in a SQLite file, in Postgres or in Redis",
    "amqp://guest@h//": "in a SQLite file, in Postgres or in Redis",
    "host=h dbname=d": "PostgresBackend",
    "": "is empty.*write memory://",
    " \n": "is empty",
    "http://h": "memory://",
    "nonsense": "memory://",
    "redis://h/0?ssl_cert_reqs=none": "write tls_verify=",
    "rediss://h/0?ssl=true": "write rediss://",
    "redis://h/0?decode_responses=true": "leave it out",
    "redis://h/0?password=x": "redis://user:password@host",
    "postgresql://h/d?pgbouncer=true": "leave it out",
    "postgresql://h/d?ssl=true": "write sslmode=",
    "postgresql://h/d?connection_limit=5": "pool_size",
}


@pytest.mark.parametrize("url", PASTED, ids=repr)
def test_a_url_of_another_tool_is_told_what_to_write(url: str) -> None:
    """A URL that is written for another tool, or not quite one, is refused with what to write here."""
    with pytest.raises(ConfigError, match=f"(?i){PASTED[url]}"):
        neoq.connect(url)


def test_an_empty_variable_is_no_reason_for_memory() -> None:
    """An empty NEOQ_URL is a deployment gone wrong, whose jobs would be lost at the next restart."""
    for empty in ("", " "):
        with pytest.raises(ConfigError, match="NEOQ_URL is empty"):
            neoq.connect(environ={"NEOQ_URL": empty})
    assert isinstance(neoq.connect(environ={}, autostart=False), neoq.MemBackend)


@pytest.mark.parametrize("place", ["memory://", "redis://h", "postgresql://h/d", "sqlite:///x.db"])
def test_a_flood_of_unknown_settings(place: str) -> None:
    """Of very many problems some are told, and how many more there are."""
    url = f"{place}?" + "&".join(f"concurrenc{number}=1" for number in range(20_000))
    begun = time.process_time()
    with pytest.raises(ConfigError, match="19,990 more") as caught:
        neoq.connect(url)
    assert len(caught.value.problems) == 11
    assert time.process_time() - begun < 10
    with pytest.raises(ConfigError) as caught:
        neoq.connect(f"{place}?{'x' * 1_000_000}=1&concurrency=0&concurrency=1")
    assert len(str(caught.value)) < 1000


def test_help_shows_no_environment() -> None:
    """No signature has the variables of the process for a default: help() and the reference show it."""
    for function in (neoq.connect, neoq.Config.load):
        assert inspect.signature(function).parameters["environ"].default is None


def test_the_scheme_of_a_url_may_be_in_capitals() -> None:
    """As in every URL, the case of its scheme means nothing."""
    with neoq.connect("MEMORY://?concurrency=3") as backend:
        assert backend.config.concurrency == 3


@pytest.mark.parametrize(
    ("driver", "name", "extra", "url"),
    [
        ("psycopg", "PostgresBackend", "postgres", "postgresql://h/db"),
        ("redis", "RedisBackend", "redis", "redis://h"),
    ],
)
def test_a_missing_driver_says_what_to_install(driver: str, name: str, extra: str, url: str) -> None:
    """Without its driver a backend's URL and its class are an error with the command that installs it."""
    program = f"""
import sys
sys.modules[{driver!r}] = None  # as where it is not installed
import neoq
for use in (lambda: neoq.connect({url!r}), lambda: neoq.{name}):
    try:
        use()
    except ModuleNotFoundError as error:
        assert error.__suppress_context__
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    metadata = configparser.ConfigParser()
    metadata.read(Path(__file__).parents[1] / "setup.cfg")
    requirement = metadata["options.extras_require"][extra].strip()
    needed = f"{name} needs {driver}, which is not installed: pip install '{requirement}'"
    assert done.stdout.splitlines() == [needed, needed]


def test_a_password_in_a_url_is_not_repeated() -> None:
    """The error for an unknown URL, which ends in a log, does not show the password."""
    with pytest.raises(ConfigError) as caught:
        neoq.connect("mysql://user:secret@localhost/jobs")
    assert "mysql" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", [7, b"memory://", ["memory://"]], ids=repr)
def test_a_url_that_is_no_text_is_refused(url: Any) -> None:
    """A URL of another type is a ConfigError, not an AttributeError from within."""
    with pytest.raises(ConfigError):
        neoq.connect(url)


@pytest.mark.parametrize("url", ["memory://host", "memory:///path", "memory://user:secret@host:1/x"])
def test_a_url_with_parts_that_mean_nothing_is_refused(url: str) -> None:
    """Memory is nowhere else: a host or a path in its URL is a mistake, and a password is not repeated."""
    with pytest.raises(ConfigError) as caught:
        neoq.connect(url)
    assert "secret" not in str(caught.value)


def test_a_setting_twice_in_a_url_is_refused() -> None:
    """Of two values for one setting none is better than the other."""
    with pytest.raises(ConfigError, match="concurrency"):
        neoq.connect("memory://?concurrency=1&concurrency=2")


def test_a_setting_without_a_value_in_a_url_is_refused() -> None:
    """A parameter that lost its value is told, not ignored."""
    with pytest.raises(ConfigError, match="concurrency"):
        neoq.connect("memory://?concurrency=")


@pytest.mark.parametrize("make", [neoq.MemBackend, neoq.connect], ids=["MemBackend", "connect"])
def test_a_backend_tells_every_problem_at_once(make: Any) -> None:
    """A backend with several bad settings is not made, and its error has a line for each."""
    with pytest.raises(ConfigError) as caught:
        make(concurrency=0, timeout=-1, job_check_intervall=1)
    assert len(caught.value.problems) == 3


def test_every_problem_of_a_url_and_keywords_is_told_at_once() -> None:
    """Problems of the URL and of keywords come together."""
    with pytest.raises(ConfigError) as caught:
        neoq.connect("memory://?concurrency=0&colour=red", timeout=-1)
    assert len(caught.value.problems) == 3


def test_the_repr_shows_what_was_changed() -> None:
    """The repr of a backend shows the two intervals, and the settings that differ from their defaults."""
    with neoq.MemBackend(job_check_interval=0.5, max_retries=7) as backend:
        shown = repr(backend)
    assert "job_check_interval=0.5" in shown
    assert "future_job_window=30" in shown
    assert "max_retries=7" in shown
    assert "timezone" not in shown


def test_memory_has_its_own_bounds() -> None:
    """In memory a queue, the finished and the dead jobs are bounded unless told otherwise."""
    with neoq.MemBackend() as backend:
        config = backend.config
    assert (config.queue_capacity, config.max_finished, config.max_dead) == (10_000, 1_000, 10_000)
