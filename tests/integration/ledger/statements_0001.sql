-- Statements of the code that knew migration 0001 only, as they were: operators and gateways of that time may
-- still run while the schema is widened.


-- name: commit
-- $1 uid, $2 shard, $3 epoch, $4 version that was seen, $5 run, $6 steps, $7 tasks, $8 attempts, $9 events
with fence as materialized (
    select 1 from perdure.shard where id = $2 and epoch = $3 for share
), given as materialized (
    select r.*, json_array_length($9::json) as events
    from json_to_record($5::json) as r (
        kind text, namespace text, name text, generation bigint, phase text, reason text, message text,
        spec json, outputs json, created_at timestamptz, started_at timestamptz, finished_at timestamptz,
        expires_at timestamptz
    ), fence
), made as (
    insert into perdure.workflow (
        uid, kind, namespace, name, generation, shard, phase, reason, message, spec, outputs, version,
        last_sequence, created_at, started_at, finished_at, expires_at
    )
    select
        $1::uuid, g.kind, g.namespace, g.name, g.generation, $2, g.phase, g.reason, g.message, g.spec,
        g.outputs, 1, g.events, g.created_at, g.started_at, g.finished_at, g.expires_at
    from given g
    where $4::bigint = 0
    on conflict (uid) do nothing
    returning version, last_sequence
), changed as (
    update perdure.workflow w set
        generation = g.generation, phase = g.phase, reason = g.reason, message = g.message,
        outputs = g.outputs, version = w.version + 1,
        last_sequence = w.last_sequence + g.events, started_at = g.started_at,
        finished_at = g.finished_at, expires_at = g.expires_at
    from given g
    where $4::bigint > 0 and w.uid = $1::uuid and w.version = $4::bigint
    returning w.version, w.last_sequence
), run as (
    select version, last_sequence from made
    union all
    select version, last_sequence from changed
), steps as (
    insert into perdure.step (
        workflow_uid, name, phase, reason, message, total, for_each, started_at, finished_at
    )
    select $1::uuid, s.name, s.phase, s.reason, s.message, s.total, s.for_each, s.started_at, s.finished_at
    from run, json_to_recordset($6::json) as s (
        name text, phase text, reason text, message text, total int, for_each boolean,
        started_at timestamptz, finished_at timestamptz
    )
    on conflict (workflow_uid, name) do update set
        phase = excluded.phase, reason = excluded.reason, message = excluded.message,
        total = excluded.total, for_each = excluded.for_each, started_at = excluded.started_at,
        finished_at = excluded.finished_at
), tasks as (
    insert into perdure.task (
        workflow_uid, step, index, name, phase, reason, message, input, attempt, retries, disruptions,
        retry_at, output, exit_code, started_at, finished_at
    )
    select
        $1::uuid, t.step, t.index, t.name, t.phase, t.reason, t.message, t.input, t.attempt, t.retries,
        t.disruptions, t.retry_at, t.output, t.exit_code, t.started_at, t.finished_at
    from run, json_to_recordset($7::json) as t (
        step text, index int, name text, phase text, reason text, message text, input json, attempt int,
        retries int, disruptions int, retry_at timestamptz, output json, exit_code int,
        started_at timestamptz, finished_at timestamptz
    )
    on conflict (workflow_uid, step, index) do update set
        name = excluded.name, phase = excluded.phase, reason = excluded.reason,
        message = excluded.message, input = excluded.input, attempt = excluded.attempt,
        retries = excluded.retries, disruptions = excluded.disruptions, retry_at = excluded.retry_at,
        output = excluded.output, exit_code = excluded.exit_code, started_at = excluded.started_at,
        finished_at = excluded.finished_at
), attempts as (
    insert into perdure.attempt as a (
        workflow_uid, step, index, number, pod_name, pod_uid, created_at, started_at, closed_at, outcome,
        reason, message, exit_code, report
    )
    select
        $1::uuid, n.step, n.index, n.number, n.pod_name, n.pod_uid, n.created_at, n.started_at, n.closed_at,
        n.outcome, n.reason, n.message, n.exit_code, n.report
    from run, json_to_recordset($8::json) as n (
        step text, index int, number int, pod_name text, pod_uid text, created_at timestamptz,
        started_at timestamptz, closed_at timestamptz, outcome text, reason text, message text,
        exit_code int, report json
    )
    -- The pod's uid and the report are written by others: a decision made before it saw them keeps them.
    on conflict (workflow_uid, step, index, number) do update set
        pod_name = excluded.pod_name, pod_uid = coalesce(excluded.pod_uid, a.pod_uid),
        created_at = excluded.created_at, started_at = excluded.started_at,
        closed_at = excluded.closed_at, outcome = excluded.outcome, reason = excluded.reason,
        message = excluded.message, exit_code = excluded.exit_code,
        report = coalesce(a.report, excluded.report)
), numbered as (
    select r.last_sequence - g.events + e.ordinal as sequence, g.kind, g.namespace, g.name,
        e.type, e.time, e.task, e.attempt, e.data
    from run r, given g, json_to_recordset($9::json) as e (
        ordinal int, type text, time timestamptz, task text, attempt int, data json
    )
), events as (
    insert into perdure.event (workflow_uid, sequence, type, time, task, attempt, data)
    select $1::uuid, n.sequence, n.type, n.time, n.task, n.attempt, n.data from numbered n
), outbox as (
    insert into perdure.outbox (
        workflow_uid, sequence, kind, namespace, workflow, type, time, task, attempt, data
    )
    select $1::uuid, n.sequence, n.kind, n.namespace, n.name, n.type, n.time, n.task, n.attempt, n.data
    from numbered n
    order by n.sequence
)
select
    exists (select from fence) as fenced,
    (select version from run) as version,
    (select last_sequence from run) as last_sequence


-- name: record_pod
-- $1 uid, $2 shard, $3 epoch, $4 step, $5 index, $6 number, $7 the pod's uid
with fence as materialized (
    select 1 from perdure.shard where id = $2 and epoch = $3 for share
), run as materialized (
    select w.uid from perdure.workflow w, fence where w.uid = $1::uuid for no key update of w
), noted as (
    update perdure.attempt a set pod_uid = $7
    from run
    where a.workflow_uid = run.uid and a.step = $4 and a.index = $5 and a.number = $6
        and a.closed_at is null
    returning 1
)
select exists (select from fence) as fenced, exists (select from noted) as noted


-- name: runs_by_uid
select * from perdure.workflow where uid = any ($1::uuid[])


-- name: runs_live
select * from perdure.workflow where phase in ('Pending', 'Running')


-- name: expired
select uid, kind, namespace, name
from perdure.workflow
where phase not in ('Pending', 'Running') and expires_at <= $1
order by expires_at
limit $2


-- name: attempt_for_pod
select w.uid, w.kind, w.namespace, w.name as run_name, w.shard, a.step, a.index, a.number, a.pod_name,
    a.closed_at is null and t.attempt = a.number as open, t.name as task_name, t.input,
    t.checkpoint_sequence
from perdure.attempt a
join perdure.workflow w on w.uid = a.workflow_uid
join perdure.task t on t.workflow_uid = a.workflow_uid and t.step = a.step and t.index = a.index
where a.pod_uid = $2 and w.namespace = $1
order by a.number desc
limit 1


-- name: write_checkpoint
-- $1 uid, $2 step, $3 index, $4 attempt, $5 now, $6 content type, $7 label, $8 size, $9 stored size,
-- $10 encoding, $11 sha256, $12 data, $13 how many to keep
with run as materialized (
    select uid from perdure.workflow where uid = $1::uuid for no key update
), fence as materialized (
    select 1
    from run, perdure.attempt a
    where a.workflow_uid = run.uid and a.step = $2 and a.index = $3 and a.number = $4
        and a.closed_at is null
    for share of a
), task as (
    update perdure.task t set
        checkpoint_sequence = coalesce(t.checkpoint_sequence, 0) + 1, checkpoint_label = $7,
        checkpoint_at = $5, vitals_at = $5, vitals_attempt = $4,
        percent = case when t.vitals_attempt = $4 then t.percent end,
        progress_message = case when t.vitals_attempt = $4 then t.progress_message end
    from fence
    where t.workflow_uid = $1::uuid and t.step = $2 and t.index = $3 and t.attempt = $4
    returning t.name, t.checkpoint_sequence
), numbered as (
    update perdure.workflow w set last_sequence = w.last_sequence + 1
    from task
    where w.uid = $1::uuid
    returning w.last_sequence, w.kind, w.namespace, w.name as workflow, task.name as task,
        json_build_object('sequence', task.checkpoint_sequence, 'label', $7::text, 'size', $8::bigint) as data
), written as (
    insert into perdure.checkpoint (
        workflow_uid, step, index, sequence, attempt, created_at, content_type, label, size, stored_size,
        encoding, sha256, data
    )
    select
        $1::uuid, $2, $3, task.checkpoint_sequence, $4, $5, $6::text, $7, $8, $9::bigint, $10::text,
        $11::bytea, $12::bytea
    from task
), pruned as (
    delete from perdure.checkpoint c
    using task
    where c.workflow_uid = $1::uuid and c.step = $2 and c.index = $3
        and c.sequence <= task.checkpoint_sequence - $13::bigint
), events as (
    insert into perdure.event (workflow_uid, sequence, type, time, task, attempt, data)
    select $1::uuid, n.last_sequence, 'task.checkpointed', $5, n.task, $4, n.data from numbered n
), outbox as (
    insert into perdure.outbox (
        workflow_uid, sequence, kind, namespace, workflow, type, time, task, attempt, data
    )
    select $1::uuid, n.last_sequence, n.kind, n.namespace, n.workflow, 'task.checkpointed', $5, n.task, $4,
        n.data
    from numbered n
)
select
    (select checkpoint_sequence from task) as sequence,
    (select pg_notify('perdure_wake', $1::uuid::text) from task) as woken,
    (select pg_notify('perdure_wake', 'outbox') from task) as relay_woken


-- name: heartbeat
-- $1 uid, $2 step, $3 index, $4 attempt, $5 now
with run as materialized (
    select uid from perdure.workflow where uid = $1::uuid for no key update
), fence as materialized (
    select 1
    from run, perdure.attempt a
    where a.workflow_uid = run.uid and a.step = $2 and a.index = $3 and a.number = $4
        and a.closed_at is null
    for share of a
), task as (
    update perdure.task t set
        heartbeat_at = $5, vitals_at = $5, vitals_attempt = $4,
        percent = case when t.vitals_attempt = $4 then t.percent end,
        progress_message = case when t.vitals_attempt = $4 then t.progress_message end
    from fence
    where t.workflow_uid = $1::uuid and t.step = $2 and t.index = $3 and t.attempt = $4
    returning 1
)
select exists (select from task) as written


-- name: report
-- $1 uid, $2 step, $3 index, $4 attempt, $5 report
-- A report that stands already is acknowledged even when the attempt is closed: its answer may have been
-- lost on the way, and the agent did nothing wrong.
with run as materialized (
    select uid from perdure.workflow where uid = $1::uuid for no key update
), fence as materialized (
    select a.report is not null as reported
    from run, perdure.attempt a, perdure.task t
    where a.workflow_uid = run.uid and a.step = $2 and a.index = $3 and a.number = $4
        and t.workflow_uid = run.uid and t.step = $2 and t.index = $3
        and (a.report is not null or (a.closed_at is null and t.attempt = a.number))
    for no key update of a
    for share of t
), written as (
    update perdure.attempt a set report = $5
    from fence
    where not fence.reported
        and a.workflow_uid = $1::uuid and a.step = $2 and a.index = $3 and a.number = $4
    returning 1
), bumped as (
    update perdure.workflow w set version = w.version + 1 from written where w.uid = $1::uuid returning 1
)
select
    exists (select from fence) as written,
    (select pg_notify('perdure_wake', $1::uuid::text) from bumped) as woken
