-- What each namespace keeps here, summed up from time to time by the leader: a row that every write of a
-- namespace updated would be a lock that all its runs wait for.

create table perdure.namespace_usage (
    namespace text primary key,
    bytes bigint not null
);
