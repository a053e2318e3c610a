"""neoq dashboard: serve the pages of a store to a browser on this machine, or to those with a password."""

from __future__ import annotations

import argparse
import signal
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoq.cli.exits import CommandError, Exit
from neoq.cli.parser import Parser
from neoq.cli.streams import say
from neoq.cli.target import opened

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from neoq.backend import Backend
    from neoq.dashboard.access import Loopback, Password

HELP = "serve pages that show a store, and steer it"
EXAMPLE = "neoq dashboard shop:backend --allow retry,cancel"
GROUP = "Look"
DESCRIPTION = """Serve the dashboard until Ctrl-C or TERM; read-only and for this machine only by default.
Each option has a variable: NEOQ_DASHBOARD_PORT and so on."""
PARSER: dict[str, Any] = {"argument_default": argparse.SUPPRESS, "usage": "neoq dashboard [APP] [options]"}
HOST, PORT = "127.0.0.1", 8765
THREADS = 8
MAX_BODY = 1_000_000  # bytes of a request
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def add_arguments(parser: Parser) -> None:
    """Which store, for whom, and where."""
    parser.add_argument(
        "app",
        nargs="?",
        metavar="APP",
        help="the store of this application, such as shop:backend ($NEOQ_APP)",
    )
    add = parser.add_argument
    add("--url", metavar="URL", help="the store itself, such as sqlite:///jobs.db ($NEOQ_URL)")
    add("--host", metavar="ADDRESS", help=f"listen there (default: {HOST})")
    add("--port", type=_port, metavar="PORT", help=f"listen there (default: {PORT}; 0: any that is free)")
    add(
        "--allow",
        type=_rights,
        metavar="RIGHT,...",
        help="what may be done here: retry, cancel, delete, run, pause, reveal, or all (default: nothing)",
    )
    add(
        "--password-file",
        metavar="FILE",
        help="ask for the password in its first line; needed for a --host that others reach",
    )
    add(
        "--metrics-token-file",
        metavar="FILE",
        help="let /metrics be read with the bearer token in its first line",
    )
    add("--title", metavar="TEXT", help="stands at the top of each page (default: neoq)")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} is no port; it takes 0 to 65535")
    return int(text)


def _rights(text: str) -> frozenset[str]:
    known = ("retry", "cancel", "delete", "run", "pause", "limit", "reveal")
    given = [word.strip() for word in text.split(",") if word.strip()]
    if given == ["all"]:
        return frozenset(known)
    wrong = [word for word in given if word not in known]
    if wrong or not given:
        raise argparse.ArgumentTypeError(
            f"{', '.join(wrong) or text!r} is none; rights are {', '.join(known)}, or all"
        )
    return frozenset(given)


def run(args: argparse.Namespace) -> int:
    """Serve until somebody ends it."""
    parser: Parser = args.parser
    parser.read_variables(args, "NEOQ_DASHBOARD_")
    for name in ("app", "url", "password_file", "metrics_token_file"):
        vars(args).setdefault(name, None)
    access = _access(args)
    waitress = _waitress()
    with _ended_by_signals(), opened(args) as backend:
        _serve(waitress, _application(args, backend, access), args)
    return Exit.OK


def _serve(waitress: Any, application: Any, args: argparse.Namespace) -> None:
    with _listening(getattr(args, "host", HOST), getattr(args, "port", PORT)) as own:
        host, port = own.getsockname()[:2]
        server = waitress.create_server(
            application,
            sockets=[own],
            threads=THREADS,
            max_request_body_size=MAX_BODY,
            clear_untrusted_proxy_headers=False,  # the dashboard refuses what a proxy passes on
            ident="neoq",
        )
        rights = ", ".join(sorted(getattr(args, "allow", ()))) or "nothing, see --allow"
        shown = f"[{host}]" if ":" in host else host
        say(f"the dashboard is at http://{shown}:{port}/ and may change {rights}")
        try:
            server.run()
        finally:
            server.close()
            application.close()


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CommandError(
            f"cannot listen on {host}, port {port}: {reason}; give another --port, or 0 for any that is free",
            Exit.USAGE,
        ) from error


def _application(args: argparse.Namespace, backend: Backend, access: Loopback | Password) -> Any:
    from neoq.dashboard.app import Dashboard

    return Dashboard(
        backend,
        access=access,
        title=getattr(args, "title", "neoq"),
        metrics_token=_first_line(args.metrics_token_file, "--metrics-token-file"),
    )


def _access(args: argparse.Namespace) -> Loopback | Password:
    """Who may come in: those on this machine, or those with the password."""
    from neoq.dashboard.access import Loopback, Password

    host: str = getattr(args, "host", HOST)
    allowed: frozenset[str] = getattr(args, "allow", frozenset())
    password = _first_line(args.password_file, "--password-file")
    local = host in _LOOPBACK or host.startswith("127.")
    if not local and password is None:
        raise CommandError(
            f"--host {host} can be reached by others: add --password-file FILE, whose first line they have "
            "to know, or serve neoq.dashboard.wsgi(backend, access=...) behind a login of your own",
            Exit.USAGE,
        )
    if not local and allowed:
        raise CommandError(
            f"--allow is for this machine only, and --host {host} can be reached by others: to let them "
            "change jobs serve neoq.dashboard.wsgi(backend, access=...) behind a login of your own",
            Exit.USAGE,
        )
    return Loopback(allowed, _login()) if password is None else Password(password, allowed)


def _login() -> str | None:
    import getpass

    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # the uid has no name, as in some containers
        return None


def _first_line(path: str | None, option: str) -> str | None:
    """The secret in a file."""
    if path is None:
        return None
    try:
        with Path(path).open(encoding="utf-8") as file:
            line = file.readline().strip()
    except (OSError, ValueError) as error:
        raise CommandError(f"{option} {path} cannot be read: {error}", Exit.USAGE) from error
    if not line:
        raise CommandError(f"{option} {path}: its first line is empty", Exit.USAGE)
    return line


def _waitress() -> Any:
    try:
        import waitress

        import neoq.dashboard.app  # noqa: F401  # which needs Jinja2
    except ModuleNotFoundError as error:
        if error.name not in {"waitress", "jinja2", "markupsafe"}:
            raise
        raise CommandError(
            f"neoq dashboard needs {error.name}, which is not installed: pip install 'neoq[dashboard]'",
            Exit.FAILED,
        ) from None
    return waitress


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let Ctrl-C and TERM end what the block serves, and the command with 0."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:  # before it served, or once more
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
