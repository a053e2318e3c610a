"""Take the pictures of the dashboard that the README and docs/dashboard.md show.

Run it in the repository: ``.venv/bin/python docs/screenshots.py``, with Chromium on the system and the extras
test and demo installed. It fills a shop, whose last hour is invented, and writes PNG files beside itself.
"""

from __future__ import annotations

import logging
import random
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from PIL import Image  # noqa: E402
from playwright.sync_api import Browser, sync_playwright  # noqa: E402

import neoq  # noqa: E402
from neoq.clock import SystemClock  # noqa: E402
from neoq.dashboard import Access, wsgi  # noqa: E402
from neoq.series import BUCKETS, Histogram, Increment, increment  # noqa: E402
from tests.browser.chromium import CHROMIUM, FLAGS  # noqa: E402
from tests.browser.serving import serving  # noqa: E402

# A queue's jobs a minute, and their usual wait and run time in seconds.
QUEUES = {"emails": (180, 0.02, 0.09), "thumbnails": (60, 0.06, 0.6), "invoices": (9, 0.01, 1.8)}
# Path, width and height of the window, colours. The first two are those of the documentation.
PICTURES = {
    "overview": ("", 1440, 945, "light"),
    "failures-dark": ("failures", 1440, 380, "dark"),
    "overview-dark": ("", 1440, 945, "dark"),
    "failures": ("failures", 1440, 380, "light"),
    "overview-narrow": ("", 390, 844, "light"),
    "failures-narrow": ("failures", 390, 844, "light"),
}
PATIENCE = 20.0


class MailboxUnavailable(Exception):
    """The mail server refuses a recipient."""


class UnreadableImage(Exception):
    """A file that is no image."""


class Past(SystemClock):
    """A clock that is slow by some seconds."""

    ago = 0.0

    def time(self) -> float:
        """Seconds since the epoch, a while ago."""
        return super().time() - self.ago


def send(job: neoq.Job) -> None:
    """Send a mail."""
    time.sleep(random.uniform(0.005, 0.02))
    if job.payload["to"].endswith("old-mail.example"):
        raise MailboxUnavailable(f"550 5.1.1 <{job.payload['to']}>: no such user here")


def shrink(job: neoq.Job) -> dict[str, int]:
    """Make thumbnails."""
    time.sleep(random.uniform(0.005, 0.03))
    if job.payload["image"].endswith(".pdf"):
        raise UnreadableImage(f"{job.payload['image']} is no image")
    return {"written": len(job.payload["sizes"])}


def tick(_job: neoq.Job) -> None:
    """The work of a schedule."""


# The pictures name the place of an error as in the shop that they show.
send.__code__ = send.__code__.replace(co_filename="/srv/shop/mails.py", co_firstlineno=24)
shrink.__code__ = shrink.__code__.replace(co_filename="/srv/shop/images.py", co_firstlineno=51)


def mail(backend: neoq.Backend, subject: str, order: int, to: str = "", **options: Any) -> None:
    """Enqueue a mail to the customer of an order."""
    to = to or f"customer{order}@example.com"
    add(backend, "emails", {"to": to, "subject": subject, "order": order}, "mail", **options)


def add(backend: neoq.Backend, queue: str, payload: dict[str, Any], kind: str, **options: Any) -> None:
    """Enqueue a job that gets one attempt."""
    backend.enqueue(queue, payload, kind=kind, max_retries=0, **options)


class Shop:
    """An online shop: mails, thumbnails and invoices."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._end = threading.Event()
        self._past = Past()
        self.backend = self._connect()

    def _connect(self) -> neoq.Backend:
        backend = neoq.connect(self._url, autostart=False, heartbeat=0.5)
        backend.listen("emails", send, concurrency=4)
        backend.listen("thumbnails", shrink, concurrency=2)
        backend.listen("invoices", self._print, concurrency=2)
        backend.listen_cron("0 6 * * 1-5", tick, queue="nightly-report", timezone="Europe/Paris")
        backend.listen_cron("*/15 * * * *", tick, queue="sync-stock")
        return backend

    def fill(self) -> None:
        """Run jobs of every kind, some of them in the last hour, and leave others waiting."""
        self._invent_the_last_hour()
        self._let_some_die()
        self.backend.start()
        for order in range(4711, 4831):
            mail(self.backend, "order confirmed", order)
            add(
                self.backend,
                "thumbnails",
                {"image": f"products/{order}.jpg", "sizes": [120, 480]},
                "thumbnail",
            )
        self._settled()
        for order in range(4840, 4846):
            mail(self.backend, "how did you like it?", order, run_after=timedelta(days=order - 4837))
        for order in range(4846, 4849):
            add(self.backend, "invoices", {"order": order, "lines": order % 7 + 1}, "invoice")
        add(self.backend, "refunds", {"order": 4802, "amount": "19.90", "card": "**** 4242"}, "refund")
        add(self.backend, "refunds", {"order": 4811, "amount": "7.50", "card": "**** 1881"}, "refund")
        self._until(lambda: any(queue.running for queue in self.backend.queues()))

    def _invent_the_last_hour(self) -> None:
        self.backend.queues()  # which opens the file
        self.backend.clock = self._past
        for serial, (ago, increments) in enumerate(last_hour()):
            self._past.ago = ago
            self.backend.store.add_series(increments, serial=serial)
        self.backend.clock = SystemClock()

    def _let_some_die(self) -> None:
        for minutes in (47, 38, 29, 26, 21, 12, 4):
            self._past.ago = 60.0 * minutes
            with self._connect() as backend:  # a process of that time, which counts what it did when it ends
                backend.clock = self._past
                for order in range(4800 - 2 * minutes, 4802 - 2 * minutes):
                    mail(backend, "order shipped", order, f"customer{order}@old-mail.example")
                if minutes in {38, 26, 12}:
                    add(
                        backend,
                        "thumbnails",
                        {"image": f"uploads/{minutes}.pdf", "sizes": [120]},
                        "thumbnail",
                    )
                backend.start()

    def close(self) -> None:
        """End what still runs."""
        self._end.set()
        self.backend.shutdown()

    def _print(self, _job: neoq.Job) -> None:
        self._end.wait()

    def _settled(self) -> None:
        self._until(lambda: not any(queue.ready or queue.running for queue in self.backend.queues()))

    def _until(self, holds: Any) -> None:
        give_up = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > give_up:
                raise TimeoutError("the shop does not get its work done")
            time.sleep(0.05)


def last_hour() -> Iterator[tuple[float, list[Increment]]]:
    """What each queue's jobs came to in each minute of the last hour, with a rush in it."""
    chance = random.Random(7)
    for ago in range(61, 0, -1):
        rush = 1.0 + 1.3 * max(0.0, 1 - abs(ago - 26) / 9)
        increments = []
        for queue, (rate, wait, run) in QUEUES.items():
            done = round(rate * rush * chance.uniform(0.8, 1.2))
            outcomes = {"succeeded": done, "retried": round(done * chance.uniform(0, 0.04))}
            waits = histogram([chance.lognormvariate(0, 0.8) * wait * rush**3 for _ in range(done)])
            runs = histogram([chance.lognormvariate(0, 0.5) * run for _ in range(done)])
            increments.append(increment(queue, outcomes, waits, runs))
        yield 60.0 * ago, increments


def histogram(spans: list[float]) -> Histogram:
    """Durations, counted by their buckets."""
    counts = [0] * (len(BUCKETS) + 1)
    for span in spans:
        counts[sum(span > bound for bound in BUCKETS)] += 1
    return Histogram(tuple(counts), sum(spans))


@contextmanager
def shop() -> Iterator[str]:
    """The shop's dashboard; its address."""
    with tempfile.TemporaryDirectory() as folder:
        made = Shop(f"sqlite:///{folder}/shop.db")
        try:
            made.fill()
            rights = frozenset("retry cancel delete run pause limit reveal".split())
            with serving(
                wsgi(made.backend, title="shop", access=lambda _: Access(rights, user="ada"))
            ) as address:
                yield address
        finally:
            made.close()


def take(browser: Browser, address: str, folder: Path, names: list[str]) -> None:
    """Take pictures, in few colours, which makes them small."""
    for name in names:
        path, width, height, scheme = PICTURES[name]
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(address + path, wait_until="networkidle")
        image = Image.open(BytesIO(page.screenshot())).convert("RGB")
        image.quantize(256).save(folder / f"dashboard-{name}.png", optimize=True)
        context.close()


def main() -> None:
    """Fill the shop and take the pictures: those of the documentation, or all of them into a folder."""
    logging.getLogger("neoq").setLevel(logging.CRITICAL)  # what is dead there is meant to be
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    names = list(PICTURES) if len(sys.argv) > 1 else list(PICTURES)[:2]
    with shop() as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        take(browser, address, folder, names)
        browser.close()


if __name__ == "__main__":
    main()
