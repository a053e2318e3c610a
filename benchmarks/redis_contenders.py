"""neoq and its peers on Redis, each set up as its own documentation recommends, and the raw floor.

huey pops a job without acknowledging it, so a crash loses it: at most once, which neoq does not offer.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable

from server_contenders import BULK, QUEUE, Handler, Neoq, OnLoop, OnServer, Payload, batches

CLAIMED_AT_ONCE = 100
LEASE = 30

# The minimum of a queue with order, leases and a place for each job's state.
ADD = """
local ids = {}
local now = redis.call('TIME')[1]
for i, payload in ipairs(ARGV) do
    local id = redis.call('INCR', KEYS[1])
    redis.call('HSET', KEYS[2] .. id, 'payload', payload, 'added', now)
    redis.call('ZADD', KEYS[3], now, id)
    ids[i] = id
end
return ids
"""
CLAIM = """
local ids = redis.call('ZRANGE', KEYS[3], 0, ARGV[1] - 1)
if #ids == 0 then return {{}, {}} end
redis.call('ZREM', KEYS[3], unpack(ids))
local expires = redis.call('TIME')[1] + ARGV[2]
local payloads = {}
for i, id in ipairs(ids) do
    redis.call('ZADD', KEYS[4], expires, id)
    payloads[i] = redis.call('HGET', KEYS[2] .. id, 'payload')
end
return {ids, payloads}
"""
ACK = """
local settled = 0
for _, id in ipairs(ARGV) do
    if redis.call('ZREM', KEYS[4], id) == 1 then
        redis.call('DEL', KEYS[2] .. id)
        settled = settled + 1
    end
end
return settled
"""
KEYS = ["raw:id", "raw:job:", "raw:ready", "raw:leases"]


class Raw(OnServer):
    """redis-py and three Lua scripts, claiming and acknowledging a hundred at a time in one thread."""

    package = "redis"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from redis import Redis

        self.redis = Redis.from_url(url)
        self.add, self.claim, self.ack = (self.redis.register_script(text) for text in (ADD, CLAIM, ACK))
        for script in (self.add, self.claim, self.ack):
            self.redis.script_load(script.script)
        self.ended = threading.Event()

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            self.redis.evalsha(self.add.sha, 4, *KEYS, json.dumps(payload))

    def put_all(self, payloads: Iterable[Payload]) -> None:
        for batch in batches(payloads, BULK):
            with self.redis.pipeline(transaction=False) as pipe:
                for part in batches(batch, 100):
                    pipe.evalsha(self.add.sha, 4, *KEYS, *map(json.dumps, part))
                pipe.execute()

    def work(self, handler: Handler, runners: int) -> None:
        self.thread = threading.Thread(target=self.run, args=(handler,))
        self.thread.start()

    def run(self, handler: Handler) -> None:
        while not self.ended.is_set():
            ids, payloads = self.redis.evalsha(self.claim.sha, 4, *KEYS, CLAIMED_AT_ONCE, LEASE)
            for payload in payloads:
                handler(json.loads(payload))
            if ids:
                assert self.redis.evalsha(self.ack.sha, 4, *KEYS, *ids) == len(ids)

    def settled(self) -> None:
        self.ended.set()
        self.thread.join()

    def stop(self) -> None:
        self.ended.set()
        self.redis.close()


class RawWake(Raw):
    """A blocking pop: what the wire and the server take to wake a process."""

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            self.redis.rpush("raw:wake", json.dumps(payload))

    def run(self, handler: Handler) -> None:
        while not self.ended.is_set():
            if found := self.redis.blpop(["raw:wake"], timeout=1):
                handler(json.loads(found[1]))


class Huey(OnServer):
    """Without results, with its blocking pop."""

    package = "huey"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from huey import RedisHuey

        self.handler: Handler | None = None
        self.huey = RedisHuey(url=url, results=False)

        @self.huey.task(name="work")  # type: ignore[untyped-decorator]
        def work(payload: Payload) -> None:
            assert self.handler is not None
            self.handler(payload)

        self.put = work

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            self.put(payload)

    def work(self, handler: Handler, runners: int) -> None:
        self.handler = handler
        self.consumer = self.huey.create_consumer(workers=runners, periodic=False)
        self.consumer.start()


class Dramatiq(OnServer):
    """With its default middleware: retries, time limits, age limits."""

    package = "dramatiq"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        import dramatiq
        from dramatiq.brokers.redis import RedisBroker

        self.broker = RedisBroker(url=url)
        self.handler: Handler | None = None
        self.actor = dramatiq.actor(self.handle, broker=self.broker, actor_name="work")

    def handle(self, payload: Payload) -> None:
        assert self.handler is not None
        self.handler(payload)

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            self.actor.send(payload)

    def work(self, handler: Handler, runners: int) -> None:
        import dramatiq

        self.handler = handler
        self.worker = dramatiq.Worker(self.broker, worker_threads=runners)
        self.worker.start()


class Celery(OnServer):
    """With threads, as neoq has them, and without results."""

    package = "celery"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from celery import Celery

        self.app = Celery("bench", broker=url)
        self.app.conf.update(
            task_ignore_result=True, worker_hijack_root_logger=False, broker_connection_retry_on_startup=True
        )
        self.handler: Handler | None = None

        @self.app.task(name="work")  # type: ignore[untyped-decorator]
        def work(payload: Payload) -> None:
            assert self.handler is not None
            self.handler(payload)

        self.task = work

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            self.task.delay(payload)

    def work(self, handler: Handler, runners: int) -> None:
        from celery.contrib.testing.worker import start_worker

        self.handler = handler
        self.worker = start_worker(
            self.app,
            concurrency=runners,
            pool="threads",
            loglevel="ERROR",
            perform_ping_check=False,
            shutdown_timeout=30,
        )
        self.worker.__enter__()


_rq_handler: list[Handler] = []


def rq_work(payload: Payload) -> None:
    _rq_handler[0](payload)


class RQ(OnServer):
    """Its SimpleWorker, one job at a time, without a fork for each; results are not kept."""

    package = "rq"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from redis import Redis
        from rq import Queue

        self.redis = Redis.from_url(url)
        self.queue = Queue(QUEUE, connection=self.redis)

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            self.queue.enqueue("redis_contenders.rq_work", payload, result_ttl=0)

    def put_all(self, payloads: Iterable[Payload]) -> None:
        from rq import Queue

        for batch in batches(payloads, BULK):
            self.queue.enqueue_many(
                [
                    Queue.prepare_data("redis_contenders.rq_work", args=(payload,), result_ttl=0)
                    for payload in batch
                ]
            )

    def work(self, handler: Handler, runners: int) -> None:
        from rq import SimpleWorker
        from rq.timeouts import TimerDeathPenalty

        class InThread(SimpleWorker):
            death_penalty_class = TimerDeathPenalty

            def _install_signal_handlers(self) -> None:
                """Signals are for main threads."""

        _rq_handler[:] = [handler]
        worker = InThread([self.queue], connection=self.redis)
        self.thread = threading.Thread(target=worker.work, kwargs={"logging_level": "ERROR"}, daemon=True)
        self.thread.start()


class Taskiq(OnLoop):
    """Its stream broker, which acknowledges, with tasks that are coroutines: the faster way."""

    package = "taskiq_redis"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from taskiq_redis import RedisStreamBroker

        self.broker = RedisStreamBroker(url=url, consumer_id="0")
        self.handler: Handler | None = None

        @self.broker.task(task_name="work")
        async def work(payload: Payload) -> None:
            assert self.handler is not None
            self.handler(payload)

        self.task = work
        self.wait_for(self.broker.startup())

    def put_each(self, payloads: Iterable[Payload]) -> None:
        async def each() -> None:
            for payload in payloads:
                await self.task.kiq(payload)

        self.wait_for(each())

    def work(self, handler: Handler, runners: int) -> None:
        from taskiq.api import run_receiver_task

        self.handler = handler
        self.begin(run_receiver_task(self.broker))


class NeoqOnRedis(Neoq):
    package = "redis"


REDIS_CONTENDERS: dict[str, type[OnServer]] = {
    "raw": Raw,
    "raw BLPOP": RawWake,
    "neoq": NeoqOnRedis,
    "huey": Huey,
    "dramatiq": Dramatiq,
    "Celery": Celery,
    "RQ": RQ,
    "taskiq": Taskiq,
}
