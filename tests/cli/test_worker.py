"""The worker command on good days and bad ones, with real processes."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import neoq
from neoq import Status
from tests.cli.scraping import samples
from tests.cli.workers import APP, ROOT, Shop, alive, until
from tests.servers import running_server

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the worker command needs POSIX")


# -- stopping ---------------------------------------------------------------------------------------------


def test_term_lets_running_jobs_end(shop: Shop) -> None:
    """TERM ends the command with 0 once the jobs that run have ended."""
    with shop.worker("--processes", "2") as worker:
        worker.claims(2)
        shop.add(2, seconds=0.5)
        shop.until({0, 1}, "began")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert shop.numbers() == {0, 1}
    assert "asked to stop by SIGTERM" in worker.log


def test_int_to_the_whole_group_counts_once(shop: Shop) -> None:
    """Ctrl-C reaches the children, too; still the jobs that run may end."""
    with shop.worker() as worker:
        worker.claims()
        shop.add(1, seconds=1)
        shop.until({0}, "began")
        os.killpg(worker.pid, signal.SIGINT)
        os.killpg(worker.pid, signal.SIGINT)
        assert worker.ends() == 0
    assert shop.numbers() == {0}
    assert "KeyboardInterrupt" not in worker.log


def test_term_twice_at_once_counts_once(shop: Shop) -> None:
    """Two TERMs at once, as of a service manager and its cgroup, still let the jobs that run end."""
    with shop.worker() as worker:
        worker.claims()
        shop.add(1, seconds=1)
        shop.until({0}, "began")
        worker.signal(signal.SIGTERM)
        worker.says("asked to stop by SIGTERM")
        os.killpg(worker.pid, signal.SIGTERM)
        assert worker.ends() == 0
    assert shop.numbers() == {0}


def test_a_second_term_interrupts_jobs(shop: Shop) -> None:
    """A second TERM, half a second later, interrupts what runs: exit code 5, and the job is given back."""
    with shop.worker() as worker:
        worker.claims()
        shop.add(1, seconds=60)
        shop.until({0}, "began")
        worker.signal(signal.SIGTERM)
        worker.says("asked to stop")
        time.sleep(0.6)  # what makes it a second signal
        worker.signal(signal.SIGTERM)
        assert worker.ends(15) == 5
    (job,) = shop.backend.jobs("work")
    assert job.status is Status.PENDING


def test_the_shutdown_timeout_interrupts_jobs(shop: Shop) -> None:
    """--shutdown-timeout is how long jobs may run on: then they are interrupted, and the exit code is 5."""
    with shop.worker("--shutdown-timeout", "500ms") as worker:
        worker.claims()
        shop.add(1, seconds=60)
        shop.until({0}, "began")
        worker.signal(signal.SIGTERM)
        assert worker.ends(15) == 5


def test_a_child_that_does_not_stop_is_killed(shop: Shop) -> None:
    """A child that holds the interpreter is killed when its time is up; the exit code is 5."""
    shop.write(
        APP
        + """
@backend.listen("stuck", timeout=None)
def stuck(job):
    note(job, "began")
    os.kill(os.getpid(), 19)
"""
    )
    with shop.worker("--shutdown-timeout", "0") as worker:
        (pid,) = worker.claims()
        shop.add(1, "stuck")
        shop.until({0}, "began")
        worker.signal(signal.SIGTERM)
        worker.says("asked to stop")
        time.sleep(0.6)
        worker.signal(signal.SIGTERM)
        worker.says("asked again")
        time.sleep(0.6)
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 5
    assert not alive(pid)


def test_term_during_the_import(shop: Shop) -> None:
    """TERM while the application is imported ends the command at once, with 0."""
    shop.write(
        """
import time
print("importing", flush=True)
while True:
    try:
        time.sleep(60)
    except BaseException as error:
        print(f"swallowed {error!r}", flush=True)
"""
    )
    with shop.worker() as worker:
        worker.says("importing")
        began = time.monotonic()
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
        assert time.monotonic() - began < 20  # and not for the import to end
    assert "Traceback" not in worker.log
    assert "swallowed" not in worker.log


def test_term_during_claims(shop: Shop) -> None:
    """TERM under load leaves no job running, and runs none twice."""
    shop.add(2000)
    with shop.worker("--processes", "2") as worker:
        until(lambda: len(shop.numbers()) > 20, "some jobs done")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    done = [int(fields[0]) for fields in shop.ledger()]
    assert len(done) == len(set(done))
    assert not shop.backend.jobs("work", Status.RUNNING)
    assert len(done) == sum(queue.succeeded for queue in shop.backend.queues())


def test_tstp_stops_claiming(shop: Shop) -> None:
    """After TSTP no job is claimed, the probe says so, and running jobs end."""
    with shop.worker() as worker:
        worker.claims()
        shop.add(1, seconds=0.3)
        shop.until({0}, "began")
        worker.signal(signal.SIGTSTP)
        worker.says("asked to be quiet")
        until(lambda: json.loads(worker.asked("status")[1])["processes"][0]["quiet"], "the child is quiet")
        shop.add(1, "other")
        shop.until({0})
        assert worker.asked("readyz")[0] == 503
        assert worker.asked("livez")[0] == 200
        assert len(shop.ledger()) == 1
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert len(shop.ledger()) == 1


# -- starting ---------------------------------------------------------------------------------------------


def test_an_application_that_cannot_be_imported(shop: Shop) -> None:
    """The command ends with 3 and one traceback, whatever the number of processes."""
    shop.write("import json\n\n1 / 0\n")
    with shop.worker("--processes", "2") as worker:
        assert worker.ends() == 3
    assert worker.log.count("ZeroDivisionError") == 1
    assert "neoq/cli" not in worker.log


def test_an_application_that_is_imported_twice(shop: Shop) -> None:
    """An application that is imported under a second name, too, runs each job once, and by the first."""
    (shop.folder / "inner").mkdir()
    (shop.folder / "inner" / "shop.py").symlink_to(shop.file)
    app = APP.replace("os.getpid()", "__name__").replace("(__file__)", "(__file__).resolve()")
    shop.write(app + "\nif __name__ == 'shop':\n    import inner.shop\n")
    shop.add(50)
    with shop.worker() as worker:
        shop.until(set(range(50)))
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert [fields[1] for fields in shop.ledger("began")] == ["shop"] * 50


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--queues", "wrok"], 2, "did you mean work"),
        (["--concurrency", "nobody=3"], 2, "'nobody'"),
        (["--exclude", "work,other"], 2, "nothing to run"),
        (["--max-memory", "5"], 2, "has [0-9]+ MB already"),
        (["--processes", "0"], 2, "whole number"),
        (["--port", "here:8000000"], 2, "cannot listen there"),
        (["--name", "a/b"], 2, "use letters"),
        (["--drain", "--reload"], 2, "use one of them"),
        (["--concurency", "3"], 2, "did you mean --concurrency"),
    ],
)
def test_mistakes_end_the_command(shop: Shop, arguments: list[str], code: int, told: str) -> None:
    """What cannot be meant ends the command at once, with its code and a remedy."""
    with shop.worker(*arguments) as worker:
        assert worker.ends() == code
    assert re.search(told, worker.log)


def test_the_store_is_away_at_the_start(shop: Shop) -> None:
    """Without --wait a store that cannot be reached ends the command with 4; with it, after that time."""
    shop.write(
        "import neoq\nbackend = neoq.connect('redis://127.0.0.1:1', autostart=False)\n"
        "backend.listen('q', print)\n"
    )
    with shop.worker() as worker:
        assert worker.ends() == 4
    assert "cannot be reached" in worker.log
    with shop.worker("--wait", "1s") as worker:
        worker.says("cannot be reached yet")
        assert worker.ends() == 4


def test_options_are_variables_too(shop: Shop) -> None:
    """NEOQ_APP and NEOQ_WORKER_* stand for what the command line does not say; a typo is refused."""
    with shop.worker(
        app="", NEOQ_APP="shop", NEOQ_WORKER_PROCESSES="2", NEOQ_WORKER_LOG_FORMAT="json"
    ) as worker:
        worker.claims(2)
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    lines = [json.loads(line) for line in worker.log.splitlines()]
    assert {line["level"] for line in lines} == {"INFO"}
    with shop.worker(NEOQ_WORKER_PROCESES="2") as worker:
        assert worker.ends() == 2
    assert "did you mean NEOQ_WORKER_PROCESSES?" in worker.log


def test_queues_and_concurrency(shop: Shop) -> None:
    """--queues runs these only, and --concurrency says with how many threads."""
    shop.write(APP.replace("autostart=False", "autostart=True"))
    shop.add(1, "other")
    with shop.worker("--queues", "work", "--concurrency", "8,work=3") as worker:
        worker.claims()
        shop.add(4, seconds=0.4)
        shop.until({0, 1, 2}, "began")
        status = until(
            lambda: json.loads(worker.asked("status")[1])["processes"][0]["running"], "the state of the child"
        )
        assert {queue: most for queue, (_, most) in status.items()} == {"work": 3}
        shop.until({0, 1, 2, 3})
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert len(shop.ledger()) == 4


def test_drain_ends_when_nothing_is_ready(shop: Shop) -> None:
    """--drain runs what is ready in all processes, of the queues that were asked for, and ends with 0."""
    shop.add(50)
    shop.add(1, "other", none="of ours")
    shop.backend.enqueue("work", {"n": 99}, run_after=3600)
    with shop.worker("--drain", "--processes", "2", "--queues", "work") as worker:
        assert worker.ends() == 0
    assert len(shop.ledger()) == 50
    assert shop.numbers() == set(range(50))


def test_a_pidfile_belongs_to_one_worker(shop: Shop) -> None:
    """--pidfile is refused while another worker has it, and taken over from one that was killed."""
    with shop.worker("--pidfile", "pid") as first:
        first.claims()
        assert (shop.folder / "pid").read_text() == f"{first.pid}\n"
        with shop.worker("--pidfile", "pid") as second:
            assert second.ends() == 2
        assert f"process {first.pid}" in second.log
        first.signal(signal.SIGKILL)
    with shop.worker("--pidfile", "pid") as third:
        third.claims()


# -- deaths -----------------------------------------------------------------------------------------------


def test_a_killed_child_is_replaced_and_nothing_is_lost(shop: Shop) -> None:
    """Kill -9 of one child under load: it is replaced with its cause in the log; the other goes on."""
    shop.add(300, seconds=0.01)
    with shop.worker("--processes", "2") as worker:
        first, other = worker.claims(2)
        shop.until(set(range(20)))
        os.kill(first, signal.SIGKILL)
        worker.claims(3)
        assert alive(other)
        shop.until(set(range(300)))
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert f"({first}) has died" in worker.log
    assert "SIGKILL: somebody's kill -9" in worker.log


def test_the_children_end_after_a_killed_supervisor(shop: Shop) -> None:
    """Kill -9 of the supervisor: the children let their jobs end, and end."""
    with shop.worker("--processes", "2") as worker:
        children = worker.claims(2)
        shop.add(2, seconds=0.5)
        shop.until({0, 1}, "began")
        worker.signal(signal.SIGKILL)
        until(lambda: not any(map(alive, children)), "the end of the children", 10)
    assert shop.numbers() == {0, 1}
    assert "the supervisor is gone" in worker.log


def test_everybody_is_killed(shop: Shop) -> None:
    """Kill -9 of supervisor and children: the next worker runs what they had."""
    shop.add(40, seconds=0.02)
    with shop.worker("--processes", "2") as worker:
        shop.until({0})
        os.killpg(worker.pid, signal.SIGKILL)
        worker.ends()
    with shop.worker("--processes", "2", "--drain") as worker:
        shop.until(set(range(40)))


def test_a_crash_loop_backs_off(shop: Shop) -> None:
    """A child that dies young is replaced ever more slowly, with one line a try; the probe is red."""
    shop.write("import os\nos._exit(7)\n")
    with shop.worker() as worker:
        pauses = worker.says(r"has died after [0-9.]+ s, and is replaced(?: in ([0-9.]+) s)?: exit code 7", 4)
        assert pauses == ["", "1", "2", "4"]
        assert worker.asked("readyz")[0] == 503
        assert worker.asked("livez")[0] == 200
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0


def test_a_child_that_says_nothing_is_replaced(shop: Shop) -> None:
    """A child whose interpreter stands still is killed and replaced; the supervisor never waits for it."""
    program = (
        "import sys, neoq.cli.state, neoq.cli.supervisor as supervisor, neoq.cli.main; "
        "supervisor.HUNG = neoq.cli.state.HUNG = 2.0; supervisor.EXIT_GRACE = 0.5; "
        "sys.exit(neoq.cli.main.main(['worker', 'shop']))"
    )
    with shop.worker(program=program) as worker:
        (first,) = worker.claims()
        os.kill(first, signal.SIGSTOP)
        assert worker.claims(2)
        assert f"({first}) is killed, its stack follows: it has said nothing for 2 s" in worker.log
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0


def test_what_a_handler_starts_hears_signals_as_usual(shop: Shop) -> None:
    """Forks and programs that a handler starts have the usual signals: a pool of processes can be ended."""
    shop.write(
        APP
        + """
import multiprocessing, signal, subprocess, sys

@backend.listen("starts")
def starts(job):
    pool = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    pool.start()
    pool.terminate()
    pool.join()
    program = subprocess.Popen([sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    program.stdout.read(1)
    program.send_signal(signal.SIGINT)
    assert (pool.exitcode, program.wait()) == (-15, -2), (pool.exitcode, program.returncode)
    note(job, "done")
"""
    )
    with shop.worker() as worker:
        worker.claims()
        shop.add(1, "starts")
        shop.until({0})
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0


def test_process_one_of_a_container(shop: Shop) -> None:
    """As process 1 the supervisor hears TERM, and takes care of processes that have lost their parents."""
    container = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*container, "true"], check=False).returncode:
        pytest.skip("this system lets us make no container")
    shop.write(
        APP
        + """
import subprocess

@backend.listen("orphans", concurrency=1)
def orphans(job):
    if job.payload["n"] == 0:
        subprocess.run(["sh", "-c", "sh -c 'exit 3' &"], check=True)
    def states():
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                yield path.read_text().rpartition(") ")[2][0]
            except OSError:  # it has ended meanwhile
                pass
    give_up = time.monotonic() + 10
    while (zombies := "Z" in states()) and time.monotonic() < give_up:
        time.sleep(0.01)
    note(job, "zombies" if zombies else "done")
"""
    )
    with shop.worker(before=container) as worker:
        worker.says("supervised by 1\n")
        worker.claims()
        shop.add(2, "orphans")
        shop.until({0, 1})
        (inner,) = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text(encoding="ascii").split()
        os.kill(int(inner), signal.SIGTERM)
        assert worker.ends() == 0


def test_max_jobs_replaces_the_child_new_first(shop: Shop) -> None:
    """--max-jobs replaces a process after so many jobs; no job is interrupted."""
    with shop.worker("--max-jobs", "10") as worker:
        (first,) = worker.claims()
        shop.add(20)
        shop.until(set(range(20)))
        assert worker.claims(2)[1] != first
        until(lambda: not alive(first), "the end of the first")
        shop.add(1, "other")
        until(lambda: len(shop.ledger()) == 21, "a job of the second process")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert "--max-jobs" in worker.log


def test_max_memory_replaces_the_child(shop: Shop) -> None:
    """--max-memory replaces a process that has grown beyond it; a fresh one is below it."""
    shop.write(
        APP
        + """
kept = []

@backend.listen("grows")
def grows(job):
    kept.append(bytearray(80_000_000))
    note(job, "done")
"""
    )
    with shop.worker("--max-memory", "80") as worker:
        (first,) = worker.claims()
        shop.add(1, "grows")
        assert worker.claims(2)[1] != first
        until(lambda: not alive(first), "the end of the first")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    assert re.search(r"is to be replaced: it has 1\d\d MB \(--max-memory 80\)", worker.log)


# -- new code ---------------------------------------------------------------------------------------------

DEPLOYED = """
from pathlib import Path
import neoq

HERE = Path(__file__).parent
backend = neoq.connect(f"sqlite:///{{HERE}}/jobs.db", autostart=False, unique=False)
tasks = neoq.Tasks(queue="tasks")

def note(kind):
    with open(HERE / "ledger", "a") as file:
        file.write(f"ran {{kind}} {{__name__}} - -\\n")

@tasks.task(name="stays")
def stays():
    note("stays")

@tasks.task(name="{0}")
def changes():
    note("{0}")

backend.include(tasks)
"""


def test_hup_replaces_the_children_without_a_gap(shop: Shop) -> None:
    """HUP under load: every child is replaced, its successor first, and no job is lost or interrupted."""
    shop.add(400, seconds=0.05)
    with shop.worker("--processes", "2") as worker:
        old = worker.claims(2)
        shop.until({0})
        worker.signal(signal.SIGHUP)
        new = worker.claims(4)[2:]
        until(lambda: not any(map(alive, old)), "the end of the old ones")
        assert all(map(alive, new))
        assert worker.asked("readyz")[0] == 200
        shop.until(set(range(400)))
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    times = sorted(float(fields[2]) for fields in shop.ledger("began"))
    assert max(after - before for before, after in itertools.pairwise(times)) < 3  # two cores may be busy
    assert len(times) == 400


def test_hup_with_broken_code_keeps_the_old(shop: Shop) -> None:
    """HUP while the application cannot be imported: the old processes go on, and the log says why."""
    with shop.worker("--processes", "2") as worker:
        old = worker.claims(2)
        shop.write("1 / 0\n")
        worker.signal(signal.SIGHUP)
        worker.says("ZeroDivisionError")
        shop.add(5)
        shop.until(set(range(5)))
        assert all(map(alive, old))
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0


def test_new_code_beside_old_workers(shop: Shop) -> None:
    """In a deploy jobs of a new task wait for new code, those of a dropped task for old code."""
    for name, program in (("old", DEPLOYED.format("left")), ("new", DEPLOYED.format("came"))):
        (shop.folder / f"{name}.py").write_text(program, encoding="utf-8")
    kinds = ("stays", "came", "left")
    with shop.worker("--name", "old", app="old:backend") as old:
        old.claims()
        shop.backend.enqueue_many([neoq.Job("tasks", {}, kind=kind) for kind in kinds])
        until(lambda: len(shop.ledger("ran")) == 2, "what the old code knows")
        with shop.worker("--name", "new", app="new:backend") as new:
            new.claims()
            until(lambda: len(shop.ledger("ran")) == 3, "what the new code knows")
            shop.backend.enqueue_many([neoq.Job("tasks", {}, kind=kind) for kind in kinds])
            until(lambda: len(shop.ledger("ran")) == 6, "all kinds")
            old.signal(signal.SIGTERM)
            assert old.ends() == 0
            shop.backend.enqueue_many([neoq.Job("tasks", {}, kind=kind) for kind in kinds])
            until(lambda: len(shop.ledger("ran")) == 8, "what the new code knows")
    ran = [(kind, who) for kind, who, *_ in shop.ledger("ran")]
    assert {pair for pair in ran if pair[0] != "stays"} == {("left", "old"), ("came", "new")}
    assert [job.kind for job in shop.backend.jobs("tasks", Status.PENDING)] == ["left"]
    assert not shop.backend.jobs("tasks", Status.DEAD)


def version_that_runs(shop: Shop) -> str:
    """The version of the code that runs a job now."""
    before = len(shop.ledger())
    shop.add(1, "other")
    until(lambda: len(shop.ledger()) > before, "a job")
    return shop.ledger()[-1][3]


def test_reload(shop: Shop) -> None:
    """--reload: a burst of changes is one restart; code that does not work keeps the old process."""
    with shop.worker("--reload") as worker:
        worker.claims()
        for number in range(100):
            shop.write(APP.replace("VERSION = 1", "VERSION = 2") + f"# {number}\n")
        until(lambda: version_that_runs(shop) == "2", "the second version")
        assert worker.log.count("the processes are replaced") <= 2  # this test may be held up in between
        shop.write(APP + "def broken(:\n")
        worker.says(r"not reloaded, the old code goes on: .*shop\.py:\d+: .*def broken")
        (shop.folder / "added.py").write_text("1 / 0\n", encoding="utf-8")
        shop.write(APP.replace("VERSION = 1", "VERSION = 3\nimport added"))
        worker.says("the old one goes on: shop cannot be imported")
        assert version_that_runs(shop) == "2"
        (shop.folder / "added.py").write_text("fine = True\n", encoding="utf-8")
        until(lambda: version_that_runs(shop) == "3", "the third version")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0


# -- looking ----------------------------------------------------------------------------------------------


def test_usr1_prints_the_stacks(shop: Shop) -> None:
    """USR1 prints every thread's stack, with the job that it runs."""
    with shop.worker() as worker:
        worker.claims()
        shop.add(1, seconds=30)
        shop.until({0}, "began")
        worker.signal(signal.SIGUSR1)
        worker.says(r"thread neoq-runner-work-\d+ runs job \d+ of work, attempt 1")
        worker.says(r"shop\.py\", line \d+, in work")


def test_probes(shop: Shop) -> None:
    """/livez and /readyz answer on the port of this machine; `neoq health` asks over the socket."""
    with shop.worker("--port", "0", "--name", "mails") as worker:
        (port,) = worker.says(r"probes at http://127\.0\.0\.1:(\d+)/livez")
        worker.claims()
        until(lambda: http(int(port), "/readyz").startswith("HTTP/1.1 200 "), "the worker is ready")
        assert http(int(port), "/livez").endswith("\r\n\r\nok\n")
        assert http(int(port), "/other").startswith("HTTP/1.1 404 ")
        assert http(int(port), "/livez", "POST").startswith("HTTP/1.1 405 ")
        assert health(shop, "--name", "mails", "--ready") == (
            0,
            "ok: 1/1 processes claim, 0 jobs running, 0 attempts done\n",
        )
        assert health(shop, "--name", "others")[0] == 1
        with shop.worker("--name", "mails") as second:
            second.says("neoq health --name mails will not reach this worker: another worker of this name")
            second.claims()
            assert json.loads(worker.asked("status", "mails")[1])["pid"] == worker.pid


def http(port: int, path: str, method: str = "GET") -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        pieces = []
        while piece := client.recv(4096):
            pieces.append(piece)
    return b"".join(pieces).decode()


def health(shop: Shop, *arguments: str) -> tuple[int, str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "NEOQ_RUNTIME_DIR": str(shop.folder)}
    done = subprocess.run(
        [sys.executable, "-m", "neoq", "health", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_systemd_is_told(shop: Shop) -> None:
    """READY once all processes claim, then RELOADING and READY, WATCHDOG, STATUS, STOPPING."""
    path = str(shop.folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.settimeout(20)
        with shop.worker(NOTIFY_SOCKET=path, WATCHDOG_USEC="200000") as worker:
            told: list[str] = []

            def hears(line: str) -> None:
                while not any(one.startswith(line) for one in told):
                    told.extend(systemd.recv(4096).decode().split("\n"))
                told[: [one.startswith(line) for one in told].index(True) + 1] = []

            hears("READY=1")
            assert worker.claims()
            hears("STATUS=1/1 processes claim")
            hears("WATCHDOG=1")
            worker.signal(signal.SIGHUP)
            hears("RELOADING=1")
            hears("MONOTONIC_USEC=")
            hears("READY=1")
            worker.signal(signal.SIGTERM)
            hears("STOPPING=1")
            hears("EXTEND_TIMEOUT_USEC=")
            assert worker.ends() == 0


def test_the_supervisor_is_light() -> None:
    """The supervisor and `neoq health` import no store, no engine and no driver."""
    program = (
        "import sys, neoq.cli.supervisor, neoq.cli.main, neoq.cli.commands.worker, neoq.cli.commands.health; "
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    loaded = set(done.stdout.split())
    assert (
        not {"neoq.backend", "neoq.engine.engine", "neoq.store", "sqlite3", "apscheduler", "asyncio"} & loaded
    )


def test_the_store_comes_goes_and_comes_back(shop: Shop) -> None:
    """--wait bears a store that is away at the start; later the worker lives on without it, not ready.

    Meanwhile a scrape has the counters, and no levels.
    """
    with running_server("--appendonly", "yes") as server:
        server.kill()
        url = f'"{server.url}", lease=2, heartbeat=0.5, '
        shop.write(
            APP.replace('f"sqlite:///{HERE}/jobs.db", ', url).replace("lease=2, heartbeat=0.5, c", "c")
        )
        with shop.worker("--wait", "20s", "--port", "0") as worker:
            worker.says("cannot be reached yet")
            server.start()
            (pid,) = worker.claims()
            until(lambda: worker.asked("readyz")[0] == 200, "the worker is ready")
            server.kill()
            until(lambda: worker.asked("readyz") == (503, "the store does not answer\n"), "it is not ready")
            assert worker.asked("livez")[0] == 200
            found = samples(worker)
            assert found["neoq_store_up",] == found["neoq_jobs_finished_total", "succeeded", "work"] == 0
            assert "neoq_workers" not in {key[0] for key in found}
            server.start()
            until(lambda: worker.asked("readyz")[0] == 200, "the worker is ready again")
            with neoq.connect(server.url, autostart=False) as backend:
                backend.enqueue("work", {"n": 7})
            shop.until({7})
            assert alive(pid)
            worker.signal(signal.SIGTERM)
            assert worker.ends() == 0


def test_lines_of_a_handler_name_their_job(shop: Shop) -> None:
    """--log-format json: what a handler logs has the id, the queue and the attempt of its job."""
    shop.write(
        APP
        + """
import logging
logging.basicConfig(format="ours: %(message)s")

@backend.listen("logs")
def logs(job):
    logging.getLogger("shop").warning("line %s", job.payload["n"])
"""
    )
    with shop.worker("--log-format", "json") as worker:
        worker.claims()
        shop.add(1, "logs")
        worker.says("line 0")
        worker.signal(signal.SIGTERM)
        assert worker.ends() == 0
    lines = [json.loads(line) for line in worker.log.splitlines()]
    (line,) = (line for line in lines if line["message"] == "line 0")
    assert (line["queue"], line["attempt"], line["level"], line["worker"]) == (
        "logs",
        1,
        "WARNING",
        "worker-1",
    )
    assert line["job_id"] > 0
    with shop.worker() as worker:
        shop.add(1, "logs")
        worker.says("(?m)^ours: line 0$")
