"""neoq in Django: a backend for Django Tasks, whose jobs join the transactions of the project's database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neoq.django.registry import backend
    from neoq.django.task_backend import TaskBackend

__all__ = ["TaskBackend", "backend"]

_WHERE = {"TaskBackend": "neoq.django.task_backend", "backend": "neoq.django.registry"}


def __getattr__(name: str) -> Any:
    """Import a name at its first use: settings name this package before Django is ready."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_WHERE[name]), name)
    globals()[name] = value
    return value
