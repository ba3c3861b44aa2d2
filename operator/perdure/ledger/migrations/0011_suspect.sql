-- Runs and schedules during whose passes a process of the operator died. A run with two deaths is set aside.
--
-- Without a foreign key: the run may have died before its first commit, and a schedule is not in the ledger.

create table perdure.suspect (
    uid text primary key,
    kind text not null,
    namespace text not null,
    name text not null,
    -- Of the object as it was then: its generation and annotations.
    fingerprint text not null,
    -- Deaths in a row.
    deaths int not null,
    -- The process that died last, so that no death counts twice.
    life text not null,
    noted_at timestamptz not null default now()
);
