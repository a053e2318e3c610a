"""The application: one route, which answers at once and leaves the work to background jobs."""

from __future__ import annotations

import re

from flask import Flask, request
from flask.typing import ResponseReturnValue

import neoq

ADDRESS = re.compile(r"[\w.+'-]+@[\w-]+(\.[\w-]+)+", re.ASCII)


def create_app(backend: neoq.Backend) -> Flask:
    app = Flask(__name__)

    @app.post("/signup")
    def signup() -> ResponseReturnValue:
        name = str(request.json["name"]).strip()
        email = str(request.json["email"]).strip().lower()
        if not ADDRESS.fullmatch(email) or not name.isprintable():
            return {"error": "a name and an email address, please"}, 400
        person = {"name": name, "email": email}
        # All three or none. The address is the fingerprint: while a job for it is unfinished, a second
        # signup adds none. The welcome waits half a second, so that a double click is one mail.
        jobs = backend.enqueue_many(
            [
                neoq.Job("welcome", person, fingerprint=email, run_after=0.5),
                neoq.Job("avatar", person, fingerprint=email),
                neoq.Job("reminder", person, fingerprint=email, run_after=2),
            ]
        )
        accepted = {job.queue: job.id for job in jobs if not job.duplicate}
        return {"accepted": accepted}, 202 if "welcome" in accepted else 200

    @app.errorhandler(neoq.BackendClosedError)
    @app.errorhandler(neoq.QueueFullError)
    def come_back_later(error: Exception) -> ResponseReturnValue:
        return {"error": str(error)}, 503, {"Retry-After": "1"}

    return app
