"""What a user of a Redis server must be allowed."""

from __future__ import annotations

import pytest

import neoq
from tests.servers import running_server


@pytest.mark.parametrize("info", [[], ["+info"]], ids=["without INFO", "as documented"])
def test_a_user_with_few_rights(info: list[str]) -> None:
    """A user with the rights of the page enqueues and runs jobs, also where INFO is refused."""
    rights = ["~{neoq}:*", "~{neoq:*", "&neoq:wake:*", "+@all", "-@admin", "-@dangerous", *info]
    with running_server("--appendonly", "yes") as server:
        with server.client() as admin:
            admin.execute_command(
                "ACL", "SETUSER", "jobs", "on", ">pw", "resetkeys", "resetchannels", *rights
            )
        with neoq.connect(f"redis://jobs:pw@127.0.0.1:{server.port}/0") as backend:
            backend.listen("q", lambda job: 7)
            backend.start()
            job = backend.enqueue("q")
            assert job.id is not None
            assert backend.wait(job.id, timeout=20).result == 7
            assert [stats.queue for stats in backend.queues()] == ["q"]
