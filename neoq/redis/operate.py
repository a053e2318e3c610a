"""What operators do to the jobs and queues of a Redis server."""

from __future__ import annotations

from collections.abc import Sequence

from neoq.redis.find import Finder
from neoq.redis.groups import Groups
from neoq.redis.queues import RedisQueues
from neoq.redis.scripts import AT_ONCE
from neoq.redis.sweep import Sweeper
from neoq.store import Action, Changed, taken_by


class Operator:
    """Cancels, retries and deletes jobs, and pauses queues."""

    def __init__(self, queues: RedisQueues, finder: Finder, groups: Groups, sweeper: Sweeper) -> None:
        self._queues = queues
        self._redis = queues.redis
        self._finder = finder
        self._groups = groups
        self._sweeper = sweeper

    def change(self, job_ids: Sequence[int], action: Action) -> Changed:
        """Cancel, retry or delete jobs."""
        done, running, queues = set[int](), set[int](), set[str]()
        by_queue: dict[str, list[int]] = {}
        for job in self._finder.of_ids(job_ids):
            if action == "retry" and job.group is not None and not self._groups.may_revive(job):
                continue
            by_queue.setdefault(job.queue, []).append(job.id)
        for queue, ids in by_queue.items():
            for start in range(0, len(ids), AT_ONCE):
                script = self._queues.scripts.change
                arguments = script.arguments(action=action, **self._queues.waking(queue))
                reply = self._queues.call(script, queue, [*arguments, *ids[start : start + AT_ONCE]])
                if reply[2] and len(job_ids) == 1:
                    raise taken_by(self._finder.snapshots(queue, [int(reply[2][1])])[0])
                done |= set(map(int, reply[0]))
                running |= set(map(int, reply[1]))
                if reply[0]:
                    queues.add(queue)
                if reply[1]:
                    self._sweeper.publish_cancel(queue, [int(stored) for stored in reply[1]])
                self._groups.follow_up(queue, reply[3], reply[4])
        return Changed(frozenset(done), frozenset(running), frozenset(queues))

    def set_paused(self, queue: str, paused: bool) -> None:
        """Hold a queue's jobs back, or let them go."""
        self._queues.register(queue)
        keys, channel = self._queues.keys(queue), self._queues.channel
        if paused:
            self._redis.command("SET", keys.key("paused"), 1)
        else:
            self._redis.command("DEL", keys.key("paused"))
            idle = self._redis.command("ZRANGE", keys.key("idle"), 0, -1)
            names = [idler.partition(b":")[2] for idler in idle]
            self._redis.commands([("PUBLISH", channel.encode() + name, queue) for name in names])
