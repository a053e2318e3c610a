"""The entry of the command `neoq`: it finds the command, parses its arguments and runs it."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from argparse import SUPPRESS
from pathlib import Path
from typing import Any, Protocol, cast

from neoq.cli import streams
from neoq.cli.exits import CommandError, Exit
from neoq.cli.parser import Parser, did_you_mean
from neoq.cli.streams import OutputError, say, show

GROUPS = ("Run jobs", "Look", "Change")
COMMANDS = "neoq.cli.commands"


class Command(Protocol):
    """A module of `neoq.cli.commands`."""

    HELP: str
    EXAMPLE: str
    GROUP: str

    def add_arguments(self, parser: Parser) -> None:
        """Give the parser the command's arguments."""

    def run(self, args: Any) -> int:
        """Do it; return an exit code."""


def names() -> list[str]:
    """The names of all commands."""
    folder = Path(__file__).parent / "commands"
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def command_of(name: str) -> Command:
    """The module of a command."""
    return cast("Command", importlib.import_module(f"{COMMANDS}.{name}"))


def parser_of(name: str, command: Command, prog: str = "neoq") -> Parser:
    """The parser of a command, which may say how by ``PARSER``, the keywords of argparse."""
    options: dict[str, Any] = dict(getattr(command, "PARSER", {}))
    if "usage" in options:
        options["usage"] = _as_called(options["usage"], prog)
    description = getattr(command, "DESCRIPTION", f"{command.HELP[0].upper()}{command.HELP[1:]}.")
    parser = Parser(f"{prog} {name}", description, _as_called(command.EXAMPLE, prog), **options)
    command.add_arguments(parser)
    for action in parser.known if prog != "neoq" else ():
        if action.dest == "app" and not action.option_strings:
            action.help = SUPPRESS
    return parser


def _as_called(line: str, prog: str) -> str:
    """A command line as it is called by ``prog``: a framework's own command names the application itself."""
    if prog == "neoq":
        return line
    words = re.sub(r" (\[APP\]|(--app |--url )?(shop:|sqlite:|postgresql:)\S+)", "", line)
    return prog + words.removeprefix("neoq")


def main(arguments: list[str] | None = None, prog: str = "neoq") -> int:
    """Run the command; return its exit code."""
    streams.fill_closed()
    try:
        code = _main(sys.argv[1:] if arguments is None else arguments, prog)
        show("", end="", flush=True)
        return code
    except OutputError as error:
        if error.unread:  # its reader, such as `head`, has enough
            return Exit.UNREAD
        say(f"{prog}: {error}")
        return Exit.FAILED
    finally:
        streams.drop_unwritten()


def _main(arguments: list[str], prog: str) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may not have every sign of a payload
        sys.stdout.reconfigure(errors="backslashreplace")
    if "_ARGCOMPLETE" in os.environ:
        from neoq.cli.completion import complete

        complete({name: command_of(name).add_arguments for name in names()})
    if arguments and arguments[0] == "help":
        arguments = [*arguments[1:2], "--help"]
    name = arguments[0] if arguments else "--help"
    try:
        if name in {"-h", "--help"}:
            print_overview(prog)
            return Exit.OK
        if name == "--version":
            from neoq import __version__

            show(f"neoq {__version__}")
            return Exit.OK
        if name not in names():
            raise CommandError(
                f"there is no command {name}{did_you_mean(name, names())}\nTry: {prog} --help", Exit.USAGE
            )
        command = command_of(name)
        return run(prog, name, command, arguments[1:])
    except CommandError as error:
        say(f"{prog}: {error}")
        return error.code
    except SystemExit as end:  # of argparse, after a help
        return int(end.code or 0)


def run(prog: str, name: str, command: Command, arguments: list[str]) -> int:
    """Run one command; errors that its user can mend are CommandErrors."""
    from neoq.errors import BackendError, BackendUnavailable, ConfigError, NeoqError, UnsupportedError

    parser = parser_of(name, command, prog)
    args = parser.parse(arguments)
    args.parser = parser
    try:
        return int(command.run(args))
    except KeyboardInterrupt:
        return 130
    except ConfigError as error:
        raise CommandError(str(error), Exit.USAGE) from error
    except BackendUnavailable as error:
        raise CommandError(f"the store cannot be reached: {error}", Exit.UNREACHABLE) from error
    except NeoqError as error:
        of_store = isinstance(error, BackendError) and not isinstance(error, UnsupportedError)
        raise CommandError(str(error), Exit.UNREACHABLE if of_store else Exit.FAILED) from error


def print_overview(prog: str) -> None:
    """Print what commands there are."""
    commands = {name: command_of(name) for name in names()}
    lines = [f"usage: {prog} COMMAND [options]", ""]
    for group in GROUPS:
        members = [name for name, command in commands.items() if group == command.GROUP]
        if members:
            lines += [f"{group}:", *(f"  {name:<10} {commands[name].HELP}" for name in members), ""]
    lines += [
        f"{prog} COMMAND --help says more of each.",
        f"example: {_as_called('neoq worker shop:backend --processes 2', prog)}",
    ]
    show("\n".join(lines))
