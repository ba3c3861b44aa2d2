-- What a task remembers of its failures, and under which key others find its result.

alter table perdure.task
    add column last_failure json,
    add column cache_key text,
    add column cache_until timestamptz;
