"""System checks: what is wrong with the settings of neoq."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.core.checks import Error, Warning  # noqa: A004  # Django's name
from django.db import connections

from neoq.django.contract import BaseTaskBackend
from neoq.django.installed import aliases, is_installed
from neoq.django.options import Options
from neoq.django.registry import make
from neoq.errors import NeoqError


def check_aliases(**_: Any) -> list[Any]:
    """Check all aliases, where no application of Django Tasks does it."""
    if BaseTaskBackend.__module__.startswith("django.") or apps.is_installed("django_tasks"):
        return []
    return [
        message
        for alias, params in aliases().items()
        for message in check_alias(alias, params.get("QUEUES", ["default"]), params.get("OPTIONS", {}))
    ]


def check_alias(alias: str, queues: Iterable[str], given: Any) -> list[Any]:
    """What is wrong with an alias of TASKS. It opens no connection."""
    where = f"TASKS[{alias!r}]"
    try:
        options = Options.read(alias, queues, given)
        place = options.place()
        make(options, place).shutdown(0)
    except (NeoqError, ImportError, TypeError) as error:
        return [Error(f"{where}: {error}", hint="See docs/django.md: OPTIONS.", id="neoq.E001")]
    messages: list[Any] = []
    if place.joins:
        messages += _check_database(where, options.database)
    if not place.durable and not place.tests:
        messages.append(
            Warning(
                f"{where}: jobs are kept in memory and end with the process that enqueues them.",
                hint='Leave OPTIONS["url"] out to keep them in the database.',
                id="neoq.W002",
            )
        )
    return messages


def _check_database(where: str, database: str) -> list[Any]:
    messages: list[Any] = []
    if not is_installed():
        messages.append(
            Warning(
                f"{where}: its jobs are in the database {database!r}, and neoq.django is not installed.",
                hint='Add "neoq.django" to INSTALLED_APPS: then migrate makes the tables.',
                id="neoq.W001",
            )
        )
    connection = connections[database]
    if connection.vendor == "sqlite":
        mode = connection.settings_dict.get("OPTIONS", {}).get("transaction_mode") or "DEFERRED"
        if str(mode).upper() == "DEFERRED":
            messages.append(
                Warning(
                    f"{where}: transactions of the SQLite database {database!r} begin without its write "
                    'lock: with a worker beside them they may fail with "database is locked".',
                    hint=f'Set DATABASES[{database!r}]["OPTIONS"] = {{"transaction_mode": "IMMEDIATE"}}.',
                    id="neoq.W003",
                )
            )
    return messages
