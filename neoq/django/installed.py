"""What of neoq a project has installed."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string


def is_installed() -> bool:
    """Whether INSTALLED_APPS has it."""
    return bool(apps.is_installed("neoq.django"))


def aliases() -> dict[str, Any]:
    """The aliases of TASKS whose jobs neoq keeps, with their parameters; `default` where TASKS is not set."""
    ours = import_string("neoq.django.task_backend.TaskBackend")  # which imports the checks, which ask here
    found = {}
    for alias, params in (getattr(settings, "TASKS", None) or {}).items():
        try:
            cls = import_string(params["BACKEND"])
        except (ImportError, KeyError):  # Django's own checks tell that
            continue
        if isinstance(cls, type) and issubclass(cls, ours):
            found[alias] = params
    return found
