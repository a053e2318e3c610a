"""Forks of a process that uses a backend: a child begins afresh, and its parent goes on."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable

import neoq
from neoq.memory.store import MemStore
from neoq.store import Notify

ROUNDS = 60
PATIENCE = 8.0

# CPython warns of every fork of a process with threads: that is what is tried here.
warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)


def main() -> None:
    faulthandler.register(signal.SIGALRM, chain=True)  # its own timer does not survive a fork
    signal.alarm(int(4 * PATIENCE))
    globals()[sys.argv[1]]()
    print("parent done")


def check(holds: object, what: str) -> None:
    if not holds:
        raise AssertionError(what)


def in_child(act: Callable[[], None]) -> int:
    """Run a function in a fork, bounded; the exit code says whether it raised."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        signal.alarm(int(PATIENCE) + 2)  # it ends by this, with all stacks written
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("neoq-")]


def ended(backend: neoq.MemBackend, job: neoq.Job) -> neoq.Job:
    assert job.id is not None
    return backend.wait(job.id, PATIENCE)


def fork_while_others_enqueue() -> None:
    """Fork again and again while three threads use the backend and its runners run."""
    backend = neoq.MemBackend(concurrency=2)
    ran: list[tuple[int, int]] = []
    backend.listen("q", lambda job: ran.append((os.getpid(), job.payload["pid"])), max_retries=0)
    stop = threading.Event()

    def produce(who: int) -> None:
        n = 0
        while not stop.is_set():
            n += 1
            backend.enqueue("q", {"pid": os.getpid(), "who": who, "n": n}, run_after=0.001 * (n % 2))
            if n % 10 == 0:
                backend.stats()
                time.sleep(0.0005)

    def child() -> None:
        check(our_threads() == [], f"threads in the child: {our_threads()}")
        check(backend.jobs(limit=10**6) == [], "the parent's jobs are in the child")
        ran.clear()
        job = backend.enqueue("q", {"pid": os.getpid()})
        check(ended(backend, job).status is neoq.Status.SUCCEEDED, "the child's job did not run")
        later = backend.enqueue("q", {"pid": os.getpid(), "later": True}, run_after=0.01)
        check(ended(backend, later).status is neoq.Status.SUCCEEDED, "the child's future job did not run")
        check(set(ran) == {(os.getpid(), os.getpid())}, f"the child ran {set(ran)}")
        report = backend.shutdown()
        check(report.lost == [], "the child lost jobs")

    threads = [threading.Thread(target=produce, args=(who,), daemon=True) for who in range(3)]
    for thread in threads:
        thread.start()
    codes = set()
    for number in range(ROUNDS):
        codes.add(in_child(child))
        print("round", number, codes)
    stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    check(codes == {0}, f"children ended with {codes}")
    check(backend.drain(PATIENCE), "the parent does not go on")
    check({who for who, _ in ran} == {os.getpid()}, "somebody else ran the parent's jobs")
    last = backend.enqueue("q", {"pid": os.getpid(), "last": True})
    check(ended(backend, last).status is neoq.Status.SUCCEEDED, "the parent's last job did not run")
    backend.shutdown()


def jobs_stay_with_the_parent() -> None:
    """Ready, future, running and retrying jobs of the parent run in the parent, once."""
    backend = neoq.MemBackend(concurrency=1)
    ran: list[str] = []
    going = threading.Event()

    @backend.listen("q", max_retries=3, retry=neoq.RetryPolicy(delay=0.3))
    def handler(job: neoq.Job) -> None:
        going.wait(PATIENCE)
        if job.payload.get("fails") and job.attempt == 1:
            raise ValueError("once")
        ran.append(f"{os.getpid()} {job.payload['name']}")

    backend.enqueue("q", {"name": "running", "fails": True})
    while not backend.stats().running:
        time.sleep(0.001)
    backend.enqueue("q", {"name": "ready"})
    backend.enqueue("q", {"name": "future"}, run_after=0.3)

    def child() -> None:
        going.set()
        backend.enqueue("q", {"name": "ready"})  # its twin is the parent's, so it is no duplicate here
        time.sleep(0.6)
        check(backend.drain(PATIENCE), "the child does not get quiet")
        check(ran == [f"{os.getpid()} ready"], f"the child ran {ran}")

    code = in_child(child)
    check(ran == [], "the parent's handler did not wait")
    going.set()
    give_up = time.monotonic() + PATIENCE
    while len(ran) < 3 and time.monotonic() < give_up:
        time.sleep(0.01)
    backend.shutdown()
    check(code == 0, "the child failed")
    check(sorted(ran) == [f"{os.getpid()} {name}" for name in ("future", "ready", "running")], f"ran {ran}")


def start_counts_as_use() -> None:
    """start() in the child starts its runners and cron again; without any use it has no threads."""
    backend = neoq.MemBackend()
    ticked = multiprocessing.get_context("fork").Event()
    backend.listen("q", lambda job: None)
    cron_scheduler = backend.listen_cron("@every 1s", lambda job: ticked.set(), queue="ticks")
    check(cron_scheduler, "listen_cron returns its handler")
    ended(backend, backend.enqueue("q"))

    def child() -> None:
        ticked.clear()
        check(our_threads() == [], "threads before any use")
        backend.start()
        check(any("cron" in name for name in our_threads()), f"no cron thread: {our_threads()}")

    def idle_child() -> None:
        time.sleep(0.05)
        check(our_threads() == [], "threads without any use")

    check(in_child(child) == 0, "the child failed")
    check(in_child(idle_child) == 0, "the idle child failed")
    check(ticked.wait(PATIENCE), "the parent's cron stopped")
    backend.shutdown()


def in_a_handler() -> None:
    """A handler that forks: the child ends as it likes, and the parent's attempt goes on."""
    backend = neoq.MemBackend(concurrency=2, max_retries=0)

    @backend.listen("q")
    def handler(job: neoq.Job) -> int:
        def child() -> None:
            new = backend.enqueue("other", {"n": job.payload["n"]})
            check(ended(backend, new).result == os.getpid(), "the child's job ran elsewhere")

        return in_child(child)

    backend.listen("other", lambda job: os.getpid())
    for n in range(10):
        check(ended(backend, backend.enqueue("q", {"n": n})).result == 0, "a forked handler failed")
    backend.shutdown()


def handler_returns_in_the_child() -> None:
    """A child that simply returns from the handler that forked it settles nothing, and ends."""
    backend = neoq.MemBackend(concurrency=1, max_retries=0)
    children: list[int] = []

    @backend.listen("q")
    def handler(job: neoq.Job) -> str:
        pid = os.fork()
        if pid:
            children.append(pid)
            return "parent"
        signal.alarm(int(PATIENCE))
        return "child"

    job = ended(backend, backend.enqueue("q"))
    check(job.result == "parent", f"the result is {job.result}")
    code = os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1])
    check(code == 0, f"the child ended with {code}")
    backend.shutdown()


def with_multiprocessing() -> None:
    """Pools by fork: workers use the inherited backend, each for itself."""
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:  # before any use
        check(all(pool.map(use_backend, range(20))), "a worker's job failed")
    check(use_backend(0), "the parent's job failed")
    with context.Pool(2) as pool:  # and after
        check(all(pool.map(use_backend, range(20))), "a worker's job failed")
    shared.shutdown()


shared = neoq.MemBackend(concurrency=2)


@shared.listen("shared")
def shared_handler(job: neoq.Job) -> int:
    return os.getpid()


def use_backend(n: int) -> bool:
    job = shared.enqueue("shared", {"n": n})
    return ended(shared, job).result == os.getpid()


def twice() -> None:
    """A grandchild is as fresh as a child."""
    backend = neoq.MemBackend()
    backend.listen("q", lambda job: None)

    def child() -> None:
        ended(backend, backend.enqueue("q"))
        check(in_child(grandchild) == 0, "the grandchild failed")
        ended(backend, backend.enqueue("q"))

    def grandchild() -> None:
        check(backend.jobs() == [], "jobs of the child")
        ended(backend, backend.enqueue("q"))

    ended(backend, backend.enqueue("q"))
    check(in_child(child) == 0, "the child failed")
    ended(backend, backend.enqueue("q"))
    backend.shutdown()


def after_shutdown() -> None:
    """A backend that was shut down stays so in a child."""
    backend = neoq.MemBackend()
    backend.listen("q", lambda job: None)
    backend.enqueue("q")
    backend.shutdown()

    def child() -> None:
        try:
            backend.enqueue("q")
        except neoq.BackendClosedError:
            return
        raise AssertionError("it works again")

    check(in_child(child) == 0, "the child failed")


def while_another_thread_opens() -> None:
    """At the first use, whose locks a thread holds that the child does not have."""
    opening, forked = threading.Event(), threading.Event()

    class SlowStore(MemStore):
        def open_store(self, notify: Notify) -> None:
            opening.set()
            forked.wait(PATIENCE)
            super().open_store(notify)

    class Slow(neoq.MemBackend):
        store_class = SlowStore

    backend = Slow(shutdown_timeout=1, autostart=False)
    thread = threading.Thread(target=backend.queues)
    thread.start()
    opening.wait(PATIENCE)

    def use() -> None:
        forked.set()
        backend.queues()

    check(in_child(use) == 0, "the child could not use it")
    forked.set()
    thread.join(PATIENCE)
    check(not thread.is_alive(), "the parent could not use it")
    backend.shutdown()


def exits_by_itself() -> None:
    """A child that ends through the interpreter's exit runs its own jobs, not its parent's."""
    backend = neoq.MemBackend(concurrency=1)
    going = threading.Event()

    @backend.listen("q")
    def handler(job: neoq.Job) -> None:
        going.wait(PATIENCE)
        sys.stdout.write(f"ran {job.payload['name']}\n")

    backend.enqueue("q", {"name": "parent's"})
    while not backend.stats().running:
        time.sleep(0.001)
    sys.stdout.flush()
    process = multiprocessing.get_context("fork").Process(target=ends_with_a_job, args=(backend, going))
    process.start()
    process.join(PATIENCE)
    check(process.exitcode == 0, f"the child ended with {process.exitcode}")
    going.set()
    backend.shutdown(drain=True)


def ends_with_a_job(backend: neoq.MemBackend, going: threading.Event) -> None:
    going.set()
    backend.enqueue("q", {"name": "child's"})
    backend.drain(PATIENCE)


main()
