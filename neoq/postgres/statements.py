"""The SQL that PostgresBackend sends: mostly calls of the functions that its migrations made."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from neoq.audit import KEPT
from neoq.line import PREVIEW
from neoq.payload import CODEC
from neoq.postgres.limit_statements import LimitStatements
from neoq.series import KEPT as SERIES_KEPT
from neoq.store import SCHEDULES_KEPT
from neoq.stored import HELD, LAST_CRASH

GROUP_PATIENCE = "100ms"  # for a fingerprint that another transaction holds, while others wait for the commit
_SNAPSHOT = """
    id, queue, status, priority, run_after, created_at, uniqueness, crashes, retries, max_retries, deadline,
    fingerprint, kind, key, batch, uid, meta, payload, ran_at, error, traceback, progress, progress_text,
    round
"""
_CLAIMED = """
    id, queue, priority, run_after, created_at, payload, crashes, retries, uniqueness, max_retries, deadline,
    fingerprint, kind, key, batch, uid, meta, error, traceback, attempts, steps, round, turn
"""


def _brief(find: str) -> str:
    """As a query for snapshots, with the beginnings of payloads, and without what else is large."""
    for column, instead in (
        ("payload", f"substring(payload for {PREVIEW + 1})"),
        ("traceback", "null::text"),
        ("result", "null::bytea"),
        ("attempts", "null::bytea"),
    ):
        find = re.sub(rf"(?<=, ){column}\b", instead, find, count=1)
    return find


def channel_of(schema: str) -> str:
    """The channel of a schema; channel() in SQL says the same."""
    return f"neoq_{schema[:50]}"


def changes_channel_of(schema: str) -> str:
    """The channel on which workers announce changes of jobs that others wait for."""
    return f"{channel_of(schema)}_changes"


class Statements(LimitStatements):
    """Each statement; ``%(name)s`` stand for values, and ``$1`` in what is prepared by hand."""

    def __init__(self, schema: str) -> None:
        self._schema = '"' + schema.replace('"', '""') + '"'
        self._channel = channel_of(schema).replace("'", "''")
        self._add()
        self._add_plain()
        self._attempts()
        self._workers()
        self._steps()
        self._groups()
        self._limits(_CLAIMED)
        self._operate()
        self._look()

    def _attempts(self) -> None:
        s = self._schema
        claim = self._call(
            "claim",
            "worker int, token bigint, queues text[], limits int[], kinds text[], known_queues text[], "
            "known_levels smallint[], known_from float8[], counted boolean",
        )
        self.claim = f"select {_CLAIMED}, progress from {claim}"
        self.undo_claim = f"""
            update {s}.jobs
            set status = case when retries > 0 then 1 else 0 end, token = null, worker = null
            where status = 2 and worker = %(worker)s and token = %(token)s
        """
        ends = (
            "ids bigint[], tokens bigint[], started float8[], finished float8[], results bytea[], "
            "skew float8, keep boolean"
        )
        succeed = self._call("succeed", ends)
        self.succeed_counted = f"select id, queue from {self._call('succeed_counted', ends)}"
        self.succeed_stepped = f"select * from {self._call('succeed_stepped', ends)}"
        self.succeed = f"select * from {succeed}"
        self.succeed_and_announce = (
            f"select ended.* from (select pg_notify(%(channel)s::text, %(told)s::text)) said, {succeed} ended"
        )
        settle = self._call(
            "settle",
            "ids bigint[], tokens bigint[], statuses smallint[], run_after float8[], charged boolean[], "
            "started float8[], finished float8[], errors text[], tracebacks text[], attempts bytea[], "
            "results bytea[], "
            "fractions float8[], texts text[], skew float8, keep boolean, completed boolean, skip boolean",
        )
        self.settle = f"select * from {settle}"
        given = "unnest(%(ids)s::bigint[], %(tokens)s::bigint[]) i (id, token)"
        self.completed = f"""
            select h.id, true from {s}.history h, {given} where h.id = i.id and h.completed = i.token
            union all
            select j.id, false from {s}.jobs j, {given}
            where j.id = i.id and j.token = i.token and j.status = 2
        """
        extend = self._call(
            "extend", "worker int, ids bigint[], tokens bigint[], fractions float8[], texts text[]"
        )
        self.extend = f"select id, lost from {extend}"

    def _steps(self) -> None:
        s = self._schema
        record = self._call(
            "record_steps",
            "ids bigint[], tokens bigint[], jobs bigint[], names text[], data bytea[], retries int[], "
            "crashes int[], lasting boolean[]",
        )
        self.record_steps = f"select * from {record}"
        self.record_prepared = (
            b"neoq_record",
            f"select * from {s}.record_steps($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], "
            "$5::bytea[], $6::int[], $7::int[], $8::boolean[])".encode(),
        )
        self.settle_steps = f"select 1 from {self._call('settle_held', 'ids bigint[], awaits text[]')}"
        self.steps = f"""
            select name, data, retries, crashes, lasting, at from {s}.steps where job = %s order by place
        """
        signal = self._call(
            "signal", "job bigint, queue text, holds uuid, name text, data bytea, most int, notify boolean"
        )
        self.signal = f"select * from {signal}"
        self.heed = f"select distinct * from {self._call('heed', 'limit int')}"

    def _workers(self) -> None:
        s = self._schema
        beat = self._call(
            "beat",
            "number int, id text, host text, pid int, started float8, queues text[], running int, "
            "locked boolean, kinds text, version text, report text",
        )
        self.beat = f"select {beat}"
        self.forget_worker = f"delete from {s}.workers where number = %s"
        self.leave = f"update {s}.workers set beat_at = 0, locked = true where number = %s"
        dead = self._call("dead_workers", "me int, quiet float8, gone float8, class int")
        self.dead_workers = f"select 1 from {dead} limit 1"
        reclaim = self._call(
            "reclaim",
            "me int, quiet float8, gone float8, class int, uptime float8, max_crashes int, why text",
        )
        self.reclaim = f"select {self._unfinished()} from {reclaim}"
        self.bound_crashes = (
            f"update {s}.jobs set crashes = {LAST_CRASH} where status = 2 and crashes > {LAST_CRASH}"
        )
        # A heartbeat in the future would keep a worker alive for ever. NaN counts as greater than any number.
        self.bound_beats = f"update {s}.workers set beat_at = {s}.clock() where beat_at > {s}.clock() + 3600"
        self.workers = f"""
            select id, host, pid, started_at, beat_at, queues, running, kinds, version, report
            from {s}.workers where beat_at >= {s}.clock() - %s order by started_at, id
        """

    def _groups(self) -> None:
        s = self._schema
        self.known_members = f"""
            select i.place, m.member from unnest(%(batches)s::text[], %(prints)s::uuid[])
                with ordinality i (batch, print, place)
            join {s}.members m on m.job = {s}.holder_of(i.batch) and m.print = i.print
        """
        self.live_groups = f"select * from {self._call('live_groups', 'batches text[]')}"
        held = (
            "job bigint, due float8, producer bigint, successes boolean, stop_on_dead boolean, named boolean"
        )
        self.hold_batch = f"select count(*) from {self._call('hold_batch', held)}"
        self.take_over = f"select {self._call('take_over', 'job bigint, producer bigint')}"
        self.seal = f"select * from {self._call('seal', 'job bigint, producer bigint, tell boolean')}"
        self.hold = (
            f"select * from {self._call('hold', 'ids bigint[], rounds int[], until float8[], skew float8')}"
        )
        self.note = f"select count(*) from {self._call('note_and_tell', 'batches text[], whats smallint[]')}"
        self.live = f"""
            select j.id from {s}.jobs j, unnest(%(ids)s::bigint[], %(tokens)s::bigint[]) i (id, token)
            where j.id = i.id and j.token = i.token and j.status = 2 order by j.id for update of j
        """
        counts = self._call("group_counts", "job bigint, round int")
        self.group = f"select members, succeeded, dead, cancelled, open, stopped from {counts}"
        self.tend = f"select queues, more from {self._call('tend', 'limit int')}"
        self.forget_groups = f"select {s}.forget_groups(5000)"

    def _operate(self) -> None:
        s = self._schema
        change = self._call("change_held", "ids bigint[], holds uuid[], action text")
        self.change = f"select id, queue, done from {change}"
        self.run_now = f"""
            update {s}.jobs set run_after = {s}.clock() where id in (
                select id from {s}.jobs
                where id = any (%(ids)s::bigint[]) and status < 2 and run_after > {s}.clock()
                    and held is null
                order by id for update
            ) returning id, queue, true
        """
        self.tick = f"select {self._call('tick', 'cron text, tick float8')}"
        self.ticked = f"""
            update {s}.ticks set job = coalesce(%(job)s::bigint, job),
                skipped = skipped + (%(job)s::bigint is null)::int
            where cron = %(cron)s
        """
        self.last_tick = f"select tick from {s}.ticks where cron = %s"
        self.list_schedules = f"""
            with gone as (
                delete from {s}.schedules where listed_at < {s}.clock() - {SCHEDULES_KEPT}
                    and name <> all (%(names)s::text[])
            )
            insert into {s}.schedules (name, described, listed_at)
            select name, described, {s}.clock()
            from unnest(%(names)s::text[], %(described)s::bytea[]) i (name, described) order by name
            on conflict (name) do update set described = excluded.described, listed_at = excluded.listed_at
        """
        self.schedules = f"""
            select name, described, tick, job, skipped from {s}.schedules left join {s}.ticks on cron = name
            where listed_at >= {s}.clock() - {SCHEDULES_KEPT} order by name
        """
        self.prune = f"select {self._call('prune', 'seconds float8, limit int')}"
        self.trim = f"select id, queue from {self._call('trim_history', 'dead boolean, limit bigint')}"
        self.sum_up = f"select {s}.sum_up()"
        self.pause = f"""
            insert into {s}.queues (queue, paused) values (%(queue)s, %(paused)s)
            on conflict (queue) do update set paused = excluded.paused
        """
        self.add_audit = f"""
            insert into {s}.audit (at, actor, via, action, number, queue, what)
            values ({s}.clock(), %(user)s, %(via)s, %(action)s, %(count)s, %(queue)s, %(what)s)
        """
        self.audit = f"""
            select id, at, actor, via, action, number, queue, what from {s}.audit
            where id < %(before)s::bigint and at >= {s}.clock() - %(kept)s::float8
            order by id desc limit %(limit)s::bigint
        """
        self.prune_audit = f"delete from {s}.audit where at < {s}.clock() - {KEPT}"
        self._series()
        self.queues = f"select queue, paused from {s}.queues"
        self.version = f"select max(version) from {s}.migrations"

    def _series(self) -> None:
        s = self._schema
        sums = "select coalesce(a, 0) + coalesce(b, 0) from unnest(kept.numbers, excluded.numbers)"
        self.add_series = f"""
            with fresh as (
                insert into {s}.series as kept (seconds, start, queue, numbers)
                values (0, 0, %(writer)s, array[%(serial)s::float8, {s}.clock()])
                on conflict (seconds, start, queue) do update set numbers = excluded.numbers
                where kept.numbers[1] is distinct from excluded.numbers[1] returning numbers[2] as now
            )
            insert into {s}.series as kept (seconds, start, queue, numbers)
            select seconds, floor(now / seconds) * seconds, q, n
            from fresh, (values {", ".join(f"({seconds})" for seconds in SERIES_KEPT)}) lasts (seconds),
                jsonb_to_recordset(%(told)s::jsonb) told (q text, n float8[])
            order by 1, 3
            on conflict (seconds, start, queue) do update set numbers = array(
                {sums} with ordinality summed (a, b, place) order by place
            )
        """
        self.series = f"""
            select queue, start, numbers from {s}.series
            where seconds = %(seconds)s::int and start > %(after)s::float8
                and (%(queue)s::text is null or queue = %(queue)s::text)
            order by start, queue
        """
        ages = " or ".join(
            f"seconds = {seconds} and start < {s}.clock() - {kept}" for seconds, kept in SERIES_KEPT.items()
        )
        written = f"seconds = 0 and coalesce(numbers[2], 0) < {s}.clock() - {SERIES_KEPT[60]}"
        self.prune_series = f"delete from {s}.series where {ages} or {written}"

    def _add(self) -> None:
        s = self._schema
        parameters = (
            "queues text[], payloads bytea[], holds uuid[], added_by uuid[], at float8[], span float8[], "
            "priorities smallint[], uniqueness smallint[], on_duplicate smallint[], max_retries int[], "
            "deadline float8[], deadline_span float8[], fingerprints text[], kinds text[], keys text[], "
            "batches text[], uids text[], metas bytea[], codec smallint, notify text"
        )
        add = self._call("add", parameters)
        added = "select place, id, run_after, created_at, deadline, duplicate, ids from"
        self.add = f"{added} {add}"
        self.add_members = (
            f"{added} {self._call('add_members', f'{parameters}, producers bigint[], prints uuid[]')}"
        )
        self.added_by = " union all ".join(
            f"""
            select added_by, id, run_after, created_at, deadline, false, null::bigint[] from {s}.{table}
            where id > %(last_id)s and added_by = any (%(tokens)s::uuid[])
            """
            for table in ("jobs", "history")
        )
        self.held = f"""
            select i.place from unnest(%(queues)s::text[], %(holds)s::uuid[])
                with ordinality i (queue, holds, place)
            where exists (select 1 from {s}.jobs j where j.holds = i.holds and j.queue = i.queue)
        """
        self.named = " union all ".join(
            f"select uid from {s}.{table} where uid = any (%(uids)s::text[])" for table in ("jobs", "history")
        )
        self.last_id = f"select last_value from {s}.job_ids"
        self.ready_within = f"select {self._call('ready_within', 'queue text, limit int')}"
        self.name_queues = f"""
            insert into {s}.queues (queue) select unnest(%s::text[]) order by 1 on conflict do nothing
        """

    def add_of(self, values: Mapping[str, Any]) -> str:
        """The statement that takes the values of `add_values`."""
        return self.add_members if "producers" in values else self.add

    def _add_plain(self) -> None:
        # As add() for plain jobs and calls of tasks, which hold nothing, without the cost of a function. A
        # job that meets a holder is left to add().
        tell = f", pg_notify('{self._channel}', $6::text)"
        self._plain_ones: dict[tuple[bool, bool, bool], tuple[bytes, bytes]] = {}
        for direct in (True, False):
            # Behind a PgBouncer no session keeps the setting, so it is made for this statement alone.
            patience = "" if direct else f", set_config('lock_timeout', '{GROUP_PATIENCE}', true)"
            one = self._plain("$1::uuid", "$2::uuid, $3::text, $4::bytea, $5::text", patience)
            several = self._plain(
                "i.holds",
                "i.added_by, i.queue, i.payload, i.kind",
                f"{patience}, unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::text[])"
                " i (holds, added_by, queue, payload, kind) order by i.holds",
            )
            self._plain_ones |= {
                (False, False, direct): (b"neoq_add_one", one.encode()),
                (False, True, direct): (b"neoq_add_one_and_tell", f"{one}{tell}".encode()),
                (True, False, direct): (b"neoq_add_several", several.encode()),
                (True, True, direct): (b"neoq_add_several_and_tell", f"{several}{tell}".encode()),
            }

    def _plain(self, holds: str, values: str, source: str) -> str:
        s = self._schema
        return f"""
            insert into {s}.jobs (
                id, run_after, created_at, priority, status, uniqueness, codec, holds, added_by, queue,
                payload, kind
            )
            select nextval('{s}.job_ids'), now, now, 0, 0, ({holds} is not null)::int, {CODEC}, {holds},
                {values}
            from {s}.clock() now{source}
            on conflict (holds, queue) where holds is not null do nothing
            returning id, run_after, coalesce(holds, added_by)
        """

    def plain(self, *, several: bool, tell: bool, direct: bool) -> tuple[bytes, bytes]:
        """The name and the text of what adds one plain job or several, and tells others of them or not.

        ``direct``: the session has the patience of the group's.
        """
        return self._plain_ones[several, tell, direct]

    def _look(self) -> None:
        s = self._schema
        finished = (
            f"{_SNAPSHOT}, 0::bigint, null::text, false, false, finished_at, result, attempts, null::smallint"
        )
        self.find_unfinished = (
            f"(select {self._unfinished()} from {s}.jobs where {{}} order by id {{}} limit %s)"
        )
        self.find_finished = f"(select {finished} from {s}.history where {{}} order by id {{}} limit %s)"
        self.brief_unfinished, self.brief_finished = (
            _brief(find) for find in (self.find_unfinished, self.find_finished)
        )
        self.window_downwards, self.window_upwards = (
            f"(select id from {s}.{{}} where {{}} and id {than} %s order by id {order} offset %s limit 1)"
            for than, order in (("<", "desc"), (">", "asc"))
        )
        self.of_group = f"select id from {s}.{{}} where {{}} order by id {{}} limit %s"
        self.some_unfinished = f"select id from {s}.jobs where {{}} limit %s"
        # Each by an index that has those of a key: of lines, of turns, and of all others.
        in_limits = f"queue = any (array(select queue from {s}.limits))"
        self.some_of_key = " union all ".join(
            f"(select id from {s}.jobs where {{0}} and {which} limit %s)"
            for which in (
                "turn is null and held is distinct from 4",
                f"turn is null and held = 4 and {in_limits}",
                f"turn is not null and {in_limits}",
            )
        )
        # In order, so that the plan goes along one of the indexes and ends at the limit.
        self.ended_between = f"(select id from {s}.history where {{}} order by finished_at limit %s)"
        # One row for each queue, and one look at the clock: for each job they would cost most of it.
        self.counts_ended = f"""
            select queue, 1 + status, least(sum(n), {2**62})::bigint, null::float8 from {s}.counters
            where status between 3 and 5 group by 1, 2
        """
        self.counts = f"""
            select queue, kind, n, oldest from (
                select queue,
                    count(*) filter (where status in (0, 1) and (run_after <= now or held = 4)) as ready,
                    count(*) filter (where status = 0 and run_after > now and held < 4) as held,
                    min(case when held = 4 then own_due else run_after end) filter (
                        where status in (0, 1) and (run_after <= now or held = 4)
                    ) as due,
                    min(ran_at) filter (where status = 2) as started,
                    count(*) filter (where status = 0 and run_after > now and held is null)
                        as scheduled,
                    count(*) filter (where status = 1 and run_after > now and held is null) as retrying,
                    count(*) filter (where status = 2) as running,
                    count(*) filter (where status not in (0, 1, 2)) as bad
                from {s}.jobs cross join (select {s}.clock() as now offset 0) moment group by queue
            ) unfinished
            cross join lateral (
                values (0, ready, due), (1, scheduled, null), (2, retrying, null), (3, running, started),
                    (5, bad, null), ({HELD}, held, null)
            ) kinds (kind, n, oldest)
            where n > 0
            union all {self.counts_ended}
        """

        self.waiting_kinds = f"""
            select kind, count(*) from (
                select kind from {s}.jobs where queue = %s and status in (0, 1)
                order by priority desc, run_after, id limit %s
            ) first group by kind
        """

    def ended_candidates(self, *, by: Collection[str], upwards: bool) -> str:
        """The query for the ids of jobs that have ended, by an index: by their key, or queue and kind.

        A row without an id says that there are more queues and kinds than may be looked at together.
        """
        s, than, order = self._schema, *((">", "asc") if upwards else ("<", "desc"))
        if "key" in by:
            return f"""
                select id from {s}.history where key = %(key)s and status = any (%(statuses)s::smallint[])
                    and id {than} %(start)s order by id {order} limit %(most)s
            """
        # Each step goes to the next name that there is, so that it costs one look whatever lies between.
        queues = "select %(queue)s::text queue" if "queue" in by else "select queue from next_queue"
        kinds = "select queue, %(kind)s::text kind from queues" if "kind" in by else "table next_kind"
        return f"""
            with recursive next_queue (queue) as (
                (select queue from {s}.history order by queue limit 1)
                union all
                select (select h.queue from {s}.history h where h.queue > n.queue order by 1 limit 1)
                from next_queue n where n.queue is not null
            ), queues as ({queues}), next_kind (queue, kind) as (
                select queue, (
                    select coalesce(kind, '') from {s}.history h where h.queue = q.queue
                    order by coalesce(kind, '') limit 1
                ) from queues q
                union all select n.queue, (
                    select coalesce(h.kind, '') from {s}.history h
                    where h.queue = n.queue and coalesce(h.kind, '') > n.kind
                    order by coalesce(h.kind, '') limit 1
                ) from next_kind n where n.kind is not null
            ), places as materialized (
                select queue, kind, status from ({kinds}) names
                cross join unnest(%(statuses)s::smallint[]) status
                where queue is not null and kind is not null limit %(places)s + 1
            )
            (select null::bigint id from places offset %(places)s)
            union all (
                select found.id from places p cross join lateral (
                    select id from {s}.history h
                    where h.queue = p.queue and coalesce(h.kind, '') = p.kind and h.status = p.status
                        and id {than} %(start)s order by id {order} limit %(most)s
                ) found order by found.id {order} limit %(most)s
            )
        """

    def _unfinished(self) -> str:
        s = self._schema
        return f"""
            {_SNAPSHOT}, token, (select w.id from {s}.workers w where w.number = worker) as worker_id, cancel,
            run_after > {s}.clock(), null::float8, null::bytea, attempts, held
        """
