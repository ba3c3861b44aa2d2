-- The inbox of a run: facts from outside, such as a person's decision or an agent's message.
--
-- Signals are kept after a decision consumed them, so that one that is sent again is recognised. A foreign key,
-- unlike checkpoints have: signals are few, and go with their run also where old code deletes it.

create table perdure.signal (
    workflow_uid uuid not null references perdure.workflow (uid) on delete cascade,
    -- Given by the sender.
    id text not null,
    -- The task that the signal is for: '' and -1 for the run.
    step text not null,
    index int not null,
    name text not null,
    payload json not null,
    sender text not null,
    at timestamptz not null,
    -- The version that the signal raised its run to: the order in which signals of a run were sent.
    version bigint not null,
    -- The version that the consuming decision raised the run to; null while no decision consumed the signal.
    consumed_version bigint,
    primary key (workflow_uid, id)
);

create index signal_unread on perdure.signal (workflow_uid, version) where consumed_version is null;
