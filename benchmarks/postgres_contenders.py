"""neoq and its peers on Postgres, each set up as its own documentation recommends, and the raw floor."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any

from server_contenders import BULK, QUEUE, Handler, Neoq, OnLoop, OnServer, Payload, batches

CLAIMED_AT_ONCE = 100

TABLE = """
create table raw_jobs (
    id bigint generated always as identity primary key,
    queue text not null,
    run_after timestamptz not null default now(),
    lease timestamptz,
    payload bytea not null
);
create index on raw_jobs (run_after, id) where lease is null
"""
ADD = "insert into raw_jobs (queue, payload) values (%s, %s) returning id"
ADD_MANY = "insert into raw_jobs (queue, payload) select %s, unnest(%s::bytea[]) returning id"
CLAIM = """
update raw_jobs set lease = now() + interval '30 s' where id = any(array(
    select id from raw_jobs where lease is null and run_after <= now()
    order by run_after, id limit %s for update skip locked))
returning id, payload
"""
SETTLE = "delete from raw_jobs where id = any(%s)"


class Raw(OnServer):
    """psycopg and one table: claim by update and settle by delete, a hundred at a time, in one thread."""

    package = "psycopg"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.connection = self.connect()
        self.own = threading.local()
        self.ended = threading.Event()

    def connect(self) -> Any:
        import psycopg

        return psycopg.connect(self.url, autocommit=True)

    def prepare(self) -> None:
        self.connection.execute(TABLE)

    def put_each(self, payloads: Iterable[Payload]) -> None:
        """Each thread over a connection of its own."""
        connection = vars(self.own).setdefault("connection", None) or self.connect()
        self.own.connection = connection
        for payload in payloads:
            connection.execute(ADD, (QUEUE, json.dumps(payload).encode())).fetchone()

    def put_all(self, payloads: Iterable[Payload]) -> None:
        for batch in batches(payloads, BULK):
            datas = [json.dumps(payload).encode() for payload in batch]
            self.connection.execute(ADD_MANY, (QUEUE, datas)).fetchall()

    def work(self, handler: Handler, runners: int) -> None:
        self.thread = threading.Thread(target=self.run, args=(handler,), daemon=True)
        self.thread.start()

    def run(self, handler: Handler) -> None:
        with self.connect() as connection:
            while not self.ended.is_set():
                self.turn(connection, handler)

    def turn(self, connection: Any, handler: Handler) -> int:
        """Claim, run and settle once."""
        rows = connection.execute(CLAIM, (CLAIMED_AT_ONCE,), binary=True).fetchall()
        for _, payload in rows:
            handler(json.loads(payload))
        if rows:
            assert connection.execute(SETTLE, ([row[0] for row in rows],)).rowcount == len(rows)
        return len(rows)

    def settled(self) -> None:
        self.ended.set()
        self.thread.join()

    def stop(self) -> None:
        self.ended.set()


class RawWake(Raw):
    """The same, with a NOTIFY in the transaction of each insert and a LISTEN to wake by."""

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            with self.connection.transaction():
                self.connection.execute(ADD, (QUEUE, json.dumps(payload).encode()))
                self.connection.execute("notify raw_jobs")

    def run(self, handler: Handler) -> None:
        with self.connect() as connection, self.connect() as ear:
            ear.execute("listen raw_jobs")
            while not self.ended.is_set():
                if not self.turn(connection, handler):
                    for _ in ear.notifies(timeout=1, stop_after=1):
                        pass


class Procrastinate(OnLoop):
    """With sync tasks, deleting those that succeed."""

    package = "procrastinate"

    def __init__(self, url: str) -> None:
        super().__init__(url)
        from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

        self.handler: Handler | None = None
        self.producer = App(connector=SyncPsycopgConnector(conninfo=url))
        self.worker = App(connector=PsycopgConnector(conninfo=url))
        self.producer.open()
        self.task = self.producer.task(name=QUEUE)(self.handle)
        self.worker.task(name=QUEUE)(self.handle)

    def handle(self, **payload: Any) -> None:
        assert self.handler is not None
        self.handler(payload)

    def prepare(self) -> None:
        self.producer.schema_manager.apply_schema()

    def put_each(self, payloads: Iterable[Payload]) -> None:
        for payload in payloads:
            self.task.defer(**payload)

    def put_all(self, payloads: Iterable[Payload]) -> None:
        for batch in batches(payloads, BULK):
            self.task.batch_defer(*batch)

    def work(self, handler: Handler, runners: int) -> None:
        self.handler = handler
        self.wait_for(self.worker.connector.open_async())
        self.begin(
            self.worker.run_worker_async(
                concurrency=runners, delete_jobs="successful", install_signal_handlers=False
            )
        )


class PgQueuer(OnLoop):
    """With a coroutine as handler, and its default batch size."""

    package = "pgqueuer"
    batch_size = 10

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.wait_for(self.open())

    async def open(self) -> None:
        import psycopg
        from pgqueuer import PgQueuer
        from pgqueuer.queries import Queries

        connection = await psycopg.AsyncConnection.connect(self.url, autocommit=True)
        self.pgq = PgQueuer.from_psycopg_connection(connection)
        self.queries = Queries(self.pgq.connection)

    def prepare(self) -> None:
        self.wait_for(self.queries.install())

    def put_each(self, payloads: Iterable[Payload]) -> None:
        async def each() -> None:
            for payload in payloads:
                await self.queries.enqueue(QUEUE, json.dumps(payload).encode())

        self.wait_for(each())

    def put_all(self, payloads: Iterable[Payload]) -> None:
        async def all_of_them() -> None:
            for batch in batches(payloads, BULK):
                datas: list[bytes | None] = [json.dumps(payload).encode() for payload in batch]
                await self.queries.enqueue([QUEUE] * len(datas), datas, [0] * len(datas))

        self.wait_for(all_of_them())

    def work(self, handler: Handler, runners: int) -> None:
        @self.pgq.entrypoint(QUEUE)
        async def work(job: Any) -> None:
            handler(json.loads(job.payload))

        self.begin(self.pgq.run(batch_size=self.batch_size))


class PgQueuerInHundreds(PgQueuer):
    batch_size = 100


class NeoqOnPostgres(Neoq):
    package = "psycopg"

    def __init__(self, url: str) -> None:
        super().__init__(url, retention=0)


class NeoqKeepingADay(Neoq):
    package = "psycopg"

    def __init__(self, url: str) -> None:
        super().__init__(url, retention=86_400)


POSTGRES_CONTENDERS: dict[str, type[OnServer]] = {
    "raw": Raw,
    "raw LISTEN": RawWake,
    "neoq": NeoqOnPostgres,
    "neoq, kept a day": NeoqKeepingADay,
    "procrastinate": Procrastinate,
    "pgqueuer": PgQueuer,
    "pgqueuer in 100s": PgQueuerInHundreds,
}
