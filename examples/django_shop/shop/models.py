"""What the shop knows."""

from __future__ import annotations

from django.db import models


class Person(models.Model):
    email = models.EmailField(primary_key=True)


class Order(models.Model):
    email = models.EmailField()
    item = models.CharField(max_length=100)
    invoiced = models.DateTimeField(null=True)
