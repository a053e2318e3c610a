"""The work that no request waits for. `flask neoq worker` runs it, in processes of its own."""

from __future__ import annotations

import smtplib
import sqlite3
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path

import flask
from PIL import Image

import neoq
from neoq.flask import Neoq

queue = Neoq()
queue.queue("mail", concurrency=4)
queue.queue("photos", concurrency=1)
RETRY = neoq.RetryPolicy(delay=[1, 5, 30])
SIZES = (512, 256, 128, 64)


def database(app: flask.Flask | None = None) -> sqlite3.Connection:
    """A connection to the shop's database, where each transaction is begun by hand."""
    path = (app or flask.current_app).config["DATABASE"]
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    connection.row_factory = sqlite3.Row
    return connection


def send(job: neoq.Job, to: str, subject: str, text: str) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "hello@shop.example", to, subject
    mail["Message-ID"] = f"<{job.id}@shop.example>"  # the same at a second attempt
    mail.set_content(text)
    host, _, port = flask.current_app.config["SMTP"].rpartition(":")
    # If the server is away or rejects the mail, this raises: the job is retried.
    with smtplib.SMTP(host, int(port), local_hostname="localhost", timeout=5) as smtp:
        smtp.send_message(mail)


@queue.task(queue="mail", timeout=20, retry=RETRY, max_retries=10)
def welcome(job: neoq.Job, email: str) -> None:
    send(job, email, "Welcome", "Welcome to the shop!")


@queue.task(queue="mail", timeout=20, retry=RETRY, max_retries=10)
def invoice(job: neoq.Job, order: int) -> None:
    with closing(database()) as connection:
        row = connection.execute("select * from orders where id = ?", (order,)).fetchone()
        send(job, row["email"], f"Invoice {order}", f"One {row['item']}. Thank you!")
        # The order is marked and the job is done in one transaction.
        connection.execute("begin immediate")
        connection.execute("update orders set invoiced = datetime() where id = ?", (order,))
        job.complete(connection)
        connection.execute("commit")


@queue.task(queue="photos", timeout=60)
def thumbnails(job: neoq.Job, name: str) -> list[str]:
    """Make a smaller picture of each size; the page shows how far it is."""
    made = []
    data: Path = flask.current_app.config["DATA"]
    with Image.open(data / name) as picture:
        for number, size in enumerate(SIZES):
            job.progress(number / len(SIZES), f"{size} pixels")
            small = picture.copy()
            small.thumbnail((size, size))
            small.save(data / f"{size}-{name}")
            made.append(f"{size}-{name}")
    return made


@queue.task(queue="mail", cron="0 3 * * *", timezone="Europe/Paris", timeout=60)
def report(job: neoq.Job) -> None:
    """Every night: what was ordered."""
    with closing(database()) as connection:
        (orders,) = connection.execute("select count(*) from orders").fetchone()
        (owed,) = connection.execute("select count(*) from orders where invoiced is null").fetchone()
    send(job, "team@shop.example", "Nightly report", f"{orders} orders, {owed} of them without an invoice")
