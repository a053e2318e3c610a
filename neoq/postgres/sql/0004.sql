-- The jobs for people: one row for each, unfinished or not, in plain types. neoq itself reads none of this.
--
-- A row that was written by something else may hold anything: what cannot be shown is null, or 'unknown', and no
-- other row is concerned. jsonb holds less than JSON does (no \u0000, no number without bounds): such a document
-- is null too, and its bytes are in the table.

create function readable_json(p_bytes bytea) returns jsonb language plpgsql stable strict
as $$
begin
    return pg_catalog.convert_from(p_bytes, 'UTF8')::pg_catalog.jsonb;
exception when others then
    return null;
end $$;

create function readable_time(p_seconds float8) returns timestamptz language sql immutable strict
as $$
    select case
        when p_seconds = 'NaN'::pg_catalog.float8 then null
        when p_seconds > 9000000000000 then 'infinity'::pg_catalog.timestamptz
        when p_seconds < -200000000000 then '-infinity'::pg_catalog.timestamptz
        else pg_catalog.to_timestamp(p_seconds)
    end
$$;

create view all_jobs as
select
    j.id, j.queue, j.key, j.uid, j.fingerprint,
    coalesce((array['pending', 'retrying', 'running', 'succeeded', 'dead', 'cancelled'])[j.status + 1], 'unknown')
        as status,
    j.priority, readable_json(j.payload) as payload, m.meta,
    readable_json(j.result) as result, j.error, j.traceback, j.progress, j.progress_text,
    j.retries, j.max_retries, j.crashes, j.cancel as cancel_requested, w.id as worker,
    readable_time(j.created_at) as created_at, readable_time(j.run_after) as run_after,
    readable_time(j.deadline) as deadline, readable_time(j.ran_at) as started_at,
    readable_time(j.finished_at) as finished_at
from (
    select id, queue, key, uid, fingerprint, status, priority, payload, meta, null::bytea as result, error, traceback,
        progress, progress_text, retries, max_retries, crashes, cancel, worker, created_at, run_after, deadline,
        ran_at, null::float8 as finished_at
    from jobs
    union all
    select id, queue, key, uid, fingerprint, status, priority, payload, meta, result, error, traceback,
        progress, progress_text, retries, max_retries, crashes, false, null, created_at, run_after, deadline,
        ran_at, finished_at
    from history
) j
left join workers w on w.number = j.worker
-- A job with options of its own, such as a timeout, keeps them beside its meta: in a list of both.
cross join lateral (
    select case jsonb_typeof(kept) when 'array' then nullif(kept -> 0, '{}') else kept end as meta
    from readable_json(j.meta) kept
) m;
