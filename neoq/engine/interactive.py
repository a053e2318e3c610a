"""Interactive sessions, in which the same handler is often defined and registered again."""

from __future__ import annotations

import builtins
import sys
from typing import Any

_PLACE = ("url", "path", "db", "schema", "prefix")  # the settings that locate a store


def is_interactive() -> bool:
    """Whether this process is a prompt or a notebook: Python's own, IPython's or Jupyter's."""
    return bool(sys.flags.interactive) or hasattr(sys, "ps1") or hasattr(builtins, "get_ipython")


def named_alike(one: object, other: object) -> bool:
    """Whether two handlers have the same name in the same module: then one is a new version of the other."""
    name = getattr(one, "__qualname__", None)
    return (
        name is not None
        and name == getattr(other, "__qualname__", None)
        and getattr(one, "__module__", None) == getattr(other, "__module__", None)
    )


def place_of(config: object) -> tuple[Any, ...]:
    """Where the store of these settings is: equal for two backends on one store."""
    return (type(config), *(getattr(config, name, None) for name in _PLACE))
