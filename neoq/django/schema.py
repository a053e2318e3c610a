"""neoq's tables in the project's own database, made by `manage.py migrate`."""

from __future__ import annotations

from typing import Any

from neoq.django.installed import aliases
from neoq.django.options import Options
from neoq.django.registry import make


def make_tables(using: str) -> None:
    """Make or update the tables, where a database has the jobs of an alias of TASKS."""
    for alias in aliases():
        options = Options.of(alias)
        place = options.place() if options.url is None and options.database == using else None
        if place is None or not place.joins:
            continue
        backend = make(options, place)
        try:
            backend.queues()
        finally:
            backend.shutdown(0)


def migrate(_apps: Any, schema_editor: Any) -> None:
    """The operation of the migration."""
    make_tables(schema_editor.connection.alias)


def after_migrate(*, using: str, plan: Any = (), **_: Any) -> None:
    """Update the tables for a newer neoq, whatever else `migrate` had to do."""
    if not any(migration.app_label == "neoq" for migration, _ in plan):
        make_tables(using)
