"""The work that no request waits for. `manage.py neoq worker` imports this and runs it, in other processes.

`welcome` and `invoice` are Django Tasks. `thumbnails` shows its progress and `report` runs by cron: these are
tasks of neoq, which share the backend, the queues and the transactions with them.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.mail import EmailMessage
from django.utils import timezone
from PIL import Image

import neoq
import neoq.django
from shop.models import Order

try:
    from django.tasks import task
except ImportError:  # before Django 6
    from django_tasks import task

tasks = neoq.Tasks()
SIZES = (512, 256, 128, 64)


def send(name: Any, to: str, subject: str, text: str) -> None:
    # A second attempt sends the same name. If the server is away or rejects the mail, this raises: the job
    # is retried.
    mail = EmailMessage(subject, text, to=[to], headers={"Message-ID": f"<{name}@shop.example>"})
    mail.send()


@task(queue_name="mail", takes_context=True)
def welcome(context: Any, email: str) -> None:
    send(context.task_result.id, email, "Welcome", "Welcome to the shop!")


@task(queue_name="mail", takes_context=True)
def invoice(context: Any, order: int) -> None:
    found = Order.objects.get(pk=order)
    if found.invoiced:  # by an attempt whose worker was killed before the job was done
        return
    send(context.task_result.id, found.email, f"Invoice {order}", f"One {found.item}. Thank you!")
    found.invoiced = timezone.now()
    found.save(update_fields=["invoiced"])


@tasks.task(queue="photos", timeout=60)
def thumbnails(job: neoq.Job, name: str) -> list[str]:
    """Make a smaller picture of each size; the page shows how far it is."""
    made = []
    with Image.open(settings.DATA / name) as picture:
        for number, size in enumerate(SIZES):
            job.progress(number / len(SIZES), f"{size} pixels")
            small = picture.copy()
            small.thumbnail((size, size))
            small.save(settings.DATA / f"{size}-{name}")
            made.append(f"{size}-{name}")
    return made


@tasks.task(queue="mail", cron="0 3 * * *", timezone="Europe/Paris", timeout=60)
def report(job: neoq.Job) -> None:
    """Every night: what was ordered."""
    orders, owed = Order.objects.count(), Order.objects.filter(invoiced=None).count()
    send(job.id, "team@shop.example", "Nightly report", f"{orders} orders, {owed} of them without an invoice")


neoq.django.backend().include(tasks)
