-- Results that equal tasks of a namespace may use again.
--
-- Bound to no run: a result outlives the history of the run that it is from.

create table perdure.cache (
    namespace text not null,
    key text not null,
    output json,
    -- Where it is from.
    workflow_uid uuid not null,
    workflow text not null,
    task text not null,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    primary key (namespace, key)
);

create index cache_expiry on perdure.cache (expires_at);
