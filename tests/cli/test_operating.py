"""The operating commands on every durable store, as processes of their own and, to be quick, in this one."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest

import neoq
from neoq.cli.exits import Exit
from neoq.cli.filters import PAGE
from neoq.cli.main import main
from neoq.cli.target import login
from neoq.job import Job
from neoq.record import Status
from tests.cli.operating import ROOT, Command, child, fill
from tests.cli.workers import until

STORES = ("sqlite", "postgres", "redis")


@pytest.fixture(params=STORES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of each kind."""
    if request.param == "sqlite":
        made = f"sqlite:///{tmp_path}/jobs.db"
    elif request.param == "postgres":
        made = f"{request.getfixturevalue('postgres_url')}?schema=s{os.urandom(6).hex()}"
    else:
        made = f"{request.getfixturevalue('redis_url')}?prefix=p{os.urandom(6).hex()}"
    neoq.migrate(made)
    return made


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """An empty store in a file."""
    made = f"sqlite:///{tmp_path}/jobs.db"
    neoq.migrate(made)
    return made


@pytest.fixture
def command(file_url: str, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command on a store in a file."""
    return Command(file_url, capsys)


@pytest.fixture
def backend(file_url: str) -> Iterator[neoq.Backend]:
    """The application's backend on the same file."""
    made = neoq.connect(file_url, autostart=False)
    yield made
    made.shutdown(0)


def test_commands_look_at_every_store(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On each store the commands that look print its jobs, one JSON object a line, and are no workers."""
    here, filling = Command(url, capsys), neoq.connect(url, autostart=False)
    jobs = fill(filling)
    listed = child("jobs", "--json", "--url", url).records
    assert {job["status"]: job["id"] for job in listed} == {name: job.id for name, job in jobs.items()}
    assert next(job for job in listed if job["status"] == "succeeded")["result"] == "sent"
    oldest = here("jobs", "--oldest", "--limit", "2", "--json").records
    assert [job["id"] for job in oldest] == [job["id"] for job in listed[:0:-1]]
    [last] = here("jobs", "--oldest", "--after", str(oldest[-1]["id"]), "--json").records
    assert last["id"] == listed[0]["id"]
    finished = here("jobs", "--time", "finished", "--since", "1h", "--json").records
    assert {job["status"] for job in finished} == {"succeeded", "dead"}
    assert {"payload", "created_at", "max_retries", "error", "traceback"} <= listed[0].keys()
    [queue] = here("queues", "--json").records
    assert (queue["queue"], queue["succeeded"], queue["dead"], queue["retrying"]) == ("emails", 1, 1, 1)
    [stats] = child("stats", "--json", env={"NEOQ_URL": url}).records
    assert stats == {"ready": 0, "scheduled": 0, "held": 0, "retrying": 1, "running": 0, "succeeded": 1,
                     "dead": 1, "cancelled": 0}  # fmt: skip
    assert here("workers", "--json") == (0, "", "")
    shown = child("show", str(jobs["dead"].id), "--url", url)
    assert "RuntimeError: no such \\x1b[31mmailbox" in shown.out
    assert "Traceback" in shown.out
    [attempt] = here("show", str(jobs["dead"].id), "--json").records[0]["attempts"]
    assert (attempt["number"], attempt["error"]) == (1, "RuntimeError: no such \x1b[31mmailbox")
    assert "\x1b" not in shown.out


def test_commands_change_jobs_on_every_store(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """On each store retry, cancel, delete, enqueue, pause and resume do what they are named after."""
    here, filling = Command(url, capsys), neoq.connect(url, autostart=False)
    jobs = fill(filling)
    looking = neoq.connect(url, autostart=False)
    arguments = ("enqueue", "emails", "-", "--uid", "ada", "--json", "--url", url)
    [stored] = child(*arguments, stdin='{"to": "ada"}').records
    assert here("show", "ada", "--json").records[0]["id"] == stored["id"]
    assert looking.get(stored["id"]).payload == {"to": "ada"}  # type: ignore[union-attr]
    assert here("pause", "emails").out == "emails is paused\n"
    assert looking.queues()[0].paused
    assert here("resume", "emails").code == 0
    assert not looking.queues()[0].paused
    retried = child("retry", "--status", "dead", "--yes", "--url", url)
    assert (retried.code, retried.out) == (0, "retried 1 job\n")
    assert looking.get(jobs["dead"].id).status == "pending"  # type: ignore[union-attr]
    cancelled = child("cancel", str(stored["id"]), str(jobs["succeeded"].id), "--json", "--url", url)
    assert cancelled.code == 1
    assert [(one["changed"], one["reason"]) for one in cancelled.records] == [
        (True, None),
        (False, "it has finished already: succeeded"),
    ]
    deleted = here("delete", "--queue", "emails", "--yes", "--json")
    assert deleted.records == [{"matched": 4, "changed": 4}]
    assert looking.jobs() == []
    looking.shutdown()


def test_an_application_that_starts_by_itself_runs_nothing(tmp_path: Path) -> None:
    """A command that imports an application neither runs its jobs nor counts as a worker."""
    (tmp_path / "shop.py").write_text(
        "import neoq\n"
        "print('hello')\n"
        f"backend = neoq.connect('sqlite:///{tmp_path}/jobs.db', autostart=True)\n"
        "@backend.listen('emails')\n"
        "def send(job): raise SystemExit('it ran')\n"
        "backend.start()\n",
        encoding="utf-8",
    )
    at = {"cwd": tmp_path, "env": {"NEOQ_APP": "shop"}}
    assert child("enqueue", "emails", '{"n": 1}', **at).code == 0
    assert child("workers", "--json", **at) == (0, "", "hello\n")
    assert child("check", "shop", cwd=tmp_path).code == 0
    assert [job["status"] for job in child("jobs", "--json", **at).records] == ["pending"]


def test_jobs_that_cannot_be_changed_are_explained(command: Command, backend: neoq.Backend) -> None:
    """The command says why it did not change a job, and names an equal one; by ids it ends with 1."""
    dead = fill(neoq.connect(command.url, autostart=False))["dead"]
    again = backend.enqueue("emails", dead.payload)
    done = command("retry", str(dead.id), "999999", ends_with=1)
    assert str(again.id) in done.err
    assert f"job {dead.id} was not retried" in done.err
    assert "job 999999 was not retried: there is no such job" in done.err
    done = command("retry", "--status", "dead", "--yes")
    assert done.out == "retried 0 jobs\n"
    assert f"job {dead.id} was not retried" in done.err
    assert str(again.id) in done.err


def test_a_change_by_filter_is_shown_first_and_asked_for(command: Command, backend: neoq.Backend) -> None:
    """--dry-run changes nothing, and off a terminal a change by filter needs --yes."""
    jobs = backend.enqueue_many([Job("emails", {"n": n}) for n in range(7)])
    dry = command("cancel", "--queue", "emails", "--dry-run")
    assert dry.out.splitlines()[-1] == "would cancel 7 jobs"
    assert str(jobs[-1].id) in dry.out
    assert command("cancel", "--queue", "emails", "--dry-run", "--json").records == [
        {"matched": 7, "exact": True}
    ]
    assert "--yes" in command("cancel", "--queue", "emails", ends_with=2).err
    assert "give ids" in command("cancel", ends_with=2).err
    assert "not both" in command("cancel", "1", "--queue", "emails", ends_with=2).err
    assert "did you mean emails?" in command("cancel", "--queue", "emials", "--yes").err
    assert (
        "does nothing to jobs that are dead"
        in command("cancel", "--status", "dead", "--yes", ends_with=2).err
    )
    assert len(backend.jobs(status=Status.PENDING)) == 7


def test_changes_by_filter_go_in_pages(command: Command, backend: neoq.Backend) -> None:
    """A filter that matches more than a page changes all of them, and only them."""
    backend.enqueue_many([Job("emails", {"n": n}) for n in range(2 * PAGE + 3)])
    backend.enqueue("other")
    assert command("delete", "--queue", "emails", "--yes").out == "deleted 1,003 jobs\n"
    assert [job.queue for job in backend.jobs()] == ["other"]


def test_filters_and_limit_choose_what_is_listed(command: Command, backend: neoq.Backend) -> None:
    """Jobs goes on after an id, stops at the limit over several pages, and says that there may be more."""
    jobs = backend.enqueue_many([Job("emails", {"n": n}) for n in range(PAGE + 20)])
    backend.enqueue("other")
    newest = command("jobs", "--queue", "emails", "--limit", "2")
    assert len(newest.out.splitlines()) == 3
    assert f"--after {jobs[-2].id}" in newest.err
    listed = command(
        "jobs", "--queue", "emails", "--limit", str(PAGE + 10), "--after", str(jobs[-2].id), "--json"
    )
    assert [job["id"] for job in listed.records] == [job.id for job in reversed(jobs[8:-2])]


def test_filters_are_those_of_the_backend(command: Command, backend: neoq.Backend) -> None:
    """Each filter of the backend is an option, and several must all hold."""
    fill(neoq.connect(command.url, autostart=False))
    ada = backend.enqueue("emails", {"user": {"id": 7, "zip": "7"}}, kind="send", key="ada")
    bob = backend.enqueue("emails", {"user": {"id": 8}}, key="bob")
    old = datetime.now(UTC) - timedelta(hours=1)

    def found(*filters: str) -> list[int]:
        return [job["id"] for job in command("jobs", "--json", *filters).records]

    assert found("--kind", "send") == found("--key", "ada") == found("--payload", "user.id=7") == [ada.id]
    assert found("--payload", 'user.zip="7"', "--payload", "user.id=7") == [ada.id]
    assert found("--payload", "user.zip=7") == []
    assert [job["status"] for job in command("jobs", "--json", "--error", "mailbox").records] == [
        "retrying",
        "dead",
    ]
    assert (
        found("--since", "1h", "--key", "bob")
        == found("--since", old.isoformat(), "--key", "bob")
        == [bob.id]
    )
    assert found("--until", "1h") == found("--until", old.isoformat()) == []
    assert "PATH=VALUE" in command("jobs", "--payload", "user", ends_with=2).err
    assert command("cancel", "--payload", "user.id=8", "--yes").out == "cancelled 1 job\n"


def test_purge_forgets_what_ended_long_ago(command: Command, backend: neoq.Backend) -> None:
    """Purge forgets jobs that succeeded or were cancelled, dead jobs with --status, and no younger ones."""
    jobs = fill(neoq.connect(command.url, autostart=False))
    assert "--yes" in command("purge", "--older-than", "0", ends_with=2).err
    assert command("purge", "--older-than", "1h", "--yes").out == "purged 0 jobs\n"
    assert command("purge", "--older-than", "0", "--dry-run").out.splitlines()[-1] == "would purge 1 job"
    assert command("purge", "--older-than", "0", "--yes").out == "purged 1 job\n"
    assert [job.id for job in backend.jobs()] == [jobs["retrying"].id, jobs["dead"].id]
    assert command("purge", "--older-than", "0s", "--status", "dead", "--yes").out == "purged 1 job\n"
    assert [job.id for job in backend.jobs()] == [jobs["retrying"].id]
    assert "invalid choice" in command("purge", "--older-than", "0", "--status", "running", ends_with=2).err


def test_an_equal_job_is_named(command: Command) -> None:
    """An enqueue that meets an unfinished equal job says which, and that nothing was stored."""
    assert "job 1 of emails is stored" in command("enqueue", "emails", '{"n": 1}').out
    assert "no live worker listens on emails" in command("enqueue", "emails", '{"n": 2}').err
    assert command("enqueue", "emails", '{"n": 1}').out == (
        "job 1 of emails is equal and pending: nothing was stored\n"
    )
    [record] = command("enqueue", "emails", '{"n": 1}', "--json").records
    assert record["duplicate"] is True


def test_enqueue_takes_when_and_how(command: Command, backend: neoq.Backend) -> None:
    """A job of the command has the options that were given, and a payload that is no object is refused."""
    [record] = command(
        "enqueue", "emails", '{"n": 1}', "--run-after", "2h", "--priority", "7", "--key", "k", "--json"
    ).records
    job = backend.get(record["id"])
    assert job is not None
    assert (job.priority, job.key) == (7, "k")
    assert job.run_after is not None
    assert job.created_at is not None
    assert 7190 < (job.run_after - job.created_at).total_seconds() < 7210
    command("enqueue", "emails", "--run-after", "2030-01-02T03:04:05Z")
    for wrong in ("{", "[1]"):
        assert "payload" in command("enqueue", "emails", wrong, ends_with=2).err
    assert "write 2026-" in command("enqueue", "emails", "--run-after", "soon", ends_with=2).err


def test_enqueue_makes_a_job_of_a_task(command: Command, backend: neoq.Backend) -> None:
    """A task runs the jobs that have its name as --kind; the command warns of a kind that nobody runs."""
    done = threading.Event()

    @backend.task(name="send", queue="emails")
    def send(to: str) -> None:
        done.set()

    backend.start()
    until(backend.workers, "the worker's first beat")
    assert command("enqueue", "emails", '{"to": "ada"}', "--kind", "send").err == ""
    assert done.wait(20)
    assert "runs the kind sned" in command("enqueue", "emails", "--kind", "sned").err
    assert "runs a job without a kind" in command("enqueue", "emails").err
    assert "emails (1 kind)" in command("workers").out
    assert "no worker of emails knows the kind sned: 1 wait" in command("queues").err


def test_follow_prints_each_change_of_a_job(url: str) -> None:
    """On each store show --follow prints the changes of a job that runs elsewhere, and ends with its end."""
    backend = neoq.connect(url, autostart=False)
    go_on = threading.Event()

    @backend.listen("emails")
    def handle(job: Job) -> None:
        job.progress(0.5, "half")
        assert go_on.wait(30)

    job = backend.enqueue("emails")
    with subprocess.Popen(
        [sys.executable, "-m", "neoq", "show", str(job.id), "--follow", "--json", "--url", url],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["status"] == "pending"
        backend.start()
        seen = json.loads(process.stdout.readline())
        while seen["progress"] != [0.5, "half"]:
            assert seen["status"] == "running"
            seen = json.loads(process.stdout.readline())
        go_on.set()
        statuses = [json.loads(line)["status"] for line in process.stdout]
        assert statuses[-1] == "succeeded"
        assert process.wait(30) == 0
    backend.shutdown()


def test_following_ends_with_1_unless_the_job_succeeds(command: Command, backend: neoq.Backend) -> None:
    """Show --follow of a job that is cancelled, or not there, ends with 1."""
    job = backend.enqueue("emails")
    backend.cancel(job.id)
    assert "cancelled" in command("show", str(job.id), "--follow", ends_with=1).out
    assert "999999" in command("show", "999999", "--follow", ends_with=1).err


def test_cron_lists_schedules(command: Command, backend: neoq.Backend) -> None:
    """Cron prints the schedules to which workers listen, with their last and their next tick."""
    assert "no schedule" in command("cron").err
    backend.listen_cron("0 3 * * *", print, queue="nightly", timezone="Europe/Paris")
    backend.start()
    [schedule] = until(lambda: command("cron", "--json").records, "the schedule")
    assert (schedule["spec"], schedule["timezone"], schedule["queue"]) == (
        "0 3 * * *",
        "Europe/Paris",
        "nightly",
    )
    assert len(schedule["next_ticks"]) == 5
    assert "0 3 * * *  Europe/Paris  nightly" in command("cron").out


def test_audit_lists_who_did_what(command: Command, backend: neoq.Backend) -> None:
    """What a command changes leaves one entry that names the login; audit prints them, newest first."""
    ids = [backend.enqueue("emails", {"n": n}, kind="letter").id for n in range(3)]
    assert "no entry" in command("audit").err
    command("cancel", str(ids[0]), "999", ends_with=1)
    command("retry", str(ids[1]), "--dry-run")
    command("delete", "--kind", "letter", "--yes")
    command("purge", "--older-than", "1h", "--yes")
    command("pause", "emails")
    command("audit", "--limit", "0", ends_with=2)
    listed = command("audit", "--json").records
    assert [(one["action"], one["count"], one["queue"]) for one in listed] == [
        ("pause", 1, "emails"),
        ("purge", 0, None),
        ("delete", 3, None),
        ("cancel", 1, None),
    ]
    assert listed[1]["what"].startswith("status=cancelled,succeeded until=")
    assert listed[2]["what"] == "status=cancelled,dead,pending,retrying,succeeded kind=letter"
    assert listed[3]["what"] == f"ids {ids[0]}, 999"
    assert {one["via"] for one in listed} == {"command"}
    assert all(one["user"].endswith(f"@{socket.gethostname()}") for one in listed)
    shown = command("audit", "--limit", "1")
    assert "pause" in shown.out
    assert f"--before {listed[0]['id']}" in shown.err
    assert "purge" in command("audit", "--before", str(listed[0]["id"]), "--limit", "1").out


def test_the_login_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command acts as who has logged in, else as the user of its process, who may have no name."""
    host = socket.gethostname()
    monkeypatch.setattr(os, "getlogin", lambda: "ada")
    assert login() == f"ada@{host}"
    monkeypatch.setattr(os, "getlogin", Mock(side_effect=OSError))
    assert login() == f"{pwd.getpwuid(os.getuid()).pw_name}@{host}"
    monkeypatch.setattr(pwd, "getpwuid", Mock(side_effect=KeyError))
    assert login() == f"uid {os.getuid()}@{host}"


def test_workers_tells_what_they_run(command: Command, file_url: str) -> None:
    """Workers prints the memory of each, and which jobs its threads run since when."""
    backend = neoq.connect(file_url, autostart=False, heartbeat=0.1)
    started, go_on = threading.Event(), threading.Event()

    def handler(_job: neoq.Job) -> None:
        started.set()
        go_on.wait(30)

    backend.listen("emails", handler)
    backend.start()
    job = backend.enqueue("emails", kind="letter")
    assert started.wait(10)
    try:
        until(lambda: f"{job.id} letter " in command("workers").out, "the job")
        [worker] = command("workers", "--json").records
        assert worker["threads"][0]["job_id"] == job.id
        assert worker["abandoned"] == 0
    finally:
        go_on.set()
        backend.shutdown()


def test_any_payload_can_be_printed(file_url: str, backend: neoq.Backend) -> None:
    """What the output's encoding does not have is escaped."""
    backend.enqueue("emails", {"to": "\N{SNOWMAN}"})
    done = child("jobs", "--url", file_url, env={"PYTHONIOENCODING": "ascii"})
    assert (done.code, "\\u2603" in done.out) == (0, True)


def test_queues_and_stats_name_what_nobody_runs(command: Command, backend: neoq.Backend) -> None:
    """A queue with jobs and no live worker is named by queues and stats, and not on stdout of --json."""
    backend.enqueue("emails")
    for name in ("queues", "stats"):
        assert "nobody listens on emails: 1 unfinished" in command(name).err
        assert command(name, "--json").err == ""


@pytest.mark.parametrize("scheme", ["postgresql", "redis"])
def test_a_store_that_is_away_is_one_sentence(scheme: str, command: Command) -> None:
    """A store that cannot be reached ends every command with 4 and one line, without the password."""
    command.url = f"{scheme}://me:sekret@127.0.0.1:1/0"
    for arguments in (["jobs"], ["retry", "1"], ["enqueue", "emails"], ["migrate"]):
        done = command(*arguments, ends_with=4)
        assert done.out == ""
        assert len(done.err.splitlines()) == 1
        assert "sekret" not in done.err


def test_what_is_no_store_is_refused(command: Command, tmp_path: Path) -> None:
    """A misspelt file is not made, a schema without tables is not filled, memory cannot be looked into."""
    command.url = f"sqlite:///{tmp_path}/job.db"
    assert "there is no file" in command("stats", ends_with=4).err
    assert not (tmp_path / "job.db").exists()
    command.url = "memory://"
    assert "no other process can look at them" in command("stats", ends_with=2).err


def test_migrate_makes_tables_and_prints_what_it_would_run(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Migrate --sql prints the same script each time and changes nothing; migrate makes the tables."""
    if url.startswith("redis"):
        assert Command(url, capsys)("migrate", "--sql") == (0, "", "")
        return
    import sqlite3

    import psycopg

    name = os.urandom(6).hex()
    new = (
        url.replace("jobs.db", f"{name}.db")
        if url.startswith("sqlite")
        else f"{url.partition('?')[0]}?schema=s{name}"
    )
    here = Command(new, capsys)
    script = child("migrate", "--sql", "--url", new)
    assert here("migrate", "--sql") == script
    assert script.out.startswith("begin")
    if url.startswith("sqlite"):
        assert not (tmp_path / f"{name}.db").exists()
        with sqlite3.connect(tmp_path / f"{name}.db") as connection:
            connection.executescript(script.out)
        connection.close()
    else:
        assert "has no tables of neoq" in here("stats", ends_with=4).err
        with psycopg.connect(new.partition("?")[0], autocommit=True) as connection:
            connection.execute(script.out.encode())
    assert here("migrate", "--sql") == (0, "", "")
    assert here("migrate").err == "there was nothing to do\n"
    assert here("stats").code == 0


def test_a_command_ends_when_its_reader_has_enough(file_url: str, backend: neoq.Backend) -> None:
    """Jobs | head ends quietly, with the code of a program that SIGPIPE has ended."""
    backend.enqueue_many([Job("emails", {"text": "x" * 500, "n": n}) for n in range(1000)])
    with subprocess.Popen(
        [sys.executable, "-m", "neoq", "jobs", "--json", "--limit", "1000", "--url", file_url],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["queue"] == "emails"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == Exit.UNREAD


def test_ctrl_c_ends_a_watch_with_130(file_url: str) -> None:
    """Stats --watch prints line after line until Ctrl-C, which is no traceback."""
    with subprocess.Popen(
        [sys.executable, "-m", "neoq", "stats", "--watch", "50ms", "--json", "--url", file_url],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""


def test_jobs_by_their_uids(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """show, cancel, retry and delete find a job by its uid, also one of digits, and name what is unknown."""
    command, backend = Command(url, capsys), neoq.connect(url, autostart=False)
    jobs = backend.enqueue_many([Job("q", uid=uid, run_after=3600) for uid in ("order-7", "77777")])
    backend.shutdown(0)
    ids = [job.id for job in jobs]
    assert json.loads(command("show", "order-7", "--json").out)["id"] == ids[0]
    done = command("cancel", "order-7", "77777", str(ids[0]), "missing", ends_with=1)
    assert done.code == 1
    assert done.out.splitlines() == [f"job {ids[0]}: cancelled", f"job {ids[1]}: cancelled"]
    assert done.err.startswith("job missing was not cancelled: there is no such job")
    assert "finished already" in command("retry", "order-7", ends_with=1).err
    told = command("delete", "order-7", "missing", "--json", ends_with=1).out.splitlines()
    assert [(told["id"], told["changed"]) for told in map(json.loads, told)] == [
        (ids[0], True),
        ("missing", False),
    ]


@pytest.mark.parametrize(
    "arguments", [["stats"], ["jobs"], ["retry", "1"], ["migrate"], ["check", "garbled"]]
)
def test_a_file_that_is_no_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """A file that is no database ends a command with 4, and a message that names the file and what to do."""
    path = tmp_path / "jobs.db"
    path.write_bytes(b"garbage " * 1000)
    (tmp_path / "garbled.py").write_text(f"import neoq\nbackend = neoq.connect('sqlite:///{path}')\n")
    monkeypatch.syspath_prepend(tmp_path)
    place = [] if "check" in arguments else ["--url", f"sqlite:///{path}"]
    code = main([*arguments, *place])
    said = capsys.readouterr().err
    sys.modules.pop("garbled", None)
    assert code == 4
    assert said.startswith(f"neoq: cannot use {path}: it is no SQLite database; name another file")


@pytest.fixture
def workflows(url: str) -> Iterator[neoq.Backend]:
    """A store with a job that waits for a signal, a line that stands still, and a batch that is open."""
    backend = neoq.connect(url, autostart=False)

    @backend.listen("orders")
    def fulfil(job: Job) -> str:
        job.step("charge", dict, id=7)
        return str((job.wait_for("approval", timeout=600) or {})["by"])

    @backend.listen("hooks", ordered=True)
    def discard(job: Job) -> None:
        raise neoq.Discard("no")

    backend.listen("done", lambda job: None)
    backend.enqueue("orders", {}, uid="order", fingerprint="order 7")
    for n in range(3):
        backend.enqueue("hooks", {"n": n}, key="ada")
    backend.start()
    until(lambda: backend.stats().held == 1 and backend.stats().dead == 1, "they wait")
    yield backend
    backend.shutdown()


def test_commands_show_and_steer_what_waits(
    url: str, workflows: neoq.Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    """show, lines, limit and signal tell of steps, batches and lines, and change them, on every store."""
    here = Command(url, capsys)
    shown = here("show", "order").out
    assert "waits for    a signal" in shown
    assert re.search(r'step:charge +\S+ +\{"id":7\}', shown)
    [line] = here("lines", "hooks", "--json").records
    assert (line["key"], line["state"], line["waiting"]) == ("ada", "dead", 2)
    assert "ordered=True" in here("limit").out
    assert "max_running=3" in here("limit", "orders", "--max-running", "3", "--rate", "100/60:5").out
    assert workflows.limits()["orders"].rate == neoq.Rate(100, per=60, burst=5)
    assert "per must be seconds, above 0" in here("limit", "orders", "--rate", "5/0", ends_with=2).err
    assert here("limit", "orders", "--reset").out == ""
    batch = workflows.batch(then=Job("done", {}))
    with batch:
        batch.enqueue("nobody", {})
        [record] = here("show", str(batch.id), "--json").records
        assert (record["held"], record["batch"]["members"], record["batch"]["open"]) == ("batch", 1, True)
    refused = here("signal", "--queue", "hooks", "order 7", "approval", ends_with=1).err
    assert "or there is no such job that is unfinished" in refused
    told = here("signal", "--queue", "orders", "order 7", "approval", '{"by": "ada"}', "--json").records
    assert told == [{"queue": "orders", "fingerprint": "order 7", "signal": "approval", "taken": True}]
    order = workflows.get(uid="order")
    assert order is not None
    assert workflows.wait(order.id, timeout=20).result == "ada"
    assert here("signal", "order", "approval", ends_with=1).code == 1
    assert "--queue QUEUE takes a fingerprint" in here("signal", "order 7", "approval", ends_with=1).err


def test_limits_that_mean_nothing_are_refused(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit without a queue, a rate that is none, and a reset with limits are errors of usage."""
    here = Command(url, capsys)
    for arguments in (("--per-key", "5"), ("q", "--rate", "fast"), ("q", "--per-key", "0")):
        assert here("limit", *arguments, ends_with=2).code == 2
    assert here("limit", "q", "--reset", "--per-key", "5", ends_with=2).code == 2
