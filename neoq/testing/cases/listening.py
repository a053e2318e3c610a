"""Listening, middleware, and where a backend begins and ends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

import neoq
from neoq.backend import Backend
from neoq.batch import Batch
from neoq.errors import ConfigError, InvalidJobError, ListenerExistsError, NoListenerError, UnsupportedError
from neoq.job import Job
from neoq.testing.cases.suite import (
    LATER,
    PATIENCE,
    Make,
    Seen,
    Suite,
    busy,
    ended,
    ignore,
    needs,
    unfinished_jobs,
    without,
)

Next = Callable[[Job], Any]


class ListenCases(Suite):
    """listen and start."""

    def test_the_suite_knows_the_features(self, backend: Backend) -> None:
        """The suite's ``features`` are those of the backend, or cases would be missing."""
        assert type(backend).features == self.features

    def test_a_listen_decorator(self, backend: Backend, seen: Seen) -> None:
        """Without a handler listen is a decorator, which returns the function unchanged."""

        @backend.listen("q", concurrency=1)
        def handler(job: Job) -> None:
            seen(job.payload)

        assert handler.__name__ == "handler"
        backend.enqueue("q", {"n": 1})
        assert seen.wait() == [{"n": 1}]
        handler(Job("q", {"n": 2}))
        assert seen.wait(2) == [{"n": 1}, {"n": 2}]

    def test_a_queue_has_one_listener(self, backend: Backend, seen: Seen) -> None:
        """A second listener for a queue is a ListenerExistsError, and the first one stays."""
        backend.listen("q", lambda job: seen(job.id))
        with pytest.raises(ListenerExistsError) as caught:
            backend.listen("q", ignore)
        assert caught.value.queue == "q"
        job = backend.enqueue("q")
        assert seen.wait() == [job.id]

    def test_very_short_jobs_leave_concurrency_as_it_is(self, make: Make) -> None:
        """Behind any number of very short jobs, one that waits for a later one still meets it."""
        backend = make(autostart=False, queue_capacity=None)
        met = threading.Event()
        waited: list[bool] = []

        def handler(job: Job) -> None:
            if job.payload["n"] == short:
                waited.append(met.wait(PATIENCE))
            elif job.payload["n"] == short + 1:
                met.set()

        short = 1000
        backend.listen("q", handler, concurrency=2, timeout=None)
        backend.enqueue_many(Job("q", {"n": n}) for n in range(short + 200))
        backend.start()
        assert backend.drain(3 * PATIENCE)
        assert waited == [True], "the job behind was not started"

    @pytest.mark.parametrize(
        "bad",
        [{"concurrency": 0}, {"concurrency": 1.5}, {"timeout": 0}, {"max_retries": -1}, {"capacity": 0}],
        ids=str,
    )
    def test_a_bad_option_is_refused(self, waiting: Backend, bad: dict[str, Any]) -> None:
        """An option of listen out of its range is an InvalidJobError or a ConfigError, and nobody listens."""
        with pytest.raises((InvalidJobError, ConfigError)):
            waiting.listen("q", ignore, **bad)
        waiting.listen("q", ignore)

    def test_a_handler_must_be_callable(self, waiting: Backend) -> None:
        """A handler that cannot be called is refused."""
        with pytest.raises((InvalidJobError, TypeError)):
            waiting.listen("q", "ignore")  # type: ignore[call-overload]

    def test_a_listener_can_come_late(self, backend: Backend, seen: Seen) -> None:
        """A listener that comes while the backend works is served, too."""
        backend.listen("p", ignore)
        ended(backend, backend.enqueue("p"))
        backend.listen("q", lambda job: seen(job.id))
        job = backend.enqueue("q")
        assert seen.wait() == [job.id]

    def test_autostart_false_waits_for_start(self, waiting: Backend, seen: Seen) -> None:
        """With autostart=False jobs are accepted, and none runs until start(), which is idempotent."""
        waiting.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
        waiting.enqueue("q", {"n": 0})
        waiting.enqueue("q", {"n": 1}, run_after=0.01)
        seen.stays(0)
        waiting.start()
        waiting.start()
        assert sorted(seen.wait(2)) == [0, 1]
        last = waiting.enqueue("q", {"n": 2})
        ended(waiting, last)
        assert len(seen.items) == 3

    def test_autostart_false_starts_no_thread(self, waiting: Backend) -> None:
        """With autostart=False listening, enqueueing and looking start no thread of neoq."""
        waiting.listen("q", ignore)
        waiting.enqueue("q")
        assert len(waiting.jobs()) == 1
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("neoq-")] == []

    def test_a_process_runs_so_many_at_once(self, make: Make, seen: Seen, gate: threading.Event) -> None:
        """max_running caps what runs at once over all queues, and no queue starves behind a full one."""
        backend = make(max_running=2, autostart=False, unique=False)
        lock, running, most = threading.Lock(), 0, 0

        def handler(job: Job) -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            gate.wait(0.01)
            with lock:
                running -= 1
            seen(job.queue)

        for queue in ("a", "b", "c"):
            backend.listen(queue, handler, concurrency=4)
        backend.enqueue_many([Job("a") for _ in range(40)] + [Job("b"), Job("c")])
        backend.start()
        order = seen.wait(42)
        assert most == 2
        assert max(order.index("b"), order.index("c")) < 20

    def test_only_some_queues_are_started(self, waiting: Backend, seen: Seen) -> None:
        """start(queues=[...]) runs these queues only, and a name without a handler is refused."""
        for queue in ("emails", "reports"):
            waiting.listen(queue, lambda job: seen(job.queue))
        with pytest.raises(InvalidJobError, match="did you mean 'emails'"):
            waiting.start(queues=["email"])
        waiting.enqueue_many([Job("reports"), Job("emails")])
        waiting.start(queues=["emails"])
        assert seen.wait() == ["emails"]
        seen.stays(1)

    @needs("durable")
    def test_a_worker_says_what_it_runs_and_how_it_ended(
        self, waiting: Backend, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker logs its queues and crons at its start, the shutdown as it begins, and what it ended."""
        caplog.set_level("INFO", "neoq")
        waiting.listen("emails", ignore, concurrency=3)
        waiting.listen_cron("0 3 * * *", ignore, queue="nightly")
        waiting.start()
        waiting.start()
        waiting.shutdown(1.0)
        begun, asked, ended = caplog.messages
        assert "emails (3 at once)" in begun
        assert "nightly (next " in begun
        assert asked == "asked to stop: 0 jobs that run here have up to 1 s to end"
        assert ended == "stopped; jobs that finished meanwhile: 0, interrupted: 0, given back: 0, lost: 0"

    @without("durable")
    def test_by_default_a_listener_runs_at_once(self, make: Make, seen: Seen) -> None:
        """Where nothing outlives the process its listeners run jobs by default."""
        backend = make(autostart=None)
        backend.listen("q", lambda job: seen(job.id))
        job = backend.enqueue("q")
        assert seen.wait() == [job.id]

    @needs("durable")
    def test_by_default_nobody_runs_durable_jobs(
        self, make: Make, seen: Seen, caplog: pytest.LogCaptureFixture
    ) -> None:
        """On a durable store listening runs nothing by default, which the first enqueue says once."""
        caplog.set_level("INFO", "neoq")
        backend = make(autostart=None)
        backend.listen("q", lambda job: seen(job.id))
        assert backend.jobs() == []
        jobs = [backend.enqueue("q", {"n": n}) for n in range(2)]
        said = [line for line in caplog.messages if "runs no jobs" in line]
        assert len(said) == 1
        assert "'q'" in said[0]
        seen.stays(0)
        backend.start()
        assert sorted(seen.wait(2)) == [job.id for job in jobs]

    @without("durable")
    def test_a_queue_that_nobody_listens_on(self, backend: Backend) -> None:
        """Where nothing outlives the process a job for a queue without a listener is a NoListenerError."""
        backend.listen("q", ignore)
        with pytest.raises(NoListenerError) as caught:
            backend.enqueue("nobody")
        assert caught.value.queue == "nobody"
        with pytest.raises(NoListenerError):
            backend.enqueue_many([Job("q"), Job("nobody")])
        assert backend.jobs() == []

    @needs("durable")
    def test_a_queue_that_others_may_listen_on(self, backend: Backend, seen: Seen) -> None:
        """In a durable store a job for a queue without a listener is accepted, and waits for one."""
        job = backend.enqueue("q")
        backend.listen("p", ignore)
        ended(backend, backend.enqueue("p"))
        assert [left.id for left in unfinished_jobs(backend)] == [job.id]
        backend.listen("q", lambda given: seen(given.id))
        assert seen.wait() == [job.id]

    def test_enqueue_takes_a_job(self, backend: Backend, seen: Seen) -> None:
        """enqueue(Job(...)) is the same as enqueue with its arguments."""
        backend.listen("q", lambda job: seen((job.payload, job.priority, dict(job.meta))))
        made = Job("q", {"n": 1}, priority=3, meta={"a": "b"})
        job = backend.enqueue(made)
        assert (job.fingerprint, job.duplicate) == (Job("q", {"n": 1}).fingerprint, False)
        assert seen.wait() == [({"n": 1}, 3, {"a": "b"})]

    def test_bad_arguments_are_refused(self, waiting: Backend) -> None:
        """Arguments of enqueue that make no sense are InvalidJobErrors, and nothing is stored."""
        waiting.listen("q", ignore)
        bad: list[dict[str, Any]] = [
            {"unique": "sometimes"},
            {"on_duplicate": "explode"},
            {"max_retries": -1},
            {"fingerprint": ""},
            {"run_after": float("nan")},
            {"meta": {"a": 1}},
        ]
        for options in bad:
            with pytest.raises(InvalidJobError):
                waiting.enqueue("q", **options)
        assert unfinished_jobs(waiting) == []

    def test_an_unknown_setting_is_refused(self, make: Make) -> None:
        """A setting that the backend does not know, or a value out of range, is a ConfigError."""
        with pytest.raises(ConfigError):
            make(no_such_setting=1)
        with pytest.raises(ConfigError) as caught:
            make(concurrency=0, lease=-1)
        assert len(caught.value.problems) == 2

    def test_a_backend_shows_its_settings(self, make: Make) -> None:
        """The repr of a backend shows the interval, the window and what differs from the defaults."""
        text = repr(make(job_check_interval=0.125, future_job_window=7.5, max_retries=17))
        assert all(part in text for part in ("0.125", "7.5", "17"))

    @without("transactions")
    def test_no_transactions(self, waiting: Backend) -> None:
        """A backend that joins no transactions says so when it is asked to, and stores nothing."""
        waiting.listen("q", ignore)
        with pytest.raises(UnsupportedError):
            waiting.enqueue("q", transaction=object())
        with pytest.raises(UnsupportedError):
            waiting.enqueue_many([Job("q")], transaction=object())
        assert unfinished_jobs(waiting) == []

    @without("transactions")
    def test_no_completion_in_a_transaction(self, backend: Backend) -> None:
        """job.complete(connection) of a backend that joins no transactions is an UnsupportedError."""
        backend.listen("q", lambda job: job.complete(object()), max_retries=0)
        dead = ended(backend, backend.enqueue("q"))
        assert dead.error is not None
        assert dead.error.startswith("UnsupportedError: ")


class MiddlewareCases(Suite):
    """Middleware around attempts and around enqueues, and the current job."""

    def test_the_first_is_outermost(self, waiting: Backend, seen: Seen) -> None:
        """Middleware wraps each attempt in the order of use, the first outermost."""

        def layer(name: str) -> Callable[[Job, Next], Any]:
            def middleware(job: Job, call_next: Next) -> Any:
                seen(f"{name} before")
                result = call_next(job)
                seen(f"{name} after")
                return [name, result]

            return middleware

        waiting.use(layer("outer"))
        waiting.use(layer("inner"))
        waiting.listen("q", lambda job: seen(f"job {job.payload['n']}"))
        waiting.start()
        done = ended(waiting, waiting.enqueue("q", {"n": 1}))
        assert seen.items == ["outer before", "inner before", "job 1", "inner after", "outer after"]
        assert done.result == ["outer", ["inner", None]]

    def test_it_sees_what_the_handler_raises(self, waiting: Backend, seen: Seen) -> None:
        """Middleware may handle what the handler raises: the attempt has then succeeded."""

        def rescue(job: Job, call_next: Next) -> Any:
            try:
                return call_next(job)
            except RuntimeError as error:
                seen(str(error))
                return "rescued"

        def handler(_job: Job) -> None:
            raise RuntimeError("help")

        waiting.use(rescue)
        waiting.listen("q", handler)
        waiting.start()
        assert ended(waiting, waiting.enqueue("q")).result == "rescued"
        assert seen.items == ["help"]

    def test_what_it_raises_fails_the_attempt(self, waiting: Backend, seen: Seen) -> None:
        """An exception of a middleware counts as one of the handler."""

        def refuse(_job: Job, _call_next: Next) -> Any:
            raise PermissionError("refused")

        waiting.use(refuse)
        waiting.listen("q", lambda job: seen(job.id), max_retries=0)
        waiting.start()
        assert ended(waiting, waiting.enqueue("q")).error == "PermissionError: refused"
        assert seen.items == []

    def test_middleware_around_enqueue(self, waiting: Backend, seen: Seen) -> None:
        """use_enqueue wraps each enqueue, single or in a batch, the first outermost."""

        def layer(name: str) -> Callable[[Job, Callable[[Job], Job]], Job]:
            def middleware(job: Job, call_next: Callable[[Job], Job]) -> Job:
                seen((name, job.payload["n"]))
                return call_next(job)

            return middleware

        waiting.use_enqueue(layer("outer"))
        waiting.use_enqueue(layer("inner"))
        waiting.listen("q", ignore)
        waiting.enqueue("q", {"n": 0})
        assert seen.items == [("outer", 0), ("inner", 0)]
        jobs = waiting.enqueue_many([Job("q", {"n": n}) for n in (1, 2)])
        assert [job.payload["n"] for job in jobs] == [1, 2]
        for n in (1, 2):
            assert [name for name, number in seen.items if number == n] == ["outer", "inner"]

    def test_middleware_around_a_batch(self, waiting: Backend, seen: Seen) -> None:
        """use_batch wraps each call as a whole, the first outermost, around use_enqueue; meta is stored."""

        def layer(name: str) -> Callable[[Batch, Callable[[], list[Job]]], list[Job]]:
            def middleware(batch: Batch, call_next: Callable[[], list[Job]]) -> list[Job]:
                seen((name, len(batch.jobs), batch.many))
                for job in batch.jobs:
                    job.meta = {**job.meta, name: "yes"}
                added = call_next()
                seen((name, [job.id for job in added]))
                return added

            return middleware

        def single(job: Job, call_next: Callable[[], Job]) -> Job:
            seen(("single", sorted(job.meta)))
            return call_next()

        for name in ("outer", "inner"):
            waiting.use_batch(layer(name))
        waiting.listen("q", ignore)
        job = waiting.enqueue("q", {"n": 0})
        assert seen.items == [
            ("outer", 1, False),
            ("inner", 1, False),
            ("inner", [job.id]),
            ("outer", [job.id]),
        ]
        waiting.use_enqueue(single)
        seen.items.clear()
        jobs = waiting.enqueue_many([Job("q", {"n": n}) for n in (1, 2)])
        assert seen.items[:3] == [("outer", 2, True), ("inner", 2, True), ("single", ["inner", "outer"])]
        assert waiting.enqueue_many([]) == []
        for one in (job, *jobs):
            found = waiting.get(one.id)
            assert found is not None
            assert found.meta == {"outer": "yes", "inner": "yes"}

    def test_a_batch_is_checked_after_its_middleware(self, waiting: Backend) -> None:
        """What middleware around a batch assigns is checked before anything is stored."""

        def spoil(batch: Batch, call_next: Callable[[], list[Job]]) -> list[Job]:
            batch.jobs[-1].meta = {"n": 7}  # type: ignore[dict-item]
            return call_next()

        waiting.use_batch(spoil)
        waiting.listen("q", ignore)
        with pytest.raises(InvalidJobError, match="meta"):
            waiting.enqueue("q")
        with pytest.raises(InvalidJobError, match="meta"):
            waiting.enqueue_many([Job("q"), Job("q", {"n": 1})])
        assert waiting.count() == 0

    def test_it_may_refuse_an_enqueue(self, waiting: Backend) -> None:
        """An exception of a middleware around enqueue reaches the caller, and nothing is stored."""

        def refuse(job: Job, call_next: Callable[[Job], Job]) -> Job:
            if job.payload.get("n") == 1:
                raise PermissionError("refused")
            return call_next(job)

        waiting.use_enqueue(refuse)
        waiting.listen("q", ignore)
        with pytest.raises(PermissionError):
            waiting.enqueue("q", {"n": 1})
        with pytest.raises(PermissionError):
            waiting.enqueue_many([Job("q", {"n": n}) for n in range(3)])
        assert unfinished_jobs(waiting) == []

    def test_the_current_job(self, backend: Backend, seen: Seen) -> None:
        """current_job() is the job of this thread inside its handler, and None elsewhere."""

        def handler(job: Job) -> None:
            elsewhere = Seen()
            thread = threading.Thread(target=lambda: elsewhere(neoq.current_job()))
            thread.start()
            thread.join()
            seen((neoq.current_job() is job, elsewhere.items))

        backend.listen("q", handler)
        assert neoq.current_job() is None
        backend.enqueue("q")
        assert seen.wait() == [(True, [None])]


class LifeCases(Suite):
    """A backend as a context manager."""

    def test_a_clean_exit_drains(self, make: Make, seen: Seen) -> None:
        """Leaving a with block as usual runs what is ready first."""
        with make() as backend:
            backend.listen("q", lambda job: seen(job.payload["n"]), concurrency=1)
            backend.enqueue_many([Job("q", {"n": n}) for n in range(50)])
        assert seen.items == list(range(50))

    def test_with_runs_jobs_by_default(self, make: Make, seen: Seen) -> None:
        """A with block runs jobs, on a durable store too, whether its queues come before it or inside."""
        backend = make(autostart=None)
        backend.listen("before", lambda job: seen(job.queue))
        with backend:
            backend.listen("inside", lambda job: seen(job.queue))
            backend.enqueue_many([Job("before"), Job("inside")])
            assert sorted(seen.wait(2)) == ["before", "inside"]

    def test_with_starts_nothing_where_autostart_is_false(self, waiting: Backend, seen: Seen) -> None:
        """With autostart=False a with block runs no jobs until start()."""
        with waiting:
            waiting.listen("q", lambda job: seen(job.id))
            job = waiting.enqueue("q")
            seen.stays(0)
            waiting.start()
            assert seen.wait() == [job.id]

    def test_a_clean_exit_does_not_wait_for_the_future(self, make: Make, seen: Seen) -> None:
        """Leaving a with block does not wait for future jobs."""
        with make() as backend:
            backend.listen("q", lambda job: seen(job.payload["n"]))
            backend.enqueue("q", {"n": 0}, run_after=LATER)
            backend.enqueue("q", {"n": 1})
        assert seen.items == [1]

    def test_an_exception_only_shuts_down(self, make: Make, seen: Seen, gate: threading.Event) -> None:
        """Leaving a with block by an exception runs nothing more, and lets the exception pass."""
        backend = make(shutdown_timeout=0.05)

        def handler(job: Job) -> None:
            seen(job.payload["n"])
            busy(gate)

        def leave() -> None:
            with backend:
                backend.listen("q", handler, concurrency=1)
                backend.enqueue_many([Job("q", {"n": n}) for n in range(5)])
                seen.wait()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            leave()
        seen.stays(1)

    def test_with_gives_the_backend(self, make: Make) -> None:
        """The with statement gives the backend itself."""
        made = make()
        with made as backend:
            assert backend is made
