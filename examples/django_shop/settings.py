"""The settings. What has to do with background jobs is TASKS, and neoq.django in INSTALLED_APPS."""

from __future__ import annotations

import os
from pathlib import Path

import django

import neoq

INSTALLED_APPS = ["neoq.django", "shop"]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")

TASKS = {
    "default": {
        "BACKEND": "neoq.django.TaskBackend",  # the jobs are in the project's own database
        "QUEUES": ["mail", "photos"],
        "OPTIONS": {
            "queues": {
                "mail": {
                    "concurrency": 4,
                    "timeout": 20,
                    "max_retries": 10,
                    "retry": neoq.RetryPolicy(delay=[1, 5, 30]),  # seconds; the last one repeats
                },
                "photos": {"concurrency": 1},
            }
        },
    }
}

DATA = Path(os.environ.get("SHOP_DATA", "data")).resolve()
DATA.mkdir(parents=True, exist_ok=True)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA / "shop.db",
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 10},  # one writer at a time
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DEFAULT_FROM_EMAIL = "hello@shop.example"
_host, _, _port = os.environ.get("SHOP_SMTP", "127.0.0.1:8025").rpartition(":")
if django.VERSION >= (6, 1):
    MAILERS = {
        "default": {
            "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "OPTIONS": {"host": _host, "port": int(_port), "timeout": 5},
        }
    }
else:
    EMAIL_HOST, EMAIL_PORT, EMAIL_TIMEOUT = _host, int(_port), 5

SECRET_KEY = os.environ.get("SHOP_SECRET", "set SHOP_SECRET in production")
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop.urls"
MIDDLEWARE = ["django.middleware.csrf.CsrfViewMiddleware", "shop.views.ComeBackLater"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
TIME_ZONE = "UTC"
