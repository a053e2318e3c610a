-- What workers, operators and time do to jobs. The plans are switched off as in 0002.sql.

-- Drop the oldest finished jobs, or the oldest dead ones, beyond a limit; returns what was dropped. One process at
-- a time: a second one that counted the same excess would drop as many again. A row that another transaction is
-- about to delete is skipped, and no younger one is dropped in its place.
create function trim_history(p_dead boolean, p_limit bigint) returns table (id bigint, queue text)
language plpgsql set search_path from current
as $$
#variable_conflict use_column
declare
    v_excess bigint;
begin
    perform pg_advisory_xact_lock(hashtext(current_schema()), 2);
    select coalesce(sum(n), 0) - p_limit into v_excess from counters where (status = 4) = p_dead;
    if v_excess <= 0 then
        return;
    end if;
    return query
    with gone as (
        delete from history where id in (
            select id from history where id in (
                select id from history where (p_dead and status = 4) or (not p_dead and status <> 4)
                order by finished_at, id limit v_excess
            ) for update skip locked
        ) returning id, queue, status
    ), counted as (
        insert into counters (queue, status, n) select queue, status, -count(*) from gone group by 1, 2
    )
    select id, queue from gone;
end $$;


-- Forget jobs that finished before a time, up to a limit; returns how many. The time is computed once: a comparison
-- with a volatile clock could not use the index.
create function prune(p_seconds float8, p_limit int) returns bigint language plpgsql
set search_path from current set enable_seqscan = off
as $$
declare
    v_before float8 := clock() - p_seconds;
    v_gone bigint;
begin
    with gone as (
        delete from history where id in (
            select id from history where status <> 4 and finished_at <= v_before
            order by finished_at limit p_limit for update skip locked
        ) returning queue, status
    ), counted as (
        insert into counters (queue, status, n) select queue, status, -count(*) from gone group by 1, 2
    )
    select count(*) into v_gone from gone;
    return v_gone;
end $$;


-- Sum the counters up, by one process at a time, and only when there are many rows.
create function sum_up() returns void language plpgsql set search_path from current
as $$
begin
    if pg_try_advisory_xact_lock(hashtext(current_schema()), 1) and (select count(*) > 200 from counters) then
        with gone as (delete from counters returning queue, status, n)
        insert into counters (queue, status, n) select queue, status, sum(n) from gone group by 1, 2 having sum(n) <> 0;
    end if;
end $$;


-- Renew a worker's leases: its heartbeat, and the progress of its jobs. Returns the leases that are lost, and the
-- jobs that were cancelled while they run.
create function extend(
    p_worker int, p_ids bigint[], p_tokens bigint[], p_fractions float8[], p_texts text[]
) returns table (id bigint, lost boolean) language plpgsql
set search_path from current
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
begin
    update workers set beat_at = clock() where number = p_worker and beat_at < clock() - 0.02;
    if p_fractions is not null then
        update jobs set progress = i.fraction, progress_text = i.words
        from unnest(p_ids, p_tokens, p_fractions, p_texts) as i (id, token, fraction, words)
        where jobs.id = any (array[i.id]) and jobs.token = i.token and status = 2 and i.fraction is not null
            and (progress, progress_text) is distinct from (i.fraction, i.words);
    end if;
    return query
    select i.id, jobs.id is null from unnest(p_ids, p_tokens) as i (id, token)
    left join jobs on jobs.id = any (array[i.id]) and jobs.token = i.token and status = 2
    where jobs.id is null or cancel;
end $$;


-- Record the heartbeat of a worker; returns its number.
create function beat(
    p_number int, p_id text, p_host text, p_pid int, p_started float8, p_queues text[], p_running int,
    p_locked boolean, p_kinds text, p_version text
) returns int language plpgsql set search_path from current
as $$
declare
    v_number int;
begin
    update workers set beat_at = clock(), queues = p_queues, running = p_running, locked = p_locked,
        kinds = p_kinds, version = p_version
    where id = p_id returning number into v_number;
    if not found then
        insert into workers (
            number, id, host, pid, started_at, beat_at, queues, running, locked, kinds, version
        )
        values (
            coalesce(p_number, nextval(pg_get_serial_sequence(current_schema() || '.workers', 'number'))),
            p_id, p_host, p_pid, p_started, clock(), p_queues, p_running, p_locked, p_kinds, p_version
        ) returning number into v_number;
    end if;
    return v_number;
end $$;


-- The workers that look dead: their heartbeat is late and the lock of a live worker is free, or it is very late.
create function dead_workers(p_me int, p_quiet float8, p_gone float8, p_class int)
returns setof int language sql stable set search_path from current
as $$
    select number from workers
    where number is distinct from p_me and beat_at < clock() - p_quiet and (
        beat_at < clock() - p_gone or locked and not exists (
            select from pg_locks
            where locktype = 'advisory' and objsubid = 2 and classid = p_class::oid and objid = number::oid
                and database = (select oid from pg_database where datname = current_database())
        )
    )
$$;


-- Reclaim the jobs of dead workers: each is ready again with one crash charged, or dead of too many. No crash is
-- charged if the worker left (its heartbeat is 0), or was gone before its claim was committed. Just after a start
-- of the server nobody is declared dead: all locks are free and all heartbeats are old.
create function reclaim(
    p_me int, p_quiet float8, p_gone float8, p_class int, p_uptime float8, p_max_crashes int,
    p_why text
) returns setof jobs language plpgsql set search_path from current
as $$
declare
    v_dead int[];
    v_crashed int[];
    v_job jobs;
begin
    if clock_timestamp() - pg_postmaster_start_time() < make_interval(secs => p_uptime) then
        return;
    end if;
    select array_agg(number), array_agg(number) filter (where beat_at > 0) into v_dead, v_crashed from (
        select number, beat_at from workers
        where number in (select dead_workers(p_me, p_quiet, p_gone, p_class)) for update skip locked
    ) dead;
    if v_dead is null then
        return;
    end if;
    for v_job in
        select * from jobs
        where status = 2 and (worker = any (v_dead) or not exists (select from workers where number = worker))
        for update skip locked
    loop
        if v_job.worker = any (v_crashed) then
            v_job.crashes := v_job.crashes + 1;
            -- A line of JSON, as neoq/attempts.py has it.
            v_job.attempts := coalesce(v_job.attempts || '\x0a'::bytea, '') || convert_to(json_build_object(
                's', v_job.ran_at, 'f', clock(), 'w', (select id from workers where number = v_job.worker),
                'e', p_why
            )::text, 'UTF8');
        end if;
        if v_job.cancel or v_job.crashes >= p_max_crashes then
            delete from jobs where id = v_job.id;
            if not v_job.cancel then
                v_job.error := format('WorkerDied: %s workers died while they ran it (max_crashes)', v_job.crashes);
            end if;
            perform archive(v_job, case when v_job.cancel then 5 else 4 end, clock(), null, null);
            v_job.status := case when v_job.cancel then 5 else 4 end;
        else
            v_job.status := case when v_job.retries > 0 then 1 else 0 end;
            update jobs set status = v_job.status, crashes = v_job.crashes, attempts = v_job.attempts,
                token = null, worker = null
            where id = v_job.id;
        end if;
        v_job.worker := null;
        return next v_job;
    end loop;
    delete from workers where number = any (v_dead)
        and not exists (select from jobs where status = 2 and worker = number);
end $$;


-- Cancel, retry now or delete jobs. Returns what was done, and what runs.
create function change(p_ids bigint[], p_holds uuid[], p_action text)
returns table (id bigint, queue text, done boolean) language plpgsql
set search_path from current set lock_timeout = '10s'
as $$
#variable_conflict use_column
declare
    v_id bigint;
    v_job jobs;
    v_past history;
    v_there bigint;
begin
    for i in 1 .. cardinality(p_ids) loop
        v_id := p_ids[i];
        select * into v_job from jobs where jobs.id = v_id for update;
        if found then
            if v_job.status = 2 then
                if p_action = 'cancel' then
                    update jobs set cancel = true where jobs.id = v_id;
                    return query select v_id, v_job.queue, false;
                end if;
                continue;
            elsif p_action = 'cancel' then
                delete from jobs where jobs.id = v_id;
                perform archive(v_job, 5, clock(), null, null);
            elsif p_action = 'delete' then
                delete from jobs where jobs.id = v_id;
            else
                update jobs set run_after = least(run_after, clock()) where jobs.id = v_id;
            end if;
            return query select v_id, v_job.queue, true;
            continue;
        end if;
        select * into v_past from history where history.id = v_id for update;
        continue when not found or p_action = 'cancel' or p_action = 'retry' and v_past.status <> 4;
        if p_action = 'retry' then
            -- without its deadline, or one that has passed would kill it again
            insert into jobs (
                id, run_after, created_at, ran_at, holds, added_by, max_retries, priority, status, uniqueness,
                codec, queue, payload, fingerprint, kind, key, batch, uid, meta, error, traceback, attempts
            ) values (
                v_id, clock(), v_past.created_at, v_past.ran_at, p_holds[i], v_past.added_by, v_past.max_retries,
                v_past.priority, 0, v_past.uniqueness, v_past.codec, v_past.queue, v_past.payload,
                v_past.fingerprint, v_past.kind, v_past.key, v_past.batch, v_past.uid, v_past.meta, v_past.error,
                v_past.traceback, v_past.attempts
            ) on conflict (holds, queue) where holds is not null do nothing;
            if not found then
                select jobs.id into v_there from jobs where holds = p_holds[i] and queue = v_past.queue;
                raise exception 'job % has that fingerprint', v_there using errcode = 'NQ001', detail = v_there;
            end if;
        end if;
        delete from history where history.id = v_id;
        insert into counters (queue, status, n) values (v_past.queue, v_past.status, -1);
        return query select v_id, v_past.queue, true;
    end loop;
end $$;


-- Record that a cron fired. A tick that is much older than the last one: the clock was set right.
create function tick(p_cron text, p_tick float8) returns boolean language sql set search_path from current
as $$
    with recorded as (
        insert into ticks (cron, tick) values (p_cron, p_tick)
        on conflict (cron) do update set tick = excluded.tick
            where excluded.tick > ticks.tick or excluded.tick <= ticks.tick - 10800
        returning 1
    )
    select exists (select from recorded)
$$;
