"""The parser of each command: argparse with suggestions, variables, and an example at the end of its help."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, NoReturn

from neoq.cli.exits import CommandError, Exit
from neoq.cli.streams import show


class Parser(argparse.ArgumentParser):
    """A parser of one command; a wrong command line is a CommandError."""

    def __init__(self, prog: str, description: str = "", example: str = "", **options: Any) -> None:
        self.known: list[argparse.Action] = []
        super().__init__(
            prog=prog,
            description=description,
            epilog=f"example: {example}" if example else None,
            formatter_class=_Formatter,
            allow_abbrev=False,
            **options,
        )

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add an argument, and remember it for suggestions and variables."""
        action = super().add_argument(*names, **options)
        self.known.append(action)
        return action

    def print_help(self, _file: object = None) -> None:
        """Print the help. argparse itself passes over what it cannot write. Raises OutputError."""
        show(self.format_help(), end="")

    def error(self, message: str) -> NoReturn:
        """Refuse the command line."""
        raise CommandError(f"{message}\nTry: {self.prog} --help", Exit.USAGE)

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Read a command line. Raises CommandError."""
        given, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error("; ".join(map(self._surplus, unknown)))
        return given

    def _surplus(self, word: str) -> str:
        if not word.startswith("-"):
            return f"the argument {word!r} is one too many"
        name = word.partition("=")[0]
        options = [option for action in self.known for option in action.option_strings]
        return f"there is no option {name}{did_you_mean(name, options)}"

    def read_variables(
        self, given: argparse.Namespace, prefix: str, environ: Mapping[str, str] = os.environ
    ) -> None:
        """Give the options that the command line does not have the values of their variables.

        For parsers with ``argument_default=SUPPRESS``, whose namespace has only what was given.
        """
        variables = {
            prefix + action.dest.upper(): action
            for action in self.known
            if action.option_strings and action.dest != "help"
        }
        for name in sorted(environ):
            if not name.startswith(prefix) or not environ[name]:
                continue
            action = variables.get(name)
            if action is None:
                if near := did_you_mean(name, variables):
                    self.error(f"the variable {name} is not known{near}")
            elif not hasattr(given, action.dest):
                setattr(given, action.dest, self._value(name, environ[name], action))

    def _value(self, variable: str, text: str, action: argparse.Action) -> Any:
        try:
            if action.nargs == 0:
                from neoq.config import flag_in  # most command lines need no settings

                return flag_in(text)
            value: Any = action.type(text) if callable(action.type) else text
        except KeyError:
            self.error(f"the variable {variable} is {text!r}; it takes 1 or 0")
        except (ValueError, argparse.ArgumentTypeError) as error:
            self.error(f"the variable {variable}: {error}")
        if action.choices is not None and value not in action.choices:
            self.error(f"the variable {variable} is {text!r}; it takes {', '.join(map(str, action.choices))}")
        return value


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What a misspelt word may have meant: the end of a sentence, or nothing."""
    from neoq.wording.remedies import nearest

    near = nearest(word, known)
    return f"; did you mean {near}?" if near else ""


def count(least: int = 1) -> Any:
    """A type of options: a whole number from ``least``."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number >= {least}")
        return number

    return read


def seconds(text: str) -> float:
    """A type of options: seconds, or a span such as 500ms, 90s, 10m, 2h, 7d."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyz")
    try:
        value = float(number) * units[text.strip()[len(number) :] or "s"]
    except (ValueError, KeyError):
        value = -1.0
    if not 0 <= value < 1e10:
        raise argparse.ArgumentTypeError(f"{text!r} is no span; write seconds, or 500ms, 90s, 10m, 2h, 7d")
    return value


def moment(text: str) -> datetime | timedelta:
    """A type of options: a point in time in ISO 8601, by local time unless it says its zone, or a span."""
    try:
        return timedelta(seconds=seconds(text))
    except argparse.ArgumentTypeError:
        pass
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time; write 2026-11-27T13:00, 2026-11-27, or a span: 90s, 10m, 2h, 7d"
        ) from None
    return found.astimezone() if found.tzinfo is None else found
