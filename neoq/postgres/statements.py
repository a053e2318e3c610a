"""The SQL that PostgresBackend sends: mostly calls of the functions that its migrations made."""

from __future__ import annotations

from neoq.job import CODEC
from neoq.stored import LAST_CRASH

GROUP_PATIENCE = "100ms"  # for a fingerprint that another transaction holds, while others wait for the commit
_SNAPSHOT = """
    id, queue, status, priority, run_after, created_at, uniqueness, crashes, retries, max_retries, deadline,
    fingerprint, kind, key, batch, meta, payload, ran_at, error, traceback, progress, progress_text
"""
_CLAIMED = """
    id, queue, priority, run_after, created_at, payload, crashes, retries, uniqueness, max_retries, deadline,
    fingerprint, kind, key, batch, meta, error, traceback
"""


def channel_of(schema: str) -> str:
    """The channel of a schema; channel() in SQL says the same."""
    return f"neoq_{schema[:50]}"


class Statements:
    """Each statement; ``%s`` stand for values, and ``$1`` in what is prepared by hand."""

    def __init__(self, schema: str) -> None:
        self._schema = s = '"' + schema.replace('"', '""') + '"'
        self._channel = channel_of(schema).replace("'", "''")
        self._add()
        self._look()
        self.claim = f"""
            select {_CLAIMED}, progress from {s}.claim(
                %s::int, %s::bigint, %s::text[], %s::int[], %s::text[], %s::text[], %s::smallint[],
                %s::float8[]
            )
        """
        self.unclaim = f"""
            update {s}.jobs
            set status = case when retries > 0 then 1 else 0 end, token = null, worker = null
            where status = 2 and worker = %s and token = %s
        """
        self.succeed = f"""
            select * from {s}.succeed(
                %s::bigint[], %s::bigint[], %s::float8[], %s::float8[], %s::bytea[], %s::float8, %s::boolean
            )
        """
        self.settle = f"""
            select * from {s}.settle(
                %s::bigint[], %s::bigint[], %s::smallint[], %s::float8[], %s::boolean[], %s::float8[],
                %s::float8[], %s::text[], %s::text[], %s::bytea[], %s::float8[], %s::text[], %s::float8,
                %s::boolean, %s::boolean, %s::boolean
            )
        """
        self.completed = f"""
            select h.id, true from {s}.history h, unnest(%s::bigint[], %s::bigint[]) i (id, token)
            where h.id = i.id and h.completed = i.token
            union all
            select j.id, false from {s}.jobs j, unnest(%s::bigint[], %s::bigint[]) i (id, token)
            where j.id = i.id and j.token = i.token and j.status = 2
        """
        self.extend = f"""
            select id, lost
            from {s}.extend(%s::int, %s::bigint[], %s::bigint[], %s::float8[], %s::text[])
        """
        self.beat = f"""
            select {s}.beat(
                %s::int, %s::text, %s::text, %s::int, %s::float8, %s::text[], %s::int, %s::boolean
            )
        """
        self.version = f"select max(version) from {s}.migrations"
        self.vanish = f"delete from {s}.workers where number = %s"
        self.leave = f"update {s}.workers set beat_at = 0, locked = true where number = %s"
        self.dead_workers = f"""
            select 1 from {s}.dead_workers(%s::int, %s::float8, %s::float8, %s::int) limit 1
        """
        self.reclaim = f"""
            select {self._unfinished}
            from {s}.reclaim(%s::int, %s::float8, %s::float8, %s::int, %s::float8, %s::int)
        """
        self.change = f"select id, queue, done from {s}.change(%s::bigint[], %s::uuid[], %s::text)"
        self.tick = f"select {s}.tick(%s::text, %s::float8)"
        self.prune = f"select {s}.prune(%s::float8, %s::int)"
        self.trim = f"select id, queue from {s}.trim_history(%s::boolean, %s::bigint)"
        self.bound_crashes = (
            f"update {s}.jobs set crashes = {LAST_CRASH} where status = 2 and crashes > {LAST_CRASH}"
        )
        # A beat that lies ahead would keep a worker alive for ever; and no number is more than all others.
        self.bound_beats = f"update {s}.workers set beat_at = {s}.clock() where beat_at > {s}.clock() + 3600"
        self.sum_up = f"select {s}.sum_up()"
        self.pause = f"""
            insert into {s}.queues (queue, paused) values (%s, %s)
            on conflict (queue) do update set paused = excluded.paused
        """

    def _add(self) -> None:
        s = self._schema
        self.add = f"""
            select place, id, run_after, created_at, deadline, duplicate, ids from {s}.add(
                %s::text[], %s::bytea[], %s::uuid[], %s::uuid[], %s::float8[], %s::float8[], %s::smallint[],
                %s::smallint[], %s::smallint[], %s::int[], %s::float8[], %s::float8[], %s::text[], %s::text[],
                %s::text[], %s::text[], %s::bytea[], %s::smallint, %s::text
            )
        """
        # As add() does for plain jobs, without a function's costs; what meets a holder is left to that.
        tell = f", pg_notify('{self._channel}', $5::text)"
        self._plain_ones: dict[tuple[bool, bool, bool], tuple[bytes, bytes]] = {}
        for direct in (True, False):
            # Behind a PgBouncer there is no session to say it to, and it holds for the statement alone.
            patience = "" if direct else f", set_config('lock_timeout', '{GROUP_PATIENCE}', true)"
            one = self._plain("$1::uuid, $2::uuid, $3::text, $4::bytea", patience)
            several = self._plain(
                "i.holds, i.added_by, i.queue, i.payload",
                f"{patience}, unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[])"
                " i (holds, added_by, queue, payload) order by i.holds",
            )
            self._plain_ones |= {
                (False, False, direct): (b"neoq_add_one", one.encode()),
                (False, True, direct): (b"neoq_add_one_and_tell", f"{one}{tell}".encode()),
                (True, False, direct): (b"neoq_add_several", several.encode()),
                (True, True, direct): (b"neoq_add_several_and_tell", f"{several}{tell}".encode()),
            }
        self.added_by = " union all ".join(
            f"""
            select added_by, id, run_after, created_at, deadline, false, null::bigint[] from {s}.{table}
            where id > %s and added_by = any (%s::uuid[])
            """
            for table in ("jobs", "history")
        )
        self.held = f"""
            select i.place from unnest(%s::text[], %s::uuid[]) with ordinality i (queue, holds, place)
            where exists (select 1 from {s}.jobs j where j.holds = i.holds and j.queue = i.queue)
        """
        self.last_id = f"select last_value from {s}.job_ids"
        self.ready_within = f"select {s}.ready_within(%s::text, %s::int)"

    def _plain(self, values: str, source: str) -> str:
        s = self._schema
        return f"""
            insert into {s}.jobs (
                id, run_after, created_at, priority, status, uniqueness, codec, holds, added_by, queue,
                payload
            )
            select nextval('{s}.job_ids'), now, now, 0, 0, 1, {CODEC}, {values} from {s}.clock() now{source}
            on conflict (holds, queue) where holds is not null do nothing returning id, run_after, holds
        """

    def plain(self, *, several: bool, tell: bool, direct: bool) -> tuple[bytes, bytes]:
        """The name and the text of what adds one plain job or several, and tells others of them or not.

        ``direct``: the session has the patience of the group's.
        """
        return self._plain_ones[several, tell, direct]

    def _look(self) -> None:
        s = self._schema
        self._unfinished = f"""
            {_SNAPSHOT}, token, (select w.id from {s}.workers w where w.number = worker) as worker_id, cancel,
            run_after > {s}.clock(), null::float8, null::bytea
        """
        finished = f"{_SNAPSHOT}, 0::bigint, null::text, false, false, finished_at, result"
        self.find_unfinished = (
            f"(select {self._unfinished} from {s}.jobs where {{}} order by id desc limit %s)"
        )
        self.find_finished = f"(select {finished} from {s}.history where {{}} order by id desc limit %s)"
        # One row for each queue, and one look at the clock: for each job they would cost most of it.
        self.counts = f"""
            select queue, kind, n from (
                select queue, count(*) filter (where status in (0, 1) and run_after <= now) as ready,
                    count(*) filter (where status = 0 and run_after > now) as scheduled,
                    count(*) filter (where status = 1 and run_after > now) as retrying,
                    count(*) filter (where status = 2) as running,
                    count(*) filter (where status not in (0, 1, 2)) as bad
                from {s}.jobs cross join (select {s}.clock() as now offset 0) moment group by queue
            ) unfinished
            cross join lateral (values (0, ready), (1, scheduled), (2, retrying), (3, running), (5, bad))
                kinds (kind, n)
            where n > 0
            union all select queue, 1 + status, least(sum(n), {2**62})::bigint from {s}.tally
            where status between 3 and 5 group by 1, 2
        """
        self.queues = f"select queue, paused from {s}.queues"
        self.name_queues = f"""
            insert into {s}.queues (queue) select unnest(%s::text[]) order by 1 on conflict do nothing
        """
        self.last_tick = f"select tick from {s}.ticks where cron = %s"
        self.workers = f"""
            select id, host, pid, started_at, beat_at, queues, running from {s}.workers
            where beat_at >= {s}.clock() - %s order by started_at, id
        """
