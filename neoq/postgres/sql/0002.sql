-- The operations, each one statement for the client and one round trip. They switch off the plans that a
-- queue never wants: its tables grow and shrink by orders of magnitude between two looks of the statistics. For the
-- same reason a join with what was given says "id = any (array[i.id])": by that only the index finds rows, one by one.
-- By "id = i.id" all rows could be read in order, which a planner prefers who believes that they are few, and compared
-- with all that was given.

create function clock() returns float8 language sql volatile
as $$ select extract(epoch from clock_timestamp())::float8 $$;

create function channel() returns text language sql stable set search_path from current
as $$ select 'neoq_' || left(current_schema(), 50) $$;


-- Store jobs in their order. Arrays that are null, or too short, stand for nulls. Where all are stored, one row
-- has their ids, or there is one for each in order of id; else each has its place, and a duplicate the id of the
-- job that was there.
create function add(
    p_queues text[], p_payloads bytea[], p_holds uuid[], p_added_by uuid[],
    p_at float8[], p_span float8[], p_priorities smallint[], p_uniqueness smallint[], p_on_duplicate smallint[],
    p_max_retries int[], p_deadline float8[], p_deadline_span float8[], p_fingerprints text[], p_kinds text[],
    p_keys text[], p_batches text[], p_uids text[], p_metas bytea[], p_codec smallint, p_notify text
) returns table (
    place int, id bigint, run_after float8, created_at float8, deadline float8, duplicate boolean, ids bigint[]
) language plpgsql
set search_path from current set lock_timeout = '10s'
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_now float8 := clock();
    v_number int := cardinality(p_queues);
    v_ids bigint[];
    v_job record;
    v_there jobs;
    v_named record;
begin
    if p_notify is not null then
        perform pg_notify(channel(), p_notify);
    end if;
    select array_agg(nextval('job_ids')) into v_ids from generate_series(1, v_number);
    -- Others that add these uids wait, in one order, for the end of this transaction.
    perform pg_advisory_xact_lock(hashtext(current_schema()), hashtext('uid ' || uid))
    from (select distinct uid from unnest(p_uids) as uid where uid is not null order by uid) named;
    -- All at once where none has a holder, as in most batches: to look for one before each costs half as much
    -- again. Sorted, so that two callers with the same fingerprints lock them in the same order.
    if v_number > 1 and p_uids is null then
        begin
            insert into jobs (
                id, run_after, created_at, deadline, holds, added_by, max_retries, priority, status, uniqueness,
                codec, queue, payload, fingerprint, kind, key, batch, uid, meta
            )
            select i.id, coalesce(i.at, v_now + coalesce(i.span, 0)), v_now,
                coalesce(i.deadline, v_now + i.deadline_span), i.holds, i.added_by, i.max_retries,
                coalesce(i.priority, 0), 0, coalesce(i.uniqueness, 1), p_codec, i.queue, i.payload, i.fingerprint,
                i.kind, i.key, i.batch, i.uid, i.meta
            from unnest(
                v_ids, p_queues, p_payloads, p_holds, p_added_by, p_at, p_span, p_priorities, p_uniqueness,
                p_max_retries, p_deadline, p_deadline_span, p_fingerprints, p_kinds, p_keys, p_batches, p_uids, p_metas
            ) as i (
                id, queue, payload, holds, added_by, at, span, priority, uniqueness,
                max_retries, deadline, deadline_span, fingerprint, kind, key, batch, uid, meta
            )
            order by i.holds, i.queue, i.id;
            if coalesce(p_at, p_span, p_deadline, p_deadline_span) is null then
                return query select null::int, null::bigint, v_now, v_now, null::float8, false, v_ids;
                return;
            end if;
            return query
            select null::int, i.id, coalesce(i.at, v_now + coalesce(i.span, 0)), v_now,
                coalesce(i.deadline, v_now + i.deadline_span), false, null::bigint[]
            from unnest(v_ids, p_at, p_span, p_deadline, p_deadline_span)
                as i (id, at, span, deadline, deadline_span);
            return;
        exception when unique_violation then
            null;
        end;
    end if;

    for v_job in
        select i.*, coalesce(i.at, v_now + coalesce(i.span, 0)) as run_after,
            coalesce(i.deadline_at, v_now + i.deadline_span) as deadline
        from unnest(
            v_ids, p_queues, p_payloads, p_holds, p_added_by, p_at, p_span, p_priorities, p_uniqueness,
            p_max_retries, p_deadline, p_deadline_span, p_fingerprints, p_kinds, p_keys, p_batches, p_uids, p_metas,
            p_on_duplicate
        ) with ordinality as i (
            id, queue, payload, holds, added_by, at, span, priority, uniqueness,
            max_retries, deadline_at, deadline_span, fingerprint, kind, key, batch, uid, meta, on_duplicate, place
        )
        order by case when p_uids is null then i.holds end, case when p_uids is null then i.queue end, i.id
    loop
        if v_job.uid is not null then
            -- In one statement: between two a job may move from one table to the other.
            select u.id, u.queue into v_named from (
                select id, queue from jobs where uid = v_job.uid
                union all select id, queue from history where uid = v_job.uid
            ) u limit 1;
            if found and (v_named.queue <> v_job.queue or v_job.on_duplicate = 1) then
                raise exception 'job % has that uid', v_named.id
                    using errcode = 'NQ001', detail = v_named.id, hint = v_job.uid;
            elsif found then
                return query select v_job.place::int, v_named.id, null::float8, null::float8, null::float8, true,
                    null::bigint[];
                continue;
            end if;
        end if;
        loop
            insert into jobs (
                id, run_after, created_at, deadline, holds, added_by, max_retries, priority, status, uniqueness,
                codec, queue, payload, fingerprint, kind, key, batch, uid, meta
            ) values (
                v_job.id, v_job.run_after, v_now, v_job.deadline, v_job.holds, v_job.added_by, v_job.max_retries,
                coalesce(v_job.priority, 0), 0, coalesce(v_job.uniqueness, 1), p_codec, v_job.queue, v_job.payload,
                v_job.fingerprint, v_job.kind, v_job.key, v_job.batch, v_job.uid, v_job.meta
            ) on conflict (holds, queue) where holds is not null do nothing;
            if found then
                v_there.id := null;
                exit;
            end if;
            -- Without a lock unless something changes: the caller's transaction may be a long one, and a claim or
            -- a settle of the holder must not wait for its end. An update checks the row again.
            select * into v_there from jobs where holds = v_job.holds and queue = v_job.queue;
            continue when not found;
            if v_job.on_duplicate = 1 then
                raise exception 'job % has that fingerprint', v_there.id
                    using errcode = 'NQ001', detail = v_there.id;
            elsif v_job.on_duplicate = 2 then
                exit when v_there.status = 2;
                update jobs set payload = v_job.payload, codec = p_codec, deadline = v_job.deadline,
                    priority = coalesce(v_job.priority, 0), max_retries = v_job.max_retries, meta = v_job.meta,
                    key = v_job.key, fingerprint = v_job.fingerprint, run_after = v_job.run_after
                where id = v_there.id and holds = v_job.holds and status < 2;
            else
                exit when v_there.status <> 1 or v_there.run_after <= v_job.run_after;
                update jobs set run_after = v_job.run_after
                where id = v_there.id and holds = v_job.holds and status = 1 and run_after > v_job.run_after;
            end if;
            exit when found;
        end loop;
        if v_there.id is null then
            return query
            select v_job.place::int, v_job.id, v_job.run_after, v_now, v_job.deadline, false, null::bigint[];
            continue;
        end if;
        return query
        select v_job.place::int, v_there.id, null::float8, null::float8, null::float8, true, null::bigint[];
    end loop;
end $$;


-- Count the ready jobs of a queue, up to a limit. The lock lasts until the end of the transaction: no other
-- caller adds to the queue between this count and the add that follows it.
create function ready_within(p_queue text, p_limit int) returns int language plpgsql
set search_path from current set lock_timeout = '10s' set enable_seqscan = off set enable_bitmapscan = off
as $$
declare
    v_now float8 := clock();
    v_level smallint;
    v_ready int;
    v_all int := 0;
begin
    perform pg_advisory_xact_lock(hashtext(current_schema()), hashtext(p_queue));
    select priority into v_level from jobs where queue = p_queue order by priority desc limit 1;
    while v_level is not null and v_all <= p_limit loop
        select count(*) into v_ready from (
            select 1 from jobs
            where queue = p_queue and priority = v_level and status < 2 and run_after <= v_now
            limit p_limit + 1
        ) ready;
        v_all := v_all + v_ready;
        select (
            select priority from jobs where queue = p_queue and priority < v_level
            order by priority desc limit 1
        ) into v_level;
    end loop;
    return v_all;
end $$;


-- Take the best ready jobs of each queue. The rows after them have no id. One for each queue and priority that was
-- looked at says from what time on the next claim may look (run_after), and how many seconds this one searched
-- (progress): what is before that time was taken, and may lie there dead for as long as somebody's transaction is
-- open, to be stepped over by each claim. The last row tells when the next job is due (run_after) and what time it
-- is (created_at). A job with a crash behind it comes alone, at its turn.
create function claim(
    p_worker int, p_token bigint, p_queues text[], p_limits int[], p_kinds text[],
    p_known_queues text[], p_known_levels smallint[], p_known_from float8[]
) returns setof jobs language plpgsql
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
declare
    v_now float8 := clock();
    v_began float8;
    v_told jobs;
    v_next float8;
    v_due float8;
    v_left int;
    v_levels smallint[];
    v_froms float8[];
    v_place int;
    v_level smallint;
    v_from float8;
    v_last_due float8;
    v_rows tid[];
    v_crashed boolean;
    v_taken boolean := false;
begin
    <<every_queue>>
    for i in 1 .. cardinality(p_queues) loop
        continue when exists (select from queues where queue = p_queues[i] and paused);
        v_left := p_limits[i];
        v_levels := null;
        if p_known_queues is not null then
            select array_agg(level order by level desc), array_agg(start order by level desc)
            into v_levels, v_froms
            from unnest(p_known_queues, p_known_levels, p_known_from) as known (name, level, start)
            where name = p_queues[i];
        end if;
        v_place := 1;
        v_level := null;
        loop
            v_began := clock();
            while v_levels[v_place] >= v_level loop
                v_place := v_place + 1;
            end loop;
            -- The next priority that is known, unless jobs of one before it have come since.
            if v_place <= cardinality(v_levels) and not exists (
                select from jobs where queue = p_queues[i] and priority > v_levels[v_place]
                    and priority < coalesce(v_level, 32767::smallint)
            ) then
                v_level := v_levels[v_place];
                v_from := v_froms[v_place];
            else
                -- The first that is there, so that what lies dead before it is stepped over once, not twice.
                select priority, run_after into v_level, v_from from jobs
                where queue = p_queues[i] and priority < coalesce(v_level, 32767::smallint)
                order by priority desc, run_after, id limit 1;
            end if;
            exit when v_level is null;
            v_last_due := v_from;
            v_rows := null;
            v_crashed := false;
            if v_left > 0 then
                select array_agg(row), bool_or(crashes > 0), coalesce(max(run_after), v_now)
                into v_rows, v_crashed, v_last_due
                from (
                    select ctid as row, crashes, run_after from jobs
                    where queue = p_queues[i] and priority = v_level and status < 2
                        and run_after >= v_from and run_after <= v_now
                        and (p_kinds is null or kind = any (p_kinds))
                    order by run_after, id limit v_left for update skip locked
                ) best;
                if v_crashed then
                    v_next := v_now;
                    select array_agg(row order by place) into v_rows from (
                        select row, place, min(place) filter (where crashes > 0) over () as crash
                        from unnest(v_rows) with ordinality as best (row, place) join jobs on ctid = row
                    ) job where place < crash or (crash = 1 and place = 1 and not v_taken);
                    v_last_due := v_from;
                end if;
            end if;
            if v_rows is not null then
                return query
                update jobs set status = 2, token = p_token, worker = p_worker, ran_at = v_now, progress = null,
                    progress_text = null, holds = case when uniqueness = 2 then null else holds end
                where ctid = any (v_rows) returning *;
                v_left := v_left - cardinality(v_rows);
                v_taken := true;
                if v_crashed then
                    exit every_queue;
                end if;
            elsif v_crashed then
                continue every_queue;
            end if;
            select (
                select run_after from jobs
                where queue = p_queues[i] and priority = v_level and status < 2
                    and run_after >= v_last_due and (v_left = 0 or run_after > v_now)
                    and (p_kinds is null or kind = any (p_kinds))
                order by run_after, id limit 1
            ) into v_due;
            v_next := least(v_next, v_due);
            v_told.queue := p_queues[i];
            v_told.priority := v_level;
            v_told.run_after := least(v_last_due, v_now - 0.1);  -- what is committed late is not missed
            v_told.progress := clock() - v_began;
            return next v_told;
            exit when v_left = 0 and v_next <= v_now;
        end loop;
    end loop;
    v_told := null;
    v_told.run_after := v_next;
    v_told.created_at := v_now;
    return next v_told;
end $$;


-- Settle successes: each leaves jobs, under its current lease only. Returns the ids of those that did.
create function succeed(
    p_ids bigint[], p_tokens bigint[], p_started float8[], p_finished float8[], p_results bytea[],
    p_skew float8, p_keep boolean
) returns setof bigint language plpgsql
set search_path from current
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
    if not p_keep then
        return query
        delete from jobs using unnest(p_ids, p_tokens) as i (id, token)
        where jobs.id = any (array[i.id]) and jobs.token = i.token and status = 2 returning jobs.id;
        return;
    end if;
    return query
    with ended as (
        delete from jobs using unnest(p_ids, p_tokens, p_started, p_finished, p_results)
            as i (id, token, started, finished, result)
        where jobs.id = any (array[i.id]) and jobs.token = i.token and status = 2
        returning jobs.*, started, finished, result
    ), kept as (
        insert into history (
            id, run_after, created_at, ran_at, deadline, progress, finished_at, holds, added_by, retries,
            max_retries, priority, status, uniqueness, crashes, codec, queue, payload, fingerprint, kind, key,
            batch, uid, meta, error, traceback, attempts, progress_text, result
        )
        select id, run_after, created_at, coalesce(started + p_skew, ran_at), deadline, progress,
            coalesce(finished + p_skew, clock()), holds, added_by, retries, max_retries, priority, 3, uniqueness,
            crashes, codec, queue, payload, fingerprint, kind, key, batch, uid, meta, error, traceback, attempts,
            progress_text, result
        from ended
    ), counted as (
        insert into counters (queue, status, n) select queue, 3, count(*) from ended group by queue
    )
    select id from ended;
end $$;


-- Settle all other outcomes. A job that was cancelled while it ran is not retried. p_completed keeps the token of
-- a job that its handler completed in its own transaction, so that the outcome of that attempt is not stale.
create function settle(
    p_ids bigint[], p_tokens bigint[], p_statuses smallint[], p_run_after float8[], p_charged boolean[],
    p_started float8[], p_finished float8[], p_errors text[], p_tracebacks text[], p_attempts bytea[],
    p_results bytea[], p_fractions float8[], p_texts text[], p_skew float8, p_keep boolean, p_completed boolean,
    p_skip boolean
) returns setof bigint language plpgsql
set search_path from current
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_now float8 := clock();
    o record;
    v_job jobs;
    v_status smallint;
begin
    for o in
        select * from unnest(
            p_ids, p_tokens, p_statuses, p_run_after, p_charged, p_started, p_finished, p_errors, p_tracebacks,
            p_attempts, p_results, p_fractions, p_texts
        ) as i (
            id, token, status, run_after, charged, started, finished, error, traceback, attempts, result, fraction,
            words
        ) order by id
    loop
        if p_skip then
            select * into v_job from jobs where jobs.id = o.id and token = o.token and status = 2
            for update skip locked;
        else
            select * into v_job from jobs where jobs.id = o.id and token = o.token and status = 2 for update;
        end if;
        continue when not found;
        v_status := case when o.status < 2 and v_job.cancel then 5 else o.status end;
        if v_status < 2 then
            update jobs set status = v_status, token = null, worker = null, retries = retries + o.charged::int,
                run_after = case when o.run_after is null or o.run_after = run_after then run_after
                    else o.run_after + p_skew end,
                ran_at = coalesce(o.started + p_skew, case when retries = 0 then null else ran_at end),
                error = coalesce(o.error, error), traceback = coalesce(o.traceback, traceback),
                attempts = coalesce(o.attempts, attempts),
                progress = null, progress_text = null
            where jobs.id = o.id;
        else
            delete from jobs where jobs.id = o.id;
            if p_keep or v_status <> 3 then
                v_job.retries := v_job.retries + o.charged::int;
                v_job.ran_at := coalesce(o.started + p_skew, v_job.ran_at);
                v_job.error := coalesce(o.error, v_job.error);
                v_job.traceback := coalesce(o.traceback, v_job.traceback);
                v_job.attempts := coalesce(o.attempts, v_job.attempts);
                v_job.progress := coalesce(o.fraction, v_job.progress);
                v_job.progress_text := coalesce(o.words, v_job.progress_text);
                perform archive(v_job, v_status, coalesce(o.finished + p_skew, v_now), o.result,
                    case when p_completed then o.token end);
            end if;
        end if;
        return next o.id;
    end loop;
end $$;


-- Move a finished job to history; the caller has deleted it from jobs.
create function archive(p_job jobs, p_status int, p_finished float8, p_result bytea, p_completed bigint)
returns void language sql set search_path from current
as $$
    insert into history (
        id, run_after, created_at, completed, ran_at, deadline, progress, finished_at, holds, added_by, retries,
        max_retries, priority, status, uniqueness, crashes, codec, queue, payload, fingerprint, kind, key, batch, uid,
        meta, error, traceback, attempts, progress_text, result
    ) values (
        p_job.id, p_job.run_after, p_job.created_at, p_completed, p_job.ran_at, p_job.deadline, p_job.progress,
        p_finished, p_job.holds, p_job.added_by, p_job.retries, p_job.max_retries, p_job.priority, p_status,
        p_job.uniqueness, p_job.crashes, p_job.codec, p_job.queue, p_job.payload, p_job.fingerprint, p_job.kind,
        p_job.key, p_job.batch, p_job.uid, p_job.meta, p_job.error, p_job.traceback, p_job.attempts,
        p_job.progress_text, p_result
    );
    insert into counters (queue, status, n) values (p_job.queue, p_status, 1);
$$;
