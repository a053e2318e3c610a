-- What finds few jobs among millions. The table of unfinished jobs has no index that a plain job is in: each
-- would cost every enqueue.
create index history_found on history (queue, (coalesce(kind, '')), status, id);
create index history_keys on history (key, id) where key is not null;
create index jobs_keys on jobs (key, id) where key is not null;
