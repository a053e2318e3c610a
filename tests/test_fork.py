"""After a fork the child has a fresh backend, and the parent goes on as if nothing had happened."""

from __future__ import annotations

import pytest

from tests.processes import running


def forks(what: str) -> list[str]:
    with running("forks", what) as child:
        lines = child.ends_well(50)
        assert lines[-1] == "parent done"
        return lines


def test_a_fork_while_other_threads_enqueue_leaves_a_child_that_works() -> None:
    """Forked at any moment, a child has no jobs, locks or threads of its parent, and runs its own."""
    forks("fork_while_others_enqueue")


def test_the_parents_jobs_stay_with_the_parent() -> None:
    """Ready, future, running and retrying jobs run once, in the parent."""
    forks("jobs_stay_with_the_parent")


def test_start_in_the_child_counts_as_use() -> None:
    """start() brings runners and cron to life in the child, which has no threads before."""
    forks("start_counts_as_use")


def test_a_handler_may_fork() -> None:
    """The child of a handler can use the backend, and the parent's attempt is not disturbed."""
    forks("in_a_handler")


def test_a_child_that_returns_from_its_handler_settles_nothing() -> None:
    """The copy of a runner in a forked child takes up no other jobs, and ends."""
    forks("handler_returns_in_the_child")


def test_multiprocessing_by_fork_may_use_the_backend() -> None:
    """Workers of a multiprocessing pool run the jobs that they enqueue, before and after the parent's use."""
    forks("with_multiprocessing")


def test_a_fork_while_another_thread_opens_the_store() -> None:
    """A child can use a backend that another thread of the parent was just opening."""
    forks("while_another_thread_opens")


def test_a_grandchild_is_fresh_too() -> None:
    """Forking again in the child works as the first time."""
    forks("twice")


def test_a_backend_that_is_shut_down_stays_so_in_a_child() -> None:
    """A fork does not open again what was closed."""
    forks("after_shutdown")


def test_a_child_of_multiprocessing_runs_its_own_jobs() -> None:
    """A child process runs what it enqueued, and what its parent holds is run by the parent alone."""
    lines = forks("exits_by_itself")
    assert sorted(lines) == ["parent done", "ran child's", "ran parent's"]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_other_ways_to_start_processes_work_too(method: str) -> None:
    """A process started by spawn or forkserver imports the program anew and has a backend of its own."""
    with running("spawns", method) as child:
        assert child.ends_well(50) == ["child ran its job", "parent ran its job"]
