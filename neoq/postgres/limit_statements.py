"""The SQL for limits, lines and spans."""

from __future__ import annotations


class LimitStatements:
    """Each statement for limits, as a part of `Statements`."""

    _schema: str

    def _call(self, function: str, parameters: str) -> str:
        """A call of a function by the names of its parameters, which are listed as in its declaration."""
        named = [parameter.split() for parameter in parameters.split(",")]
        arguments = ", ".join(f"p_{name} => %({name})s::{kind}" for name, kind in named)
        return f"{self._schema}.{function}({arguments})"

    def _limits(self, claimed: str) -> None:
        s = self._schema
        claim = self._call(
            "limited_claim",
            "worker int, token bigint, queue text, limit int, kinds text[], taken boolean, "
            "looks_from bigint, known_levels smallint[], known_from float8[]",
        )
        self.limited_claim = f"select {claimed}, progress from {claim}"
        self.limits = f"select queue, listener, operator from {s}.limits"
        self.lock_limits = f"""
            insert into {s}.limits (queue) values (%(queue)s::text)
            on conflict (queue) do update set queue = excluded.queue returning listener, operator
        """
        names = (
            "listener operator by_key ordered hold_dead slots max_running spacing tolerance key_spacing "
            "key_tolerance aging"
        ).split()
        # What another rate has used up does not count.
        self.set_limits = f"""
            with dropped as (
                delete from {s}.rates using {s}.limits l
                where l.queue = %(queue)s::text and rates.queue = l.queue and case when rates.key = ''
                    then (l.spacing, l.tolerance)
                        is distinct from (%(spacing)s::float8, %(tolerance)s::float8)
                    else (l.key_spacing, l.key_tolerance)
                        is distinct from (%(key_spacing)s::float8, %(key_tolerance)s::float8) end
            )
            update {s}.limits set {", ".join(f"{name} = %({name})s" for name in names)}, changed = true
            where queue = %(queue)s::text returning pg_notify({s}.channel(), %(told)s::text)
        """
        self.spent_by = f"select place, job from {self._call('spent_by', 'queues text[], holds uuid[]')}"
        settle_spans = self._call(
            "settle_spans", "ids bigint[], spans float8[], replaced bigint[], delays float8[]"
        )
        self.settle_spans = f"select 1 from {settle_spans}"
        # What a caller's open transaction has locked is left for later: heartbeats prune.
        over = {
            "spent": f"until < {s}.clock()",
            "rates": f"next < {s}.clock() - 60",
            "heads": f"""
                not exists (select from {s}.history where id = job and status = 4)
                and not exists (select from {s}.jobs where id = job)
            """,
        }
        self.prune_spent, self.prune_rates, self.prune_heads = (
            f"delete from {s}.{table} where ctid in ("
            f"select ctid from {s}.{table} where {which} for update skip locked)"
            for table, which in over.items()
        )
        self.lines_to_look_at = f"select distinct queue from {s}.looks order by queue"
        self.tend_lines = f"select {self._call('tend_lines', 'queue text')}"
        held = f"from {s}.jobs where queue = %(queue)s::text and held = 4"
        self.lines = f"""
            with recursive keys (last, place) as (
                (select key, 1 {held} order by key limit 1)
                union all
                select (select key {held} and key > last order by key limit 1), place + 1
                from keys where last is not null and place < %(limit)s
            ), dead as (
                select h.key, h.job from (
                    select queue, key, job from {s}.heads
                    union all select queue, keys[1], job from {s}.looks where job is not null
                ) h join {s}.limits l on l.queue = h.queue
                where h.queue = %(queue)s::text and ordered and hold_dead
                    and exists (select from {s}.history where id = h.job and status = 4)
                order by h.key limit %(limit)s
            ), shown as (
                select key, 4 as state, job as head from dead
                union all
                select last, coalesce(j.status, 0), j.id from keys k
                left join lateral (
                    select id, status from {s}.jobs
                    where queue = %(queue)s::text and key = last and turn is not null
                    order by status desc, id limit 1
                ) j on true
                where last is not null and last not in (select key from dead)
            )
            select key, state, head, waiting from shown s
            cross join lateral (select count(*) as waiting {held} and key = s.key) behind
            order by state = 4 desc, state = 1 desc, key limit %(limit)s
        """
