"""Neoq in Flask: ``Neoq(app)`` gives an application a backend, by its configuration.

Tasks and handlers run in the context of their application. An object made without an application registers
tasks and handlers at once, and hands them to each application that it is initialised with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import flask
from flask.cli import ScriptInfo, pass_script_info

import neoq
from neoq.errors import ConfigError, NeoqError
from neoq.tasks import Task, Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from neoq.backend import Backend
    from neoq.job import Job

__all__ = ["Neoq", "application"]

_PREFIX = "NEOQ_"
_NOT_SETTINGS = frozenset({"url", "app", "dashboard"})
_LOOKS = ("title", "mask", "formatter")
_WANT_APP = frozenset({"worker", "check", "dashboard"})


class Neoq:
    """The extension: ``Neoq(app)``, or ``neoq = Neoq()`` and later ``neoq.init_app(app)``.

    ``app.config["NEOQ_URL"]`` says where jobs are kept (default: in memory), and each other NEOQ_ key sets
    the setting of that name, as NEOQ_CONCURRENCY does. ``queue`` is where the jobs of tasks wait, and
    ``options`` are settings for applications whose configuration does not name them.

    ``dashboard="/jobs"`` (or NEOQ_DASHBOARD) shows `neoq.dashboard` at that path, inside of the application:
    its ``before_request`` functions, its session and its login are there, and ``access`` is asked within the
    request. Without ``access`` only this machine may read. ``title``, ``mask`` and ``formatter`` are those of
    `neoq.dashboard.wsgi`.

    Jobs in memory run in this process. With a durable store this process only enqueues, and
    ``flask neoq worker`` runs the jobs, unless NEOQ_AUTOSTART is True.

    Raises ConfigError for a setting that is unknown or cannot be used.
    """

    def __init__(
        self,
        app: flask.Flask | None = None,
        *,
        queue: str = "default",
        dashboard: str | None = None,
        access: Callable[[dict[str, Any]], Any] | None = None,
        **options: Any,
    ) -> None:
        self._dashboard = dashboard
        self._looks = {name: options.pop(name) for name in _LOOKS if name in options} | {"access": access}
        self._options = options
        self._backends: dict[flask.Flask, Backend] = {}
        self._registered: list[Callable[[Backend], Any]] = []
        self.tasks = Tasks(queue)
        """The tasks that `task` makes; more collections come by `include`."""
        Tasks.include_all([self.tasks], self)
        self.task = self.tasks.task
        """Decorate a function with it to make a task: see `neoq.Tasks`."""
        if app is not None:
            self.init_app(app)

    def __repr__(self) -> str:
        return f"<Neoq of {', '.join(app.name for app in self._backends) or 'no application yet'}>"

    def init_app(self, app: flask.Flask) -> None:
        """Give an application its backend, and the command ``flask neoq``."""
        if "neoq" in app.extensions:
            raise NeoqError(f"the application {app.name!r} has a neoq already: call init_app() once")
        backend = neoq.connect(app.config.get("NEOQ_URL") or "memory://", **self._settings_of(app))
        backend.use(_in_context_of(app))
        for register in self._registered:
            register(backend)
        open_ones = {one: its for one, its in self._backends.items() if not its.closed}  # tests make many
        self._backends = {**open_ones, app: backend}
        app.extensions["neoq"] = self
        app.cli.add_command(_command())
        path = app.config.get("NEOQ_DASHBOARD") or self._dashboard
        if path:
            _show_dashboard(app, backend, path, self._looks)

    def _settings_of(self, app: flask.Flask) -> dict[str, Any]:
        settings = dict(self._options)
        for key, value in app.config.items():
            name = key.removeprefix(_PREFIX).lower()
            if key.startswith(_PREFIX) and name not in _NOT_SETTINGS and not name.startswith("worker_"):
                settings[name] = value
        in_memory = (app.config.get("NEOQ_URL") or "memory://").partition(":")[0] == "memory"
        runs_jobs = settings.setdefault("autostart", in_memory)
        if runs_jobs and _is_reloader(app):
            settings["autostart"] = runs_jobs = False  # the process that it starts runs the jobs
        if runs_jobs:
            _refuse_uwsgi_without_threads()
        return settings

    # -- register -----------------------------------------------------------------------------------------

    def listen(self, queue: str, handler: Any = None, **options: Any) -> Any:
        """As `Backend.listen`, in every application; also before there is one."""
        if handler is None:
            return lambda function: self.listen(queue, function, **options)
        self._register(lambda backend: backend.listen(queue, handler, **options))
        return handler

    def listen_cron(self, spec: str, handler: Any = None, **options: Any) -> Any:
        """As `Backend.listen_cron`, in every application; also before there is one."""
        if handler is None:
            return lambda function: self.listen_cron(spec, function, **options)
        self._register(lambda backend: backend.listen_cron(spec, handler, **options))
        return handler

    def queue(self, name: str, **options: Any) -> None:
        """As `Backend.queue`, in every application; also before there is one."""
        self._register(lambda backend: backend.queue(name, **options))

    def include(self, *collections: Tasks) -> None:
        """As `Backend.include`, in every application; also before there is one."""
        Tasks.include_all(collections, self)

    def listen_tasks(self, tasks: Sequence[Task[..., Any]]) -> None:
        """Run the jobs of tasks in every application; called as their collections are included."""
        self._register(lambda backend: backend.listen_tasks(tasks))

    def _register(self, register: Callable[[Backend], Any]) -> None:
        for backend in self._backends.values():
            register(backend)
        self._registered.append(register)

    # -- use ----------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Backend:
        """The backend of the current application, or of the only one.

        Raises Flask's RuntimeError outside of an application context where several applications share this
        object, and NeoqError where it was initialised with none.
        """
        if not flask.has_app_context() and len(self._backends) < 2:
            if not self._backends:
                raise NeoqError("this Neoq has no application yet: call init_app(app)")
            return next(iter(self._backends.values()))
        name = flask.current_app.name  # outside of a context it raises
        if flask.current_app in self._backends:  # a proxy, which is equal to its application
            return self._backends[flask.current_app]
        raise NeoqError(f"the application {name!r} has no neoq: call init_app(app) with it")

    def backend_of(self, app: flask.Flask) -> Backend:
        """The backend of an application."""
        return self._backends[app]

    @property
    def closed(self) -> bool:
        """Never: tasks stay with this object, whatever becomes of its backends."""
        return False

    def enqueue(self, queue: Any, *arguments: Any, **options: Any) -> Job:
        """As `Backend.enqueue`, in the current application."""
        return self.backend.enqueue(queue, *arguments, **options)

    def enqueue_call(self, queue: str, kind: str, data: bytes) -> Job:
        """As `Backend.enqueue_call`, in the current application; tasks use it."""
        return self.backend.enqueue_call(queue, kind, data)

    def enqueue_many(self, jobs: Iterable[Job], *, transaction: Any = None) -> list[Job]:
        """As `Backend.enqueue_many`, in the current application."""
        return self.backend.enqueue_many(jobs, transaction=transaction)

    def wait(self, job_id: int, timeout: timedelta | float | None = None) -> Job:
        """As `Backend.wait`, in the current application."""
        return self.backend.wait(job_id, timeout)


def _in_context_of(app: flask.Flask) -> Callable[[Job, Callable[..., Any]], Any]:
    def in_context(job: Job, call_next: Callable[..., Any]) -> Any:
        with app.app_context():
            return call_next(job)

    return in_context


def _is_reloader(app: flask.Flask, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this is the process of ``flask run --debug`` that only watches files and starts another."""
    from_command = environ.get("FLASK_RUN_FROM_CLI") == "true" and "run" in sys.argv[1:]
    return from_command and app.debug and environ.get("WERKZEUG_RUN_MAIN") != "true"


def _refuse_uwsgi_without_threads() -> None:
    uwsgi: Any = sys.modules.get("uwsgi")
    options = getattr(uwsgi, "opt", None)
    if options is None or {"enable-threads", b"enable-threads", "threads", b"threads"} & set(options):
        return
    problem = (
        "uWSGI runs this application without threads, so no job would run in it: write enable-threads = true "
        "in its configuration, or keep jobs in a durable store and run them with flask neoq worker"
    )
    raise ConfigError([problem])


def _show_dashboard(app: flask.Flask, backend: Backend, path: str, looks: Mapping[str, Any]) -> None:
    """Answer the requests below a path of the application by the dashboard."""
    from neoq.dashboard import wsgi
    from neoq.dashboard.mounts import at

    path = f"/{path.strip('/')}"
    if path == "/" or "<" in path:
        raise ConfigError([f'dashboard is {path!r}; it takes a path of its own, such as "/jobs"'])
    pages = wsgi(backend, **looks)

    def neoq_dashboard(page: str = "") -> Any:
        request = flask.request
        mount = request.path.removesuffix(page).rstrip("/")
        if request.mimetype == "application/x-www-form-urlencoded":  # the application may have read it
            body = urlencode(list(request.form.items(multi=True)), errors="replace").encode()
        else:
            body = b""
        environ = at(request.environ, mount, page, body)
        return flask.Response.from_app(pages, environ, buffered=True)

    methods = ["GET", "HEAD", "POST"]
    for rule in (f"{path}/", f"{path}/<path:page>"):
        app.add_url_rule(rule, "neoq_dashboard", neoq_dashboard, methods=methods)
    csrf = app.extensions.get("csrf")  # of Flask-WTF; the dashboard's forms have a protection of their own
    if csrf is not None:
        csrf.exempt(neoq_dashboard)


# -- the command ------------------------------------------------------------------------------------


def application() -> flask.Flask:
    """The application that ``flask`` finds by FLASK_APP, wsgi.py or app.py; for the processes of a worker."""
    app = ScriptInfo(app_import_path=os.environ.get("FLASK_APP")).load_app()
    if "neoq" not in app.extensions:
        raise NeoqError(
            f"the application {app.name!r} has no neoq: call neoq.flask.Neoq(app), or init_app(app)"
        )
    return app


def _command() -> Any:
    """``flask neoq ...``: the command ``neoq`` with this application."""
    import click

    @click.command(
        "neoq",
        short_help="Run background jobs, look at them and steer them.",
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
        add_help_option=False,
    )
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    @pass_script_info
    def run(info: ScriptInfo, arguments: tuple[str, ...]) -> None:
        from neoq.cli.main import main

        if info.app_import_path is not None:
            os.environ["FLASK_APP"] = info.app_import_path
        sys.exit(main(_with_app(list(arguments)), prog="flask neoq"))

    return run


def _with_app(arguments: list[str]) -> list[str]:
    """The arguments with the application that a command is to work on."""
    named = any(one.partition("=")[0] in {"--url", "--app"} for one in arguments)
    if not arguments or named or {"-h", "--help"} & set(arguments) or arguments[0].startswith("-"):
        return arguments
    app = f"{__name__}:application()"
    return [arguments[0], *([app] if arguments[0] in _WANT_APP else ["--app", app]), *arguments[1:]]
