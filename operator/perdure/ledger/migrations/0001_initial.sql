-- What a run is and was. One row of `workflow` is one run: a Workflow, or an AgentTask applied by itself.
--
-- Payloads are json, not jsonb: they are opaque here, and must come back as they went in, with their order
-- of keys and their way of writing numbers; jsonb keeps neither.
--
-- Enums are domains: the CHECK of a table is parsed anew by every statement that writes to it, whatever it
-- writes; that of a domain once. Reasons are plain text: the set grows with the code, and during an upgrade
-- old and new code share a schema.

create domain perdure.kind as text check (value in ('Workflow', 'AgentTask'));
create domain perdure.phase as text
    check (value in ('Pending', 'Running', 'Succeeded', 'Failed', 'Cancelled', 'Skipped'));
create domain perdure.outcome as text check (value in ('Succeeded', 'Failed', 'Cancelled'));
create domain perdure.encoding as text check (value in ('identity', 'zstd'));

create table perdure.shard (
    id int primary key check (id between 0 and 63),
    -- The fence: a write that names an older epoch than this is refused.
    epoch bigint not null default 0,
    holder text not null default '',
    taken_at timestamptz
);

insert into perdure.shard (id) select generate_series(0, 63);

create table perdure.workflow (
    uid uuid primary key,
    kind perdure.kind not null,
    namespace text not null,
    name text not null,
    generation bigint not null,
    shard int not null,
    phase perdure.phase not null,
    reason text,
    message text not null,
    spec json not null,
    outputs json,
    -- Counts the changes that a decision could depend on; a decision that saw another version is refused.
    version bigint not null,
    -- Number of the newest event.
    last_sequence bigint not null,
    created_at timestamptz not null,
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz
) with (fillfactor = 80);

create index workflow_live on perdure.workflow (phase) where phase in ('Pending', 'Running');
create index workflow_name on perdure.workflow (namespace, name, created_at desc);
create index workflow_expiry on perdure.workflow (expires_at) where phase not in ('Pending', 'Running');

create table perdure.step (
    workflow_uid uuid not null references perdure.workflow (uid) on delete cascade,
    name text not null,
    phase perdure.phase not null,
    reason text,
    message text not null,
    total int not null,
    for_each boolean not null,
    started_at timestamptz,
    finished_at timestamptz,
    primary key (workflow_uid, name)
);

create table perdure.task (
    workflow_uid uuid not null references perdure.workflow (uid) on delete cascade,
    -- '' in a run that is a single AgentTask.
    step text not null,
    -- -1 in a step without forEach.
    index int not null,
    name text not null,
    phase perdure.phase not null,
    reason text,
    message text not null,
    input json,
    -- Number of the newest attempt.
    attempt int not null,
    retries int not null,
    disruptions int not null,
    retry_at timestamptz,
    output json,
    exit_code int,
    started_at timestamptz,
    finished_at timestamptz,
    -- Vitals: written for agents, never by the operator.
    checkpoint_sequence bigint,
    checkpoint_label text,
    checkpoint_at timestamptz,
    percent double precision,
    progress_message text,
    heartbeat_at timestamptz,
    vitals_attempt int,
    vitals_at timestamptz,
    primary key (workflow_uid, step, index)
) with (fillfactor = 80);

create table perdure.attempt (
    workflow_uid uuid not null references perdure.workflow (uid) on delete cascade,
    step text not null,
    index int not null,
    number int not null,
    pod_name text not null,
    -- Text: not every pod's uid is a UUID.
    pod_uid text,
    created_at timestamptz not null,
    started_at timestamptz,
    -- A closed attempt can write nothing.
    closed_at timestamptz,
    outcome perdure.outcome,
    reason text,
    message text not null,
    exit_code int,
    -- What the agent said about its own end; written once.
    report json,
    primary key (workflow_uid, step, index, number)
) with (fillfactor = 80);

create index attempt_pod on perdure.attempt (pod_uid) where pod_uid is not null;
-- What the operator has yet to take note of. Open ones without a report are left out on purpose: they are
-- many, and the planner would go through all of them to find the one that a fence asks for.
create index attempt_reported on perdure.attempt (workflow_uid)
    where closed_at is null and report is not null;

-- Checkpoints and events have no foreign key: its check would be a good part of what writing one costs, and
-- every write holds the workflow row anyway. Who deletes a run deletes them.
create table perdure.checkpoint (
    workflow_uid uuid not null,
    step text not null,
    index int not null,
    -- 1, 2, 3 … within the task, across its attempts.
    sequence bigint not null,
    attempt int not null,
    created_at timestamptz not null,
    content_type text not null,
    label text,
    size bigint not null,
    stored_size bigint not null,
    encoding perdure.encoding not null,
    -- Of the bytes that the agent wrote, before compression.
    sha256 bytea not null,
    data bytea not null,
    recoverable boolean not null default true,
    primary key (workflow_uid, step, index, sequence)
);

-- The client has compressed already what shrinks.
alter table perdure.checkpoint alter column data set storage external;

create table perdure.event (
    workflow_uid uuid not null,
    sequence bigint not null,
    type text not null,
    time timestamptz not null,
    task text,
    attempt int,
    data json not null,
    primary key (workflow_uid, sequence)
);

-- Events to be published. Whole, and bound to nothing, so that they go out even if their run is forgotten.
create table perdure.outbox (
    id bigint generated always as identity primary key,
    workflow_uid uuid not null,
    sequence bigint not null,
    kind text not null,
    namespace text not null,
    workflow text not null,
    type text not null,
    time timestamptz not null,
    task text,
    attempt int,
    data json not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
