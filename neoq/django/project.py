"""What `manage.py neoq` works on: the backend of an alias, in a process that the project is set up in."""

from __future__ import annotations

import importlib

import django
from django.conf import settings
from django.utils.module_loading import autodiscover_modules

from neoq.backend import Backend

MODULES = ("tasks", "jobs")  # of each installed application


def backend(alias: str) -> Backend:
    """The backend of an alias, when all that enqueues in this project has been imported.

    These are the modules ``tasks`` and ``jobs`` of the installed applications, and what the URLs lead to.
    """
    django.setup()
    from neoq.django.registry import backend as of_alias

    autodiscover_modules(*MODULES)
    urls = getattr(settings, "ROOT_URLCONF", None)
    if urls:
        importlib.import_module(urls)
    return of_alias(alias)
