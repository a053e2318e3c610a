from django.test import TestCase, TransactionTestCase

from shop import tasks
from shop.models import Order


class InTransaction(TestCase):
    """A task that a test enqueues is gone with the test's transaction."""

    def test_enqueue(self):
        order = Order.objects.create(name="x")
        assert tasks.mail.enqueue(order.pk).id is not None
        with self.captureOnCommitCallbacks(execute=True):
            tasks.typed.enqueue(order.pk)


class Committing(TransactionTestCase):
    """A task that is committed leaves no connection open that would keep the database from being dropped."""

    def test_enqueue(self):
        assert tasks.add.enqueue(1).enqueued_at is not None
