"""A project whose database is named by $NEOQ_TEST_DATABASE: a file of SQLite, or a conninfo of Postgres."""

import os

import django

place = os.environ["NEOQ_TEST_DATABASE"]
if "=" in place:
    from psycopg.conninfo import conninfo_to_dict

    given = conninfo_to_dict(place)
    DATABASE = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": given.get("dbname", "postgres"),
        "USER": given.get("user", ""),
        "PASSWORD": given.get("password", ""),
        "HOST": given.get("host", ""),
        "PORT": given.get("port", ""),
    }
else:
    DATABASE = {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": place,
        "OPTIONS": {"transaction_mode": "IMMEDIATE"},
    }
DATABASES = {"default": DATABASE}
SECRET_KEY = "of the tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "neoq.django",
    "shop",
]
if django.VERSION < (6, 0):
    INSTALLED_APPS.append("django_tasks")
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "urls"
STATIC_URL = "/static/"
TASKS = {
    "default": {
        "BACKEND": "neoq.django.TaskBackend",
        "QUEUES": ["default", "emails", "later"],
        "OPTIONS": {"queues": {"emails": {"concurrency": 2, "max_retries": 2, "timeout": 30}}},
    }
}
