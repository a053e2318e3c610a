import asyncio
import threading
from datetime import UTC, datetime

import neoq
import neoq.django
from shop.models import Order

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task

tasks = neoq.Tasks()
go_on = threading.Event()


class Bounced(Exception):
    pass


@task
def add(a, b=2):
    return a + b


@task()
async def add_slowly(a, b):
    await asyncio.sleep(0.01)
    return a + b


@task(takes_context=True)
def attempt_of(context, name):
    return [name, context.attempt, context.task_result.id, context.task_result.status]


@task(queue_name="emails", priority=5)
def mail(order_id):
    order = Order.objects.get(pk=order_id)
    Order.objects.filter(pk=order_id).update(mails=order.mails + 1)
    return order.name


@task(takes_context=True, queue_name="emails")
def flaky(context, fails):
    if context.attempt <= fails:
        raise Bounced(f"attempt {context.attempt}")
    return context.attempt


@task
def fail(message):
    raise Bounced(message)


@task
def fail_plainly():
    return 1 / 0


@task
def unserialisable():
    return datetime.now(UTC)


@task
def as_tuple():
    return (1, {"b": b"bytes"})


@task
def wait_for_test():
    return go_on.wait(20)


@tasks.task
def typed(order_id: int) -> str:
    return Order.objects.get(pk=order_id).name


neoq.django.backend().include(tasks)
