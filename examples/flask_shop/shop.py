"""The application: pages that answer at once and leave the work to background jobs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import flask
import jobs
from flask.typing import ResponseReturnValue

import neoq

PAGE = Path(__file__).with_name("page.html").read_text()
TABLES = """
create table if not exists people (email text primary key);
create table if not exists orders (id integer primary key, email text, item text, invoiced text);
"""


def create_app() -> flask.Flask:
    app = flask.Flask(__name__)
    app.config.update(DATA="data", SMTP="127.0.0.1:8025")
    app.config.from_prefixed_env("SHOP")  # SHOP_DATA, SHOP_SMTP
    data = Path(app.config["DATA"]).resolve()
    data.mkdir(parents=True, exist_ok=True)
    app.config.update(DATA=data, DATABASE=data / "shop.db")
    app.config["NEOQ_URL"] = f"sqlite:///{data}/shop.db"  # the jobs are in the shop's own database
    jobs.queue.init_app(app)
    with closing(jobs.database(app)) as database:
        database.executescript(TABLES)

    @app.get("/")
    def page() -> str:
        with closing(jobs.database()) as database:
            orders = database.execute("select * from orders order by id desc limit 10").fetchall()
        return flask.render_template_string(PAGE, orders=orders)

    @app.post("/signup")
    def signup() -> ResponseReturnValue:
        email = flask.request.form["email"].strip().lower()
        if "@" not in email:
            return {"error": "an email address, please"}, 400
        with closing(jobs.database()) as database, transaction(database):
            database.execute("insert or ignore into people values (?)", (email,))
            job = jobs.welcome.using(transaction=database, unique=True).enqueue(email)
        return {"job": job.id}, 202

    @app.post("/order")
    def order() -> ResponseReturnValue:
        email, item = flask.request.form["email"], flask.request.form["item"]
        # The order and the job that sends its invoice are committed together, or neither is.
        with closing(jobs.database()) as database, transaction(database):
            added = database.execute("insert into orders (email, item) values (?, ?)", (email, item))
            assert added.lastrowid is not None
            jobs.invoice.using(transaction=database).enqueue(added.lastrowid)
            if flask.request.form.get("card") == "declined":
                raise Declined
        return {"order": added.lastrowid}, 202

    @app.post("/photo")
    def photo() -> ResponseReturnValue:
        picture = flask.request.files["photo"]
        path = data / f"photo-{flask.request.form['name']}"
        if path.parent != data or path.suffix not in {".png", ".jpg"}:
            return {"error": "a plain name that ends in .png or .jpg, please"}, 400
        picture.save(path)
        return {"job": jobs.thumbnails.enqueue(path.name).id}, 202

    @app.get("/job/<int:job_id>")
    def progress(job_id: int) -> ResponseReturnValue:
        job = jobs.queue.backend.get(job_id)
        if job is None:
            return {"error": "no such job"}, 404
        done, message = job.progress() or (0.0, "")
        return {"status": job.status, "done": done, "message": message, "result": job.result}

    @app.errorhandler(Declined)
    def declined(error: Exception) -> ResponseReturnValue:
        return {"error": "the card was declined, and nothing was ordered"}, 402

    @app.errorhandler(neoq.BackendUnavailable)
    @app.errorhandler(neoq.BackendClosedError)
    def come_back_later(error: Exception) -> ResponseReturnValue:
        return {"error": "please try again in a moment"}, 503, {"Retry-After": "1"}

    return app


class Declined(Exception):
    """The bank refuses the payment."""


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """A transaction that writes: committed at the end of its block, rolled back at an exception."""
    database.execute("begin immediate")
    try:
        yield
    except BaseException:
        database.execute("rollback")
        raise
    database.execute("commit")
