"""Signals that come while the main thread enqueues in a tight loop, round after round with new backends."""

from __future__ import annotations

import faulthandler
import logging
import os
import random
import signal
import sys
import threading
import time

import neoq

ROUNDS = 150
PATIENCE = 8.0


class Stop(SystemExit):
    """What the signal handler raises."""


def main(what: str) -> None:
    sys.setswitchinterval(1e-5)
    logging.getLogger("neoq").setLevel(logging.ERROR)
    if what == "idle":
        idle()
        return
    rng = random.Random(7)
    for number in range(ROUNDS if what == "shutdown" else ROUNDS // 2):
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        one_round(what, number, rng)
    faulthandler.cancel_dump_traceback_later()
    print("all rounds reconciled")


def one_round(what: str, number: int, rng: random.Random) -> None:
    ran: list[int] = []
    accepted: list[int] = []
    backend = neoq.MemBackend(
        concurrency=2,
        # A threading.Condition, on which producers wait for room, is not safe from exceptions.
        queue_capacity=20 if number % 3 and what == "shutdown" else None,
        enqueue_timeout=None,
        max_finished=None,
        shutdown_timeout=30 if what == "shutdown" else 0.2,
    )
    backend.listen("q", lambda job: ran.append(job.id))

    asked = threading.Event()

    def on_signal(*_: object) -> None:
        asked.set()  # an exception is swallowed where it lands in a destructor
        if what == "exception":
            raise Stop
        backend.shutdown()

    signal.signal(signal.SIGTERM, on_signal)
    killer = threading.Thread(target=kill_after, args=(rng.random() * 0.004,), daemon=True)
    try:
        killer.start()
        produce(backend, accepted, asked if what == "exception" else threading.Event())
    except (neoq.BackendClosedError, Stop):
        pass
    killer.join()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    report = backend.shutdown()
    # An exception may leave a thread behind that was just being started or woken.
    left = [thread.name for thread in threading.enumerate() if what == "shutdown" and not ends(thread)]
    lost = {job.id for job in report.lost}
    # The signal may have come between the store's yes and the caller's note: one job may be unknown to him.
    unknown = (set(ran) | lost) - set(accepted)
    missing = set(accepted) - set(ran) - lost
    if left or missing or len(unknown) > 3 or lost & set(ran):
        print(f"round {number}: threads {left}, missing {sorted(missing)}, unknown {unknown}, {report}")
        sys.exit(1)


def ends(thread: threading.Thread) -> bool:
    give_up = time.monotonic() + 2
    while thread.name.startswith("neoq-") and thread.is_alive():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.001)
    return True


def kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGTERM)


def produce(backend: neoq.MemBackend, accepted: list[int], asked: threading.Event) -> None:
    n = 0
    while not asked.is_set():
        n += 1
        if n % 7 == 0:
            jobs = backend.enqueue_many([neoq.Job("q", {"n": n, "k": k}) for k in range(3)])
        else:
            jobs = [backend.enqueue("q", {"n": n}, run_after=0.001 * (n % 3))]
        accepted += [job.id for job in jobs if job.id is not None]


def idle() -> None:
    backend = neoq.MemBackend()
    backend.listen("q", lambda job: None)
    backend.enqueue("q", run_after=60)
    done = threading.Event()

    def on_signal(*_: object) -> None:
        print("complete:", backend.shutdown())
        done.set()

    signal.signal(signal.SIGTERM, on_signal)
    threading.Thread(target=kill_after, args=(0.1,), daemon=True).start()
    give_up = time.monotonic() + PATIENCE
    while not done.is_set() and time.monotonic() < give_up:
        time.sleep(0.01)


main(sys.argv[1])
