"""The application for INSTALLED_APPS: migrations, system checks, the admin and `manage.py neoq`."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.core.checks import register
from django.db.models.signals import post_migrate


class NeoqConfig(AppConfig):
    """neoq in a project."""

    name = "neoq.django"
    label = "neoq"
    verbose_name = "Background jobs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register what is to be heard of."""
        from neoq.django.checks import check_aliases
        from neoq.django.schema import after_migrate

        register(check_aliases)
        post_migrate.connect(after_migrate, sender=self)


def is_installed() -> bool:
    """Whether INSTALLED_APPS has it."""
    from django.apps import apps

    return bool(apps.is_installed(NeoqConfig.name))


def aliases() -> dict[str, Any]:
    """The aliases of TASKS whose jobs neoq keeps, with their parameters; `default` where TASKS is not set."""
    from django.conf import settings
    from django.utils.module_loading import import_string

    from neoq.django.task_backend import TaskBackend

    found = {}
    for alias, params in (getattr(settings, "TASKS", None) or {}).items():
        try:
            cls = import_string(params["BACKEND"])
        except (ImportError, KeyError):  # Django's own checks tell that
            continue
        if isinstance(cls, type) and issubclass(cls, TaskBackend):
            found[alias] = params
    return found
