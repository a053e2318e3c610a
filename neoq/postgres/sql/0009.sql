-- Groups: the jobs whose ends a held job, their holder, waits for; a job's batch tells its group, as "17/1/0" for
-- holder, round and place.
--
-- The held of a job is 1 where it waits for a batch, 2 for children. Its run_after is its timeout or
-- deadline, or infinite, so that no claim comes by it; due is its own. round is that of its latest group.
-- groups is what the opener of a group says, tallies what has become of its jobs. Ends are noted in the commit that
-- records them, and added up later by `fold`, in the order of their ids: a job's end comes after what it was sent by.
-- One transaction at a time folds the notes of a queue, and nothing else waits for it or writes to tallies.

alter table jobs add column due float8, add column round int;
alter table history add column round int;
create index jobs_members on jobs (batch collate "C", id) where batch is not null;
create index history_members on history (batch collate "C", id) where batch is not null;

create table groups (
    job bigint not null,
    round int not null,
    queue text collate "C" not null,
    producer bigint not null,
    successes boolean not null,
    stop_on_dead boolean not null,
    named boolean not null,
    sealed boolean not null,
    primary key (job, round)
);

create table tallies (
    job bigint not null,
    round int not null,
    members bigint not null default 0,
    succeeded bigint not null default 0,
    dead bigint not null default 0,
    cancelled bigint not null default 0,
    stopped boolean not null default false,
    complete boolean not null default false,
    primary key (job, round)
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0);

-- The members of named batches, by their fingerprints.
create table members (
    job bigint not null,
    print uuid not null,
    member bigint not null,
    primary key (job, print)
);

-- What is to be counted for the holders of a queue. whats: 0 jobs were added, 1 there will be no more, 3 succeeded,
-- 4 dead, 5 cancelled, 6 a dead one was retried, 7 look again, 8 the holder has ended.
create table notes (
    id bigint primary key generated always as identity,
    queue text collate "C" not null,
    ids bigint[] not null,
    rounds int[] not null,
    whats smallint[] not null,
    ns int[] not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_cost_delay = 0);
create index notes_of on notes (queue, id);

-- Groups whose jobs are being cancelled.
create table stopping (
    job bigint not null,
    round int not null,
    asked boolean not null default false,
    primary key (job, round)
);


create function holder_of(p_batch text) returns bigint language sql immutable
as $$
    select case when p_batch ~ '^[1-9][0-9]{0,17}/[0-9]{1,9}/[0-9]{0,9}$'
        then split_part(p_batch, '/', 1)::bigint end
$$;

create function round_of(p_batch text) returns int language sql immutable
as $$
    select case when p_batch ~ '^[1-9][0-9]{0,17}/[0-9]{1,9}/[0-9]{0,9}$' then split_part(p_batch, '/', 2)::int end
$$;


-- Note what has become of jobs of these groups, one row for each queue of their holders. Returns the queues whose
-- holders may be due by that.
create function note(p_batches text[], p_whats smallint[]) returns setof text language plpgsql
set search_path from current set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
    return query
    with given as (
        select holder_of(batch) as job, round_of(batch) as round, what, sum(n)::int as n
        from (
            select batch, what, count(*) as n from unnest(p_batches, p_whats) as i (batch, what) group by 1, 2
        ) named group by 1, 2, 3
    ), said as (
        select g.queue, given.*, g.sealed or g.stop_on_dead as tell
        from given join groups g on g.job = any (array[given.job]) and g.round = any (array[given.round])
    ), noted as (
        insert into notes (queue, ids, rounds, whats, ns)
        select queue, array_agg(job), array_agg(round), array_agg(what), array_agg(n) from said group by queue
    )
    select distinct queue::text from said where tell;
end $$;


create function note_and_tell(p_batches text[], p_whats smallint[]) returns void language plpgsql
set search_path from current
as $$
begin
    if p_batches is not null then
        perform pg_notify(channel(), 'r ' || queue) from note(p_batches, p_whats) as queue;
    end if;
end $$;


-- Count what was noted for the holders of a queue, and release those whose groups are complete. Returns whether there
-- is more to do at once: more notes, or those that another transaction is about to count.
create function fold(p_queue text) returns boolean language plpgsql
set search_path from current set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_bitmapscan = off set enable_sort = off
as $$
#variable_conflict use_column
declare
    v_now float8 := clock();
    v_new record;
    v_group groups;
    v_tally tallies;
    v_taken bigint := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext(current_schema() || ' fold'), hashtext(p_queue)) then
        return true;
    end if;
    for v_new in
        with taken as (
            delete from notes where id in (
                select id from notes where queue = p_queue order by queue, id limit 500
            )
            returning ids, rounds, whats, ns
        )
        select job, round, (select count(*) from taken) as taken,
            coalesce(sum(n) filter (where what = 0), 0) as members,
            coalesce(sum(n) filter (where what = 3), 0) as succeeded,
            coalesce(sum(n) filter (where what = 4), 0) - coalesce(sum(n) filter (where what = 6), 0) as dead,
            coalesce(sum(n) filter (where what = 5), 0) as cancelled,
            bool_or(what = 8) as stopped
        from taken cross join lateral unnest(ids, rounds, whats, ns) as i (job, round, what, n)
        group by job, round order by job, round
    loop
        v_taken := v_new.taken;
        select * into v_group from groups where job = v_new.job and round = v_new.round;
        update tallies set members = members + v_new.members, succeeded = succeeded + v_new.succeeded,
            dead = dead + v_new.dead, cancelled = cancelled + v_new.cancelled,
            stopped = stopped or v_new.stopped or (v_group.stop_on_dead and dead + v_new.dead > 0)
        where job = v_new.job and round = v_new.round and not complete returning * into v_tally;
        continue when not found or v_group.job is null;
        if v_tally.stopped then
            insert into stopping (job, round)
            select v_tally.job, v_tally.round where v_new.stopped or v_new.dead > 0 on conflict do nothing;
        end if;
        continue when not v_group.sealed or v_group.successes and v_tally.dead > 0
            or v_tally.members <> v_tally.succeeded + v_tally.dead + v_tally.cancelled;
        perform from jobs where id = v_new.job and status = 0 and held <= 2 and round = v_new.round
        for no key update skip locked;
        if found then
            -- It may have been opened again before the lock: this looks behind that.
            continue when not (select sealed from groups where job = v_new.job and round = v_new.round);
            update jobs set held = null, run_after = greatest(due, v_now) where id = v_new.job;
        elsif exists (
            select from jobs where id = v_new.job and status = 0 and held <= 2 and round = v_new.round
        ) then
            -- Somebody's transaction has locked it: nobody waits for that.
            insert into notes (queue, ids, rounds, whats, ns)
            values (p_queue, array[v_new.job], array[v_new.round], array[7]::smallint[], array[1]);
            continue;
        end if;
        update tallies set complete = true where job = v_new.job and round = v_new.round;
    end loop;
    return v_taken >= 500;
end $$;


-- Cancel jobs that wait, whose rows this transaction has locked; returns how many.
create function cancel_rows(p_rows tid[]) returns int language plpgsql
set search_path from current set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_job jobs;
    v_batches text[];
    v_whats smallint[];
    v_ids bigint[];
begin
    for v_job in delete from jobs where ctid = any (p_rows) and status < 2 returning * loop
        perform archive(v_job, 5, clock(), null, null);
        v_ids := v_ids || v_job.id;
        if v_job.batch is not null then
            v_batches := v_batches || v_job.batch;
            v_whats := v_whats || 5::smallint;
        end if;
        if v_job.round is not null then
            v_batches := v_batches || format('%s/%s/', v_job.id, v_job.round);
            v_whats := v_whats || 8::smallint;
        end if;
    end loop;
    delete from steps where job = any (v_ids);
    perform note(v_batches, v_whats);
    return coalesce(cardinality(v_ids), 0);
end $$;


-- Count what was noted in all queues, and cancel a page of the jobs of groups that were stopped. Returns the queues
-- that had notes, and whether there is more to do at once.
create function tend(p_limit int) returns table (queues text[], more boolean) language plpgsql
set search_path from current set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_bitmapscan = off
as $$
declare
    v_queue text;
    v_stop stopping;
begin
    more := false;
    for v_queue in select distinct queue from notes order by queue loop
        queues := queues || v_queue;
        more := fold(v_queue) or more;
    end loop;
    -- Those whose last jobs run until they heed it do not stand before others for ever.
    for v_stop in select * from stopping order by asked, random() limit 10 for update skip locked loop
        if cancel_page(v_stop, p_limit) then
            more := true;
            exit;
        end if;
    end loop;
    return next;
end $$;


-- Cancel a page of the jobs of a group that wait, and ask those that run to stop. Returns whether any has waited.
create function cancel_page(p_stop stopping, p_limit int) returns boolean language plpgsql
set search_path from current set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
set enable_bitmapscan = off
as $$
declare
    v_name text := format('%s/%s/', p_stop.job, p_stop.round);
    v_rows tid[];
    v_asked text;
begin
    v_rows := array(
        select ctid from jobs
        where batch collate "C" >= v_name and batch collate "C" < v_name || ':' and status < 2
        limit p_limit for update skip locked
    );
    perform cancel_rows(v_rows);
    if cardinality(v_rows) = 0 or not p_stop.asked then
        with asked as (
            update jobs set cancel = true
            where ctid in (
                select ctid from jobs
                where batch collate "C" >= v_name and batch collate "C" < v_name || ':'
                    and status = 2 and not cancel
                for update skip locked
            ) returning queue
        )
        select string_agg(distinct 'c ' || queue, e'\n') into v_asked from asked;
        if v_asked is not null then
            perform pg_notify(channel(), v_asked);
        end if;
        update stopping set asked = true where job = p_stop.job and round = p_stop.round and not asked;
    end if;
    if cardinality(v_rows) > 0 then
        return true;
    end if;
    -- Whoever adds to the group shares its row until the end of that transaction.
    perform from groups where job = p_stop.job and round = p_stop.round for update skip locked;
    if found and not exists (
        select from jobs where batch collate "C" >= v_name and batch collate "C" < v_name || ':'
    ) then
        delete from stopping where job = p_stop.job and round = p_stop.round;
    end if;
    return false;
end $$;


-- Of these groups those that take jobs which a job of their own, or their holder, adds.
create function live_groups(p_batches text[]) returns setof text language sql stable
set search_path from current
as $$
    select i.batch from unnest(p_batches) as i (batch)
    join jobs on jobs.id = any (array[holder_of(i.batch)])
    join tallies t on t.job = any (array[jobs.id]) and t.round = any (array[round_of(i.batch)])
    where jobs.round = t.round and not t.stopped
$$;


-- As add(), for jobs of groups, which are counted. Each whose producer is given comes from outside, and is refused
-- where its batch is not open, or is another producer's; in a named batch its print must be a new one.
create function add_members(
    p_queues text[], p_payloads bytea[], p_holds uuid[], p_added_by uuid[],
    p_at float8[], p_span float8[], p_priorities smallint[], p_uniqueness smallint[], p_on_duplicate smallint[],
    p_max_retries int[], p_deadline float8[], p_deadline_span float8[], p_fingerprints text[], p_kinds text[],
    p_keys text[], p_batches text[], p_uids text[], p_metas bytea[], p_codec smallint, p_notify text,
    p_producers bigint[], p_prints uuid[]
) returns table (
    place int, id bigint, run_after float8, created_at float8, deadline float8, duplicate boolean, ids bigint[]
) language plpgsql
set search_path from current set lock_timeout = '10s'
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
#variable_conflict use_column
declare
    v_to record;
    v_ids bigint[] := array_fill(null::bigint, array[cardinality(p_queues)]);
    v_place int := 0;
    v_row record;
    v_named boolean;
    v_some_named boolean := false;
begin
    for v_to in
        select distinct holder_of(batch) as job, producer from (
            select distinct batch, producer
            from unnest(p_batches, p_producers) as i (batch, producer) where producer > 0
        ) given order by 1
    loop
        -- What seals the batch, or opens it again, waits for the end of this transaction.
        select named into v_named from groups
        where job = v_to.job and round = 0 and producer = v_to.producer and not sealed for share;
        if not found or not exists (
            select from jobs join tallies on job = jobs.id and tallies.round = 0
            where jobs.id = v_to.job and held = 1 and not stopped
        ) then
            raise exception 'batch % takes no members', v_to.job using errcode = 'NQ002', detail = v_to.job;
        end if;
        v_some_named := v_some_named or v_named;
    end loop;
    for v_row in
        select * from add(
            p_queues, p_payloads, p_holds, p_added_by, p_at, p_span, p_priorities, p_uniqueness, p_on_duplicate,
            p_max_retries, p_deadline, p_deadline_span, p_fingerprints, p_kinds, p_keys, p_batches, p_uids, p_metas,
            p_codec, p_notify
        ) added order by added.place, added.id
    loop
        v_place := v_place + 1;
        if v_row.ids is not null then
            v_ids := v_row.ids;
        elsif not v_row.duplicate then
            v_ids[coalesce(v_row.place, v_place)] := v_row.id;
        end if;
        place := v_row.place;
        id := v_row.id;
        run_after := v_row.run_after;
        created_at := v_row.created_at;
        deadline := v_row.deadline;
        duplicate := v_row.duplicate;
        ids := v_row.ids;
        return next;
    end loop;
    if v_some_named then
        insert into members (job, print, member)
        select g.job, i.print, i.id
        from unnest(p_batches, p_prints, p_producers, v_ids) as i (batch, print, producer, id)
        join groups g on g.job = any (array[holder_of(i.batch)]) and g.round = 0 and g.named
        where i.producer > 0 and i.id is not null
        order by g.job, i.print;
    end if;
    perform note(array_agg(batch), array_agg(0::smallint))
    from unnest(p_batches, v_ids) as i (batch, id) where batch is not null and i.id is not null having count(*) > 0;
exception when unique_violation then
    raise exception 'a batch has such a member' using errcode = 'NQ003';
end $$;


-- Hold a job that was just added, as the callback of a batch.
create function hold_batch(
    p_job bigint, p_due float8, p_producer bigint, p_successes boolean, p_stop_on_dead boolean, p_named boolean
) returns void language sql set search_path from current
as $$
    update jobs set held = 1, due = p_due, round = 0, run_after = coalesce(deadline, 'infinity') where id = p_job;
    insert into groups (job, round, queue, producer, successes, stop_on_dead, named, sealed)
    select id, 0, queue, p_producer, p_successes, p_stop_on_dead, p_named, false from jobs where id = p_job;
    insert into tallies (job, round) values (p_job, 0);
$$;


-- Open a batch again for another producer; false where the job is no callback that is held.
create function take_over(p_job bigint, p_producer bigint) returns boolean language plpgsql
set search_path from current set lock_timeout = '10s'
as $$
begin
    perform from jobs where id = p_job and status = 0 and held = 1 for no key update;
    if not found then
        return false;
    end if;
    update groups set producer = p_producer, sealed = false where job = p_job and round = 0;
    return found;
end $$;


-- Let a batch take no more members from outside; false where it is another producer's. It waits for the transactions
-- in which members are added.
create function seal(p_job bigint, p_producer bigint, p_tell boolean) returns setof text language plpgsql
set search_path from current set lock_timeout = '10s'
as $$
declare
    v_queue text;
begin
    update groups set sealed = true where job = p_job and round = 0 and producer = p_producer
    returning queue into v_queue;
    if v_queue is not null then
        perform note(array[format('%s/0/', p_job)], array[1]::smallint[]);
        if p_tell then
            perform pg_notify(channel(), 'r ' || v_queue);
        end if;
        return next v_queue;
    end if;
end $$;


-- Hold jobs that were just settled until the jobs of a new round have ended; returns those that are held, which are
-- not those that were cancelled while they ran. That there will be no more jobs is noted after they were added.
create function hold(p_ids bigint[], p_rounds int[], p_until float8[], p_skew float8)
returns setof bigint language plpgsql set search_path from current
set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
    return query
    with held as (
        update jobs set held = 2, due = null, round = i.number,
            run_after = least(coalesce(i.until + p_skew, 'infinity'), deadline)
        from unnest(p_ids, p_rounds, p_until) as i (id, number, until)
        where jobs.id = any (array[i.id]) and status = 0 returning jobs.id, jobs.queue, i.number
    ), grouped as (
        insert into groups (job, round, queue, producer, successes, stop_on_dead, named, sealed)
        select id, number, queue, 0, false, false, false, true from held
    ), tallied as (
        insert into tallies (job, round) select id, number from held
    )
    select id from held;
end $$;


-- The counts of a group, with what was only noted.
create function group_counts(p_job bigint, p_round int) returns table (
    members bigint, succeeded bigint, dead bigint, cancelled bigint, open boolean, stopped boolean
) language sql stable set search_path from current set enable_seqscan = off
as $$
    select t.members + case when t.complete then 0 else n.members end,
        t.succeeded + case when t.complete then 0 else n.succeeded end,
        t.dead + case when t.complete then 0 else n.dead end,
        t.cancelled + case when t.complete then 0 else n.cancelled end,
        not g.sealed and not t.stopped and not n.stopped and exists (select from jobs where id = p_job and held = 1),
        t.stopped or not t.complete and (
            n.stopped or g.stop_on_dead and t.dead + n.dead > 0
            or not exists (select from jobs where id = p_job)
        )
    from groups g join tallies t on t.job = g.job and t.round = g.round
    cross join lateral (
        select coalesce(sum(i.n) filter (where i.what = 0), 0)::bigint as members,
            coalesce(sum(i.n) filter (where i.what = 3), 0)::bigint as succeeded,
            (coalesce(sum(i.n) filter (where i.what = 4), 0)
                - coalesce(sum(i.n) filter (where i.what = 6), 0))::bigint as dead,
            coalesce(sum(i.n) filter (where i.what = 5), 0)::bigint as cancelled,
            coalesce(bool_or(i.what = 8), false) as stopped
        from notes cross join lateral unnest(ids, rounds, whats, ns) as i (job, round, what, n)
        where notes.queue = g.queue and i.job = p_job and i.round = p_round
    ) n
    where g.job = p_job and g.round = p_round
$$;


-- Forget groups whose holders are forgotten, and of which no job waits.
create function forget_groups(p_limit int) returns void language plpgsql
set search_path from current set enable_seqscan = off
as $$
#variable_conflict use_column
declare
    v_jobs bigint[];
begin
    v_jobs := array(
        select job from groups g
        where named and not exists (select from jobs where id = g.job and held = 1)
            and exists (select from members m where m.job = g.job)
        limit p_limit
    );
    delete from members where ctid in (
        select ctid from members where job = any (v_jobs) limit p_limit for update skip locked
    );
    v_jobs := array(
        select g.job from groups g
        where not exists (select from jobs where id = g.job) and not exists (select from history where id = g.job)
            and not exists (select from stopping s where s.job = g.job)
            and not exists (select from members m where m.job = g.job)
            and not exists (
                select from jobs where batch collate "C" >= g.job || '/' and batch collate "C" < g.job || '0'
            )
        limit p_limit
    );
    delete from groups where job = any (v_jobs);
    delete from tallies where job = any (v_jobs);
end $$;


-- Of jobs whose rows this transaction has locked those that may be claimed. Those of a group that was stopped are
-- cancelled, and those of one that is just being cancelled are left out: it waits for claims that were before it.
create function startable(p_rows tid[]) returns tid[] language plpgsql
set search_path from current set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
declare
    v_jobs bigint[];
    v_rounds int[];
    v_busy bigint[];
    v_stopped boolean;
begin
    select array_agg(job), array_agg(round), coalesce(array_agg(job) filter (where not free), '{}')
    into v_jobs, v_rounds, v_busy
    from (
        select job, round, pg_try_advisory_xact_lock_shared(
            hashtext(current_schema() || ' group'), hashtext(job::text)
        ) as free
        from (
            select distinct holder_of(batch) as job, round_of(batch) as round
            from (select distinct batch from jobs where ctid = any (p_rows) and batch is not null) named
        ) told
    ) locked;
    -- In a statement of its own, which sees what was committed before the locks.
    v_stopped := exists (
        select from unnest(v_jobs, v_rounds) as i (job, round) cross join lateral (
            select from tallies t where t.job = i.job and t.round = i.round and not complete and (
                stopped or not exists (select from jobs h where h.id = t.job)
                or exists (select from stopping s where s.job = t.job and s.round = t.round)
            ) offset 0
        ) halted
    );
    if not v_stopped and v_busy = '{}' then
        return p_rows;
    end if;
    perform cancel_rows(array(
        select j.ctid from jobs j
        join tallies t on t.job = any (array[holder_of(j.batch)]) and t.round = any (array[round_of(j.batch)])
        where j.ctid = any (p_rows) and j.batch is not null and not t.complete and (
            t.stopped or not exists (select from jobs h where h.id = t.job)
            or exists (select from stopping s where s.job = t.job and s.round = t.round)
        )
    ));
    return array(
        select ctid from jobs where ctid = any (p_rows) and coalesce(holder_of(batch) <> all (v_busy), true)
    );
end $$;


-- What follows replaces functions of 0002.sql and 0003.sql, which know nothing of groups.

-- A session plans its statements once: to plan them in each call takes a quarter of the time of a short one.
create function claim(
    p_worker int, p_token bigint, p_queues text[], p_limits int[], p_kinds text[],
    p_known_queues text[], p_known_levels smallint[], p_known_from float8[], p_counted boolean
) returns setof jobs language plpgsql
set search_path from current
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set plan_cache_mode = force_generic_plan
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
    v_grouped boolean;
    v_asked int;
    v_taken boolean := false;
begin
    <<every_queue>>
    for i in 1 .. cardinality(p_queues) loop
        if exists (select from notes where queue = p_queues[i]) then
            if fold(p_queues[i]) then
                v_next := least(v_next, v_now + 0.01);
            end if;
            v_now := clock();
        end if;
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
            v_grouped := false;
            if v_left > 0 then
                select array_agg(row), bool_or(crashes > 0), bool_or(batch is not null), coalesce(max(run_after), v_now)
                into v_rows, v_crashed, v_grouped, v_last_due
                from (
                    select ctid as row, crashes, run_after, batch from jobs
                    where queue = p_queues[i] and priority = v_level and status < 2
                        and run_after >= v_from and run_after <= v_now
                        and (p_kinds is null or kind = any (p_kinds))
                        and (p_counted or batch is null and round is null)
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
            if v_grouped and v_rows is not null then
                v_asked := cardinality(v_rows);
                v_rows := startable(v_rows);
                if cardinality(v_rows) < v_asked then
                    v_next := v_now;
                end if;
            end if;
            if v_rows is not null then
                return query
                update jobs set status = 2, token = p_token, worker = p_worker, ran_at = v_now, progress = null,
                    progress_text = null, held = null, holds = case when uniqueness = 2 then null else holds end
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
                    and (p_counted or batch is null and round is null)
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
    v_told.run_after := nullif(v_next, 'infinity');
    v_told.created_at := v_now;
    return next v_told;
end $$;


-- As claim(), for workers of an older neoq, which would not note the ends of the jobs of groups.
create or replace function claim(
    p_worker int, p_token bigint, p_queues text[], p_limits int[], p_kinds text[],
    p_known_queues text[], p_known_levels smallint[], p_known_from float8[]
) returns setof jobs language plpgsql set search_path from current
as $$
begin
    return query select * from claim(
        p_worker, p_token, p_queues, p_limits, p_kinds, p_known_queues, p_known_levels, p_known_from, false
    );
end $$;


create or replace function settle(
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
    v_batches text[];
    v_whats smallint[];
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
            if p_keep or v_status <> 3 or v_job.batch is not null then
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
            if v_job.batch is not null or v_job.round is not null then
                v_batches := v_batches || array[v_job.batch, format('%s/%s/', v_job.id, v_job.round)];
                v_whats := v_whats || array[v_status, 8]::smallint[];
            end if;
        end if;
        return next o.id;
    end loop;
    perform note_and_tell(v_batches, v_whats);
end $$;


create or replace function archive(p_job jobs, p_status int, p_finished float8, p_result bytea, p_completed bigint)
returns void language sql set search_path from current
as $$
    insert into history (
        id, run_after, created_at, completed, ran_at, deadline, progress, finished_at, holds, added_by, retries,
        max_retries, priority, status, uniqueness, crashes, codec, queue, payload, fingerprint, kind, key, batch, uid,
        meta, error, traceback, attempts, progress_text, result, round
    ) values (
        p_job.id,
        case when p_job.run_after < 'infinity' then p_job.run_after else coalesce(p_job.due, p_job.created_at) end,
        p_job.created_at, p_completed, p_job.ran_at, p_job.deadline, p_job.progress,
        p_finished, p_job.holds, p_job.added_by, p_job.retries, p_job.max_retries, p_job.priority, p_status,
        p_job.uniqueness, p_job.crashes, p_job.codec, p_job.queue, p_job.payload, p_job.fingerprint, p_job.kind,
        p_job.key, p_job.batch, p_job.uid, p_job.meta, p_job.error, p_job.traceback, p_job.attempts,
        p_job.progress_text, p_result, p_job.round
    );
    insert into counters (queue, status, n) values (p_job.queue, p_status, 1);
$$;


create or replace function reclaim(
    p_me int, p_quiet float8, p_gone float8, p_class int, p_uptime float8, p_max_crashes int,
    p_why text
) returns setof jobs language plpgsql set search_path from current
as $$
declare
    v_dead int[];
    v_crashed int[];
    v_job jobs;
    v_crashes int;
    v_batches text[];
    v_whats smallint[];
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
        select v_job.crashes - coalesce(max(crashes), 0), nullif(count(*), 0) into v_crashes, v_job.steps
        from steps where job = v_job.id;
        if v_job.cancel or v_crashes >= p_max_crashes then
            delete from jobs where id = v_job.id;
            if not v_job.cancel then
                v_job.error := format('WorkerDied: %s workers died while they ran it (max_crashes)', v_crashes);
            end if;
            perform archive(v_job, case when v_job.cancel then 5 else 4 end, clock(), null, null);
            perform settle_steps(array[v_job.id], null);
            v_job.status := case when v_job.cancel then 5 else 4 end;
            if v_job.batch is not null or v_job.round is not null then
                v_batches := v_batches || array[v_job.batch, format('%s/%s/', v_job.id, v_job.round)];
                v_whats := v_whats || array[v_job.status, 8]::smallint[];
            end if;
        else
            v_job.status := case when v_job.retries > 0 then 1 else 0 end;
            update jobs set status = v_job.status, crashes = v_job.crashes, attempts = v_job.attempts,
                token = null, worker = null, steps = v_job.steps, held = null, awaits = null
            where id = v_job.id;
        end if;
        v_job.worker := null;
        return next v_job;
    end loop;
    perform note_and_tell(v_batches, v_whats);
    delete from workers where number = any (v_dead)
        and not exists (select from jobs where status = 2 and worker = number);
end $$;


create or replace function change(p_ids bigint[], p_holds uuid[], p_action text)
returns table (id bigint, queue text, done boolean) language plpgsql
set search_path from current set lock_timeout = '10s'
as $$
#variable_conflict use_column
declare
    v_id bigint;
    v_job jobs;
    v_past history;
    v_there bigint;
    v_tally tallies;
    v_batches text[];
    v_whats smallint[];
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
            elsif p_action in ('cancel', 'delete') then
                continue when p_action = 'delete' and v_job.held <= 2;
                if v_job.round is not null then
                    perform pg_advisory_xact_lock(hashtext(current_schema() || ' group'), hashtext(v_id::text));
                end if;
                delete from jobs where jobs.id = v_id;
                if p_action = 'cancel' then
                    perform archive(v_job, 5, clock(), null, null);
                end if;
                if v_job.batch is not null or v_job.round is not null then
                    v_batches := v_batches || array[v_job.batch, format('%s/%s/', v_job.id, v_job.round)];
                    v_whats := v_whats || array[5, 8]::smallint[];
                end if;
            else
                continue when v_job.held is not null;
                update jobs set run_after = least(run_after, clock()) where jobs.id = v_id;
            end if;
            return query select v_id, v_job.queue, true;
            continue;
        end if;
        select * into v_past from history where history.id = v_id for update;
        continue when not found or p_action = 'cancel' or p_action = 'retry' and v_past.status <> 4;
        if p_action = 'retry' then
            select * into v_tally from tallies
            where job = holder_of(v_past.batch) and round = round_of(v_past.batch) and not complete;
            if not found then
                null;
            elsif v_tally.stopped or not exists (select from jobs where jobs.id = v_tally.job) then
                v_past.batch := null;  -- else it would be cancelled as the others are
            else
                v_batches := v_batches || v_past.batch;
                v_whats := v_whats || 6::smallint;
            end if;
            insert into stopping (job, round) select job, round from tallies where job = v_id and not complete
            on conflict do nothing;
            -- without its deadline, or one that has passed would kill it again
            insert into jobs (
                id, run_after, created_at, ran_at, holds, added_by, max_retries, priority, status, uniqueness,
                codec, queue, payload, fingerprint, kind, key, batch, uid, meta, error, traceback, attempts,
                round
            ) values (
                v_id, clock(), v_past.created_at, v_past.ran_at, p_holds[i], v_past.added_by, v_past.max_retries,
                v_past.priority, 0, v_past.uniqueness, v_past.codec, v_past.queue, v_past.payload,
                v_past.fingerprint, v_past.kind, v_past.key, v_past.batch, v_past.uid, v_past.meta, v_past.error,
                v_past.traceback, v_past.attempts, v_past.round
            ) on conflict (holds, queue) where holds is not null do nothing;
            if not found then
                select jobs.id into v_there from jobs where holds = p_holds[i] and queue = v_past.queue;
                raise exception 'job % has that fingerprint', v_there using errcode = 'NQ001', detail = v_there;
            end if;
        end if;
        if p_action = 'delete' and v_past.status = 4 and v_past.batch is not null then
            v_batches := v_batches || array[v_past.batch, v_past.batch];
            v_whats := v_whats || array[6, 5]::smallint[];
        end if;
        delete from history where history.id = v_id;
        insert into counters (queue, status, n) values (v_past.queue, v_past.status, -1);
        return query select v_id, v_past.queue, true;
    end loop;
    perform note_and_tell(v_batches, v_whats);
end $$;


-- As in 0003.sql, without the results that a holder waits for, or may read when it is retried. Scalars, since the plan
-- of an `exists` might read all jobs.
create or replace function trim_history(p_dead boolean, p_limit bigint) returns table (id bigint, queue text)
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
    -- The results that a holder waits for are looked at again each time, and may be many.
    if exists (select from groups) then
        v_excess := least(v_excess, 1000);
    end if;
    return query
    with gone as (
        delete from history where id in (
            select id from history h where id in (
                select id from history where (p_dead and status = 4) or (not p_dead and status <> 4)
                order by finished_at, id limit v_excess
            ) and (batch is null or not coalesce(
                (select true from jobs j where j.id = holder_of(h.batch)),
                (select true from history d where d.id = holder_of(h.batch) and d.status = 4), false
            )) for update skip locked
        ) returning id, queue, status
    ), counted as (
        insert into counters (queue, status, n) select queue, status, -count(*) from gone group by 1, 2
    )
    select id, queue from gone;
end $$;


-- As in 0003.sql, without those results.
create or replace function prune(p_seconds float8, p_limit int) returns bigint language plpgsql
set search_path from current set enable_seqscan = off
as $$
declare
    v_before float8 := clock() - p_seconds;
    v_gone bigint;
begin
    with gone as (
        delete from history where id in (
            select id from history h where status <> 4 and finished_at <= v_before
                and (batch is null or not coalesce(
                    (select true from jobs j where j.id = holder_of(h.batch)),
                    (select true from history d where d.id = holder_of(h.batch) and d.status = 4), false
                ))
            order by finished_at limit p_limit for update skip locked
        ) returning queue, status
    ), counted as (
        insert into counters (queue, status, n) select queue, status, -count(*) from gone group by 1, 2
    )
    select count(*) into v_gone from gone;
    return v_gone;
end $$;


-- add() leaves a held job as it is: nothing replaces it.
do $do$
begin
    execute replace(
        pg_get_functiondef('add'::regproc), 'exit when v_there.status = 2;',
        'exit when v_there.status = 2 or v_there.held is not null;'
    );
end $do$;


-- The view of 0004.sql, in which a job that is held has no time unless it has one.
create or replace view all_jobs as
select
    j.id, j.queue, j.key, j.uid, j.fingerprint,
    coalesce((array['pending', 'retrying', 'running', 'succeeded', 'dead', 'cancelled'])[j.status + 1], 'unknown')
        as status,
    j.priority, readable_json(j.payload) as payload, m.meta,
    readable_json(j.result) as result, j.error, j.traceback, j.progress, j.progress_text,
    j.retries, j.max_retries, j.crashes, j.cancel as cancel_requested, w.id as worker,
    readable_time(j.created_at) as created_at,
    readable_time(case when j.held is null or j.run_after < 'infinity' then j.run_after end) as run_after,
    readable_time(j.deadline) as deadline, readable_time(j.ran_at) as started_at,
    readable_time(j.finished_at) as finished_at,
    (array['batch', 'children', 'signal', 'line'])[j.held] as held
from (
    select id, queue, key, uid, fingerprint, status, priority, payload, meta, null::bytea as result, error, traceback,
        progress, progress_text, retries, max_retries, crashes, cancel, worker, created_at, run_after, deadline,
        ran_at, null::float8 as finished_at, held
    from jobs
    union all
    select id, queue, key, uid, fingerprint, status, priority, payload, meta, result, error, traceback,
        progress, progress_text, retries, max_retries, crashes, false, null, created_at, run_after, deadline,
        ran_at, finished_at, null::smallint
    from history
) j
left join workers w on w.number = j.worker
-- A job with options of its own, such as a timeout, keeps them beside its meta: in a list of both.
cross join lateral (
    select case jsonb_typeof(kept) when 'array' then nullif(kept -> 0, '{}') else kept end as meta
    from readable_json(j.meta) kept
) m;
