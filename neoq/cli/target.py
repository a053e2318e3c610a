"""What a command works on: the backend of an application, or of a URL."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neoq.cli.exits import CommandError, Exit
from neoq.cli.parser import Parser, did_you_mean

if TYPE_CHECKING:
    from neoq.backend import Backend

LOOKED_FOR = ("backend", "queue", "app")
HOW = "write module:attribute, such as shop:backend, shop:create_app(), or set NEOQ_APP"


def add_app(parser: Parser) -> None:
    """Let the application be the first argument of a command."""
    parser.add_argument(
        "app", nargs="?", metavar="APP", help="module:attribute, module:factory() or module ($NEOQ_APP)"
    )


def app_of(args: argparse.Namespace) -> str:
    """The application that a command line or $NEOQ_APP names."""
    app = getattr(args, "app", None) or os.environ.get("NEOQ_APP", "")
    if not app.strip():
        raise CommandError(f"which application? {HOW}", Exit.USAGE)
    return app.strip()


def add_store(parser: Parser) -> None:
    """Let the options of an operating command name its store, by an application or a URL."""
    parser.add_argument(
        "--app", metavar="APP", help="the store of this application, such as shop:backend ($NEOQ_APP)"
    )
    parser.add_argument(
        "--url", metavar="URL", help="the store itself, such as sqlite:///jobs.db ($NEOQ_URL)"
    )


@contextmanager
def only_looking() -> Iterator[None]:
    """Run no jobs in this process, whatever the application does when it is imported."""
    from neoq.engine.engine import Engine

    before, Engine.only_looks = Engine.only_looks, True
    try:
        yield
    finally:
        Engine.only_looks = before


def login() -> str:
    """Who runs this command: the login at this host, also where it runs under sudo."""
    from neoq.system import host_name

    try:
        name = os.getlogin()
    except OSError:  # it has no terminal
        name = _owner()
    return f"{name}@{host_name()}"


def _owner() -> str:
    """The user whose process this is."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except ImportError:  # Windows
        return os.environ.get("USERNAME") or "unknown"
    except KeyError:  # in a container a user may have no name
        return f"uid {os.getuid()}"


@contextmanager
def opened(args: argparse.Namespace, *, make: bool = False) -> Iterator[Backend]:
    """The backend that an operating command works on, shut down at the end. It runs no jobs.

    What the command changes leaves entries in the audit that name who has logged in here.

    The store is, in this order, that of --url, --app, $NEOQ_APP or $NEOQ_URL. With ``make`` its tables are
    made where they are missing; otherwise a misspelt URL would leave an empty store behind.
    """
    from neoq.audit import acting_as

    with only_looking(), acting_as(login(), via="command"):
        backend = _store_of(args, make)
        try:
            yield backend
        finally:
            backend.shutdown(0)


def _store_of(args: argparse.Namespace, make: bool) -> Backend:
    app = "" if args.url else args.app or os.environ.get("NEOQ_APP", "")
    url = args.url or ("" if app else os.environ.get("NEOQ_URL", ""))
    if not app and not url:
        raise CommandError("which store? give --url or --app, or set NEOQ_URL or NEOQ_APP", Exit.USAGE)
    if app:
        with redirect_stdout(sys.stderr):  # what an application prints is no part of the output
            backend = load(app)
    else:
        backend = _connect(url, make)
    if "durable" not in backend.features:
        raise CommandError(
            "jobs in memory are seen only by the process that has them: no other process can look at them or "
            "change them. Use a durable store (SQLite, Postgres or Redis) to operate from a command line",
            Exit.USAGE,
        )
    return backend


def _connect(url: str, make: bool) -> Backend:
    import neoq

    options: dict[str, Any] = {"autostart": False}
    if not make and url.strip().lower().startswith("postgres"):
        options["migrate"] = False
    backend = neoq.connect(url, **options)
    path = getattr(backend.config, "path", "")
    if not make and path and not Path(path).exists():
        raise CommandError(
            f"there is no file {path}; to begin with an empty one: neoq migrate --url ...", Exit.UNREACHABLE
        )
    return backend


def load(app: str) -> Backend:
    """Import an application and find its backend.

    ``app`` is module:attribute, module:factory() or module. Raises CommandError with the code NOT_IMPORTED.
    """
    module_name, colon, expression = app.partition(":")
    here = str(Path.cwd())
    if sys.path[:1] not in ([""], [here]):
        sys.path.insert(0, here)
    module = _import(module_name)
    if not colon:
        for name in LOOKED_FOR:
            if hasattr(module, name):
                return _backend_in(getattr(module, name), f"{module_name}:{name}")
        raise _refused(f"{module_name} has none of {', '.join(LOOKED_FOR)}; {HOW}")
    return _backend_in(_value(module, module_name, expression), app)


def _refused(message: str) -> CommandError:
    return CommandError(message, Exit.NOT_IMPORTED)


def _import(name: str) -> Any:
    if not all(part.isidentifier() for part in name.split(".")):
        raise CommandError(f"{name!r} is not the name of a module; {HOW}", Exit.USAGE)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _failed(f"{name} cannot be imported", error) from error
        raise _refused(
            f"there is no module {error.name} in {Path.cwd()} nor on the Python path; {HOW}"
        ) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failed(f"{name} cannot be imported", error) from error


def _value(module: Any, module_name: str, expression: str) -> Any:
    """What ``attribute.attribute`` or ``factory("with", constants=1)`` means in a module."""
    wrong = CommandError(
        f"{expression!r} is neither an attribute nor a call with constants; {HOW}", Exit.USAGE
    )
    try:
        node = ast.parse(expression.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else None
        positional = [ast.literal_eval(one) for one in call.args] if call else []
        keywords = {one.arg or "": ast.literal_eval(one.value) for one in call.keywords} if call else {}
    except (SyntaxError, ValueError):
        raise wrong from None
    value = _attribute(module, module_name, call.func if call else node, wrong)
    if call is None:
        return value
    try:
        return value(*positional, **keywords)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failed(f"{module_name}:{expression} failed", error) from error


def _attribute(module: Any, module_name: str, node: ast.expr, wrong: CommandError) -> Any:
    if isinstance(node, ast.Attribute):
        owner, name = _attribute(module, module_name, node.value, wrong), node.attr
    elif isinstance(node, ast.Name):
        owner, name = module, node.id
    else:
        raise wrong
    try:
        return getattr(owner, name)
    except AttributeError:
        public = [one for one in dir(owner) if not one.startswith("_")]
        raise _refused(f"{module_name} has no {ast.unparse(node)}{did_you_mean(name, public)}") from None


def _backend_in(found: Any, app: str) -> Backend:
    """The backend that an object is or has: a Backend, or an application of Flask with the extension."""
    from neoq.backend import Backend

    extensions = getattr(found, "extensions", None)
    extension = extensions.get("neoq") if isinstance(extensions, dict) else None
    for candidate in (found, extension, getattr(found, "backend", None)):
        backend = getattr(candidate, "backend", candidate)
        if isinstance(backend, Backend):
            return backend
    if isinstance(extensions, dict):
        raise _refused(f"{app} is an application without neoq: call neoq.flask.Neoq(app), or init_app(app)")
    if callable(found) and not isinstance(found, type):
        raise _refused(f"{app} is a function; to use what it returns, write '{app}()'")
    raise _refused(f"{app} is of type {type(found).__name__}, not a neoq backend; {HOW}")


def _failed(what: str, error: BaseException) -> CommandError:
    """The error of an application, with a traceback that begins in its own code."""
    told = traceback.TracebackException.from_exception(error)
    own = (__file__, importlib.__file__)
    while told.stack and (
        told.stack[0].filename in own or told.stack[0].filename.startswith("<frozen importlib")
    ):
        del told.stack[0]
    return _refused(f"{what}:\n{''.join(told.format()).rstrip()}")
