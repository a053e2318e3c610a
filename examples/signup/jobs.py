"""The handlers: what happens after a signup, outside of the request. They do not depend on the backend."""

from __future__ import annotations

import smtplib
import time
from email.headerregistry import Address
from email.message import EmailMessage

import neoq

SOON = neoq.RetryPolicy(delay=0.5)


def listen(backend: neoq.Backend, mail_server: tuple[str, int]) -> None:
    """Register every handler on a backend."""

    def send(kind: str, job: neoq.Job, to: Address, text: str) -> None:
        mail = EmailMessage()
        mail["From"] = "hello@signup.example"
        mail["To"] = to
        mail["Subject"] = kind.capitalize()
        mail["X-Kind"], mail["X-Job"] = kind, str(job.id)
        mail.set_content(text)
        # If the server rejects the mail, this raises: the attempt has failed, and the job is retried.
        with smtplib.SMTP(*mail_server, local_hostname="localhost", timeout=5) as smtp:
            smtp.send_message(mail)

    @backend.listen("welcome", concurrency=4, timeout=10, retry=SOON)
    def send_welcome(job: neoq.Job) -> None:
        name, email = job.payload["name"], job.payload["email"]
        send("welcome", job, Address(name, addr_spec=email), f"Welcome, {name}!")

    @backend.listen("reminder", concurrency=2, timeout=10, retry=SOON)
    def send_reminder(job: neoq.Job) -> None:
        name, email = job.payload["name"], job.payload["email"]
        send("reminder", job, Address(name, addr_spec=email), f"{name}, how do you like it?")

    @backend.listen("avatar", concurrency=1, timeout=0.5, max_retries=0)
    def fetch_avatar(job: neoq.Job) -> None:
        if job.payload["email"].startswith("slow"):
            time.sleep(
                3600
            )  # hangs in C, where nothing can interrupt it; the queue's only runner is replaced

    @backend.listen_cron("@every 1s", queue="digest", concurrency=1, timeout=10)
    def send_digest(job: neoq.Job) -> None:
        done = backend.stats().succeeded
        send("digest", job, Address("Team", addr_spec="team@signup.example"), f"{done} jobs done")
