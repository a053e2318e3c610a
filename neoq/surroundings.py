"""The context variables that a queue's handlers begin with: those of where it was listened to."""

from __future__ import annotations

import sys
from contextvars import Context, copy_context
from typing import Any


class Surroundings:
    """The context variables of the moment at which it is made, for attempts that must not see each other's.

    A thread runs jobs in one fresh context until it is spoiled. To enter one for each job costs half a
    microsecond; to see that it was left as it was costs next to nothing.

    decimal keeps its precision in an object in a variable of its own, which a copied context would share, and
    which changes unseen. So each context is given another one, but only where there is one now: otherwise
    decimal makes its own.
    """

    def __init__(self) -> None:
        self._here = copy_context()
        self._precision: Any = None
        decimal: Any = sys.modules.get("decimal")
        if decimal is not None and any(isinstance(value, decimal.Context) for value in self._here.values()):
            self._precision = self._here.run(decimal.getcontext).copy()
            self._set_precision = decimal.setcontext

    def fresh(self) -> Context:
        """A context that is as it was."""
        context = self._here.copy()
        if self._precision is not None:
            context.run(self._set_precision, self._precision.copy())
        return context

    def spoiled(self, context: Context) -> bool:
        """Whether anything was set, or may have been, in a fresh context."""
        here = self._here
        return (
            self._precision is not None
            or len(context) != len(here)
            or any(context.get(variable, here) is not value for variable, value in here.items())
        )
