"""manage.py neoq: the commands of neoq, for the jobs of this project."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand

from neoq.cli.main import main

OF_DJANGO = ("--settings", "--pythonpath")  # manage.py has heeded them


class Command(BaseCommand):
    """Passes its arguments on to neoq, whose application is the project."""

    help = "Runs the jobs of this project, and looks at them: worker, jobs, stats and more."

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command of neoq; ``--alias`` names one of TASKS other than the default."""
        alias, arguments = _arguments(argv[2:])
        sys.exit(self._run(alias, arguments, f"{Path(argv[0]).name} {argv[1]}"))

    def add_arguments(self, parser: Any) -> None:
        """Take whatever neoq takes."""
        parser.add_argument("--alias", default="default", help="an alias of TASKS")
        parser.add_argument("arguments", nargs="*")

    def handle(self, *_: Any, arguments: list[str], alias: str, **__: Any) -> None:
        """Run a command of neoq for `call_command`."""
        code = self._run(alias, arguments, "manage.py neoq")
        if code:
            sys.exit(code)

    def _run(self, alias: str, arguments: list[str], prog: str) -> int:
        os.environ["NEOQ_APP"] = f"neoq.django.project:backend({alias!r})"
        # Workers are further processes: they are to find what this one finds.
        paths = [
            str(Path(path).absolute()) for path in sys.path if Path(path).is_dir() and not _is_python(path)
        ]
        paths += os.environ.get("PYTHONPATH", "").split(os.pathsep)
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, paths)))
        return main(arguments, prog)


def _is_python(path: str) -> bool:
    return path.startswith((sys.prefix, sys.base_prefix)) or "site-packages" in path


def _arguments(given: list[str]) -> tuple[str, list[str]]:
    """The alias, and the arguments for neoq."""
    alias, rest, words = "default", [], iter(given)
    for word in words:
        name, equals, value = word.partition("=")
        if name not in {"--alias", *OF_DJANGO}:
            rest.append(word)
            continue
        value = value if equals else next(words, "")
        if name == "--alias":
            alias = value
    return alias, rest
