"""The application for INSTALLED_APPS: migrations, system checks, the admin and `manage.py neoq`."""

from __future__ import annotations

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
