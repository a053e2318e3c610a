"""The context variables that a queue's handlers begin with: those of where it was listened to."""

from __future__ import annotations

import sys
from contextvars import Context, ContextVar, copy_context
from typing import Any


class Surroundings:
    """The context variables of the moment at which it is made, for attempts that must not see each other's.

    A thread runs jobs in one fresh context until it is spoiled. To enter one for each job costs half a
    microsecond; to see that it was left as it was costs next to nothing.

    decimal keeps its precision in an object in a variable of its own, which a copied context would share, and
    which changes unseen. So each context is given another one, but only where it is not the one that decimal
    makes where there is none: psycopg has it made, and few programs change it.
    """

    def __init__(self) -> None:
        self._here = copy_context()
        self._precision: Any = None
        decimal: Any = sys.modules.get("decimal")
        if decimal is None:
            return
        for variable, value in self._here.items():
            if isinstance(value, decimal.Context):
                self._leave_out(variable)
                if not _is_default(value, decimal.DefaultContext):
                    self._precision = value.copy()
                    self._set_precision = decimal.setcontext

    def _leave_out(self, variable: ContextVar[Any]) -> None:
        there, self._here = self._here, Context()
        for other, value in there.items():
            if other is not variable:
                self._here.run(other.set, value)

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


def _is_default(precision: Any, default: Any) -> bool:
    """Whether decimal computes alike in two of its contexts."""
    names = ("prec", "rounding", "Emin", "Emax", "capitals", "clamp", "traps")
    return all(getattr(precision, name) == getattr(default, name) for name in names)
