"""The shops in Flask and Django, over HTTP, with real mails, and with kill -9 in the middle."""

from __future__ import annotations

import collections
import email
import http.client
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import neoq
from tests.processes import ROOT, Child, running
from tests.web_servers import free_port, until

pytest.importorskip("gunicorn")
Image = pytest.importorskip("PIL.Image")
controller = pytest.importorskip("aiosmtpd.controller")
TOKEN = "t" * 32
FORM = {"Cookie": f"csrftoken={TOKEN}", "X-CSRFToken": TOKEN}  # Django wants to see both
pytestmark = pytest.mark.timeout(240)  # the first run makes a virtual environment
HANDS = 4  # jobs of the queue "mail" that a worker runs at once


class Mailbox:
    """A mail server that keeps the subject and the recipient of each mail."""

    def __init__(self) -> None:
        self.mails: collections.Counter[tuple[str, str]] = collections.Counter()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        mail = email.message_from_bytes(envelope.content)
        self.mails[mail["Subject"], mail["To"]] += 1
        return "250 OK"


class Shop:
    """The processes of a shop in a folder of its own."""

    place: Path
    web_command: tuple[str, ...]
    worker_command: tuple[str, ...]
    orders_of: str  # what reads id, email, item and the time of the invoice
    invoice: str  # the kind of the job

    def __init__(self, folder: Path, python: str) -> None:
        self.python = python
        self.folder = folder
        self.database = folder / "shop.db"
        self.mailbox = Mailbox()
        self.port, mail_port = free_port(), free_port()
        self.mail_server = controller.Controller(self.mailbox, hostname="127.0.0.1", port=mail_port)
        self.mail_server.start()
        self.env = {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{self.place}",
            "SHOP_DATA": str(folder),
            "SHOP_SMTP": f"127.0.0.1:{mail_port}",
            "NEOQ_LEASE": "3",
            "NEOQ_HEARTBEAT": "0.5",
            "NEOQ_RUNTIME_DIR": str(folder),
        }

    def prepare(self) -> None:
        """Make what must be there before the first process."""

    @contextmanager
    def web(self) -> Iterator[Child]:
        command = [self.python, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}", "--threads", "4"]
        with running([*command, *self.web_command], env=self.env) as child:
            until(lambda: self.ask("GET", "/")[0] == 200, "the web process answers", child)
            yield child

    @contextmanager
    def worker(self) -> Iterator[Child]:
        command = [self.python, *self.worker_command, "neoq", "worker", "--processes", "2"]
        with running(command, env=self.env) as child:
            yield child

    def ask(self, method: str, path: str, **form: str) -> tuple[int, Any]:
        """The status and the answer; (0, None) where the server is away."""
        body = "&".join(f"{name}={value}" for name, value in form.items())
        return self._send(method, path, body.encode(), "application/x-www-form-urlencoded")

    def send_photo(self, name: str, photo: bytes) -> tuple[int, Any]:
        head = f'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n{name}\r\n--x\r\n'
        head += 'Content-Disposition: form-data; name="photo"; filename="a.png"\r\n\r\n'
        body = head.encode() + photo + b"\r\n--x--\r\n"
        return self._send("POST", "/photo", body, "multipart/form-data; boundary=x")

    def _send(self, method: str, path: str, body: bytes, kind: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            connection.request(method, path, body, {"Content-Type": kind, **FORM})
            answer = connection.getresponse()
            found = answer.read()
            is_json = answer.headers.get_content_type() == "application/json"
            return answer.status, json.loads(found) if is_json else found.decode()
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()

    def backend(self) -> neoq.Backend:
        return neoq.connect(f"sqlite:///{self.database}", autostart=False)

    def orders(self) -> list[tuple[int, str, str, str | None]]:
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(self.orders_of).fetchall()

    def order_of(self, job: neoq.Job) -> int:
        """The number of the order that a job sends the invoice of."""
        number: int = job.payload["order"]
        return number


class FlaskShop(Shop):
    place = ROOT / "examples" / "flask_shop"
    web_command = ("shop:create_app()",)
    worker_command = ("-m", "flask", "--app", "shop")
    orders_of = "select id, email, item, invoiced from orders"
    invoice = "jobs.invoice"


class DjangoShop(Shop):
    place = ROOT / "examples" / "django_shop"
    web_command = ("wsgi",)
    worker_command = (str(place / "manage.py"),)
    orders_of = "select id, email, item, invoiced from shop_order"
    invoice = "shop.tasks.invoice"

    def prepare(self) -> None:
        command = [self.python, str(self.place / "manage.py"), "migrate"]
        subprocess.run(command, env=os.environ | self.env, check=True, capture_output=True, timeout=30)

    def order_of(self, job: neoq.Job) -> int:
        number: int = job.payload["kwargs"]["order"]
        return number


@pytest.fixture(params=["Flask", "Django", "newest Django"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    python = sys.executable
    if request.param == "newest Django":
        python = request.getfixturevalue("newest_django")
    else:
        pytest.importorskip(request.param.lower())
    shop = (FlaskShop if request.param == "Flask" else DjangoShop)(tmp_path, python)
    try:
        shop.prepare()
        yield shop
    finally:
        shop.mail_server.stop()


def test_the_shop_does_what_its_page_offers(shop: Shop) -> None:
    """A signup and an order send mails, a declined order leaves nothing, a photo gets its thumbnails."""
    photo = io.BytesIO()
    Image.new("RGB", (900, 600), "teal").save(photo, "png")
    with shop.web() as web, shop.worker():
        assert shop.ask("POST", "/signup", email="ada@shop.example")[0] == 202
        assert shop.ask("POST", "/signup", email="nonsense")[0] == 400
        assert shop.ask("POST", "/order", email="ada@shop.example", item="tea", card="declined")[0] == 402
        _, ordered = shop.ask("POST", "/order", email="ada@shop.example", item="tea")
        status, sent = shop.send_photo("me.png", photo.getvalue())
        assert status == 202
        assert shop.send_photo("../me.png", photo.getvalue())[0] == 400
        done = until(ended(shop, sent["job"]), "the photo is done", web)
        assert done["status"] == "succeeded"
        assert done["done"] == 1.0
        assert done["result"] == [f"{size}-photo-me.png" for size in (512, 256, 128, 64)]
        with Image.open(shop.folder / "64-photo-me.png") as small:
            assert max(small.size) == 64
        wanted = {("Welcome", "ada@shop.example"), (f"Invoice {ordered['order']}", "ada@shop.example")}
        until(lambda: set(shop.mailbox.mails) == wanted, "both mails arrive", web)
        until(
            lambda: "tea for ada@shop.example, invoiced" in shop.ask("GET", "/")[1], "the page says so", web
        )
    assert len(shop.orders()) == 1


@pytest.mark.parametrize(
    ("kind", "end"),
    [
        (FlaskShop, (os.killpg, signal.SIGINT)),  # as a terminal does
        (DjangoShop, (os.killpg, signal.SIGINT)),
        (FlaskShop, (os.kill, signal.SIGTERM)),
    ],
)
def test_the_command_of_the_readme_starts_everything(
    kind: type[Shop], end: tuple[Callable[[int, int], None], int], tmp_path: Path
) -> None:
    """One command starts the mail server, the web process and the worker; Ctrl-C or TERM ends all of them."""
    shop = kind(tmp_path, sys.executable)
    shop.mail_server.stop()
    with running([sys.executable, shop.place / "start.py"], env=shop.env | {"PORT": str(shop.port)}) as child:
        until(lambda: shop.ask("GET", "/")[0] == 200, "the web process answers", child)
        assert shop.ask("POST", "/order", email="ada@shop.example", item="tea")[0] == 202
        child.until("Subject: Invoice 1")
        send, number = end
        send(child.pid, number)
        child.ends_well()
    assert shop.ask("GET", "/") == (0, None)


def ended(shop: Shop, job: int) -> Callable[[], Any]:
    def look() -> Any:
        state = shop.ask("GET", f"/job/{job}")[1]
        return state if state and state["status"] in {"succeeded", "dead"} else None

    return look


class Crowd:
    """Clients that sign up and order without pause; what they were promised."""

    def __init__(self, shop: Shop) -> None:
        self.welcomes: collections.deque[str] = collections.deque()
        self.orders: collections.deque[int] = collections.deque()
        self._shop = shop
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._visit, args=(n,)) for n in range(3)]
        for thread in self._threads:
            thread.start()

    def _visit(self, client: int) -> None:
        visits = 0
        while not self._stopped.wait(0.01):
            visits += 1
            who = f"client{client}-{visits}@shop.example"
            if self._shop.ask("POST", "/signup", email=who)[0] == 202:
                self.welcomes.append(who)
            declined = {"card": "declined"} if visits % 5 == 0 else {}
            status, answer = self._shop.ask("POST", "/order", email=who, item="cake", **declined)
            assert status in ({402, 0} if declined else {202, 0, 503})
            if status == 202:
                self.orders.append(answer["order"])

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def test_every_job_is_accounted_for_when_processes_are_killed(shop: Shop) -> None:
    """The worker and then the web process get kill -9 under load: no promised mail is missing."""
    with shop.web() as web, shop.worker() as worker:
        crowd = Crowd(shop)
        try:
            until(lambda: len(shop.mailbox.mails) > 20, "mails arrive", worker)
            os.killpg(worker.pid, signal.SIGKILL)
            had = len(crowd.orders)
            until(lambda: len(crowd.orders) > had + 10, "orders go on without a worker", web)
            os.killpg(web.pid, signal.SIGKILL)
            web.exit_code()
            with shop.web() as second_web, shop.worker():
                had = len(crowd.orders)
                until(lambda: len(crowd.orders) > had + 10, "orders go on", second_web)
                crowd.stop()
                with shop.backend() as backend:
                    until(lambda: not unfinished(backend), "every job has ended", second_web)
        finally:
            crowd.stop()
    with shop.backend() as backend:
        counts = {counts.queue: counts for counts in backend.queues()}
        assert counts["mail"].dead == 0
        invoices = [shop.order_of(job) for job in backend.jobs("mail", kind=shop.invoice, limit=10_000)]
    orders = shop.orders()
    assert sorted(invoices) == [number for number, *_ in orders]  # committed together, one for each
    assert set(crowd.orders) <= set(invoices)
    assert not any(number for number, _, _, invoiced in orders if invoiced is None)
    mails = shop.mailbox.mails
    assert {(f"Invoice {number}", who) for number, who, *_ in orders} <= set(mails)
    assert {("Welcome", who) for who in crowd.welcomes} <= set(mails)
    assert sum(times - 1 for times in mails.values()) <= 2 * HANDS  # only what was in hand at the kill


def unfinished(backend: neoq.Backend) -> int:
    return sum(counts.unfinished for counts in backend.queues())
