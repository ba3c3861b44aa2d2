-- Every statement that the ledger uses.
--
-- How concurrent statements stay correct, in READ COMMITTED:
--
-- 1. Locks are taken in one order everywhere: shard row, then workflow row, then the rest. A statement that
--    changes anything of a run holds its workflow row, so rows of the rest never cause a deadlock. Batches are
--    sorted by (shard, uid), which makes that true across runs as well.
-- 2. A statement's snapshot may be older than the lock that it waited for. What a fence depends on is
--    therefore read with a row lock of its own: after a wait Postgres checks the condition again on the
--    newest version of the row. An epoch, a version or an open attempt that was lost meanwhile is seen.
-- 3. Runs share cached results. Only the leader's writer waits for their locks; the statement that deletes
--    expired ones skips locked rows.
-- 4. Each statement returns exactly one row, whether it wrote or not, and writes all or nothing.
-- 5. Times come from the caller.


-- name: take_epoch
-- Waits for statements that hold a shard row under an older epoch; there are none once this has committed.
with locked as materialized (
    select id, epoch from perdure.shard order by id for update
), next as (
    select max(epoch) + 1 as epoch from locked
), taken as (
    update perdure.shard s set epoch = next.epoch, holder = $1, taken_at = now()
    from next
    returning s.epoch
)
select max(epoch) as epoch from taken


-- name: commit
-- $1 uid, $2 shard, $3 epoch, $4 version that was seen, $5 run, $6 steps, $7 tasks, $8 attempts, $9 events
-- With its parts `with extras` the statement is `commit_extras`, for decisions that leave a result to others or
-- consume signals. Those parts would cost every other commit a twentieth of its time.
with fence as materialized (
    select 1 from perdure.shard where id = $2 and epoch = $3 for share
-- with extras
), moved as materialized (
    -- Large outputs, which the operator does not hold, from where the ledger has them.
    select m.step, m.index, m.number, case m.output_from
        when 'report' then (
            select a.report -> 'output' from perdure.attempt a
            where a.workflow_uid = $1::uuid and a.step = m.step and a.index = m.index and a.number = m.number
        )
        when 'run' then (select w.outputs from perdure.workflow w where w.uid = m.output_ref::uuid)
        when 'cache' then (
            select c.output from perdure.cache c, json_to_record($5::json) as r (namespace text)
            where c.namespace = r.namespace and c.key = m.output_ref
        )
    end as output
    from (
        select t.*, case when t.output_from = 'report' then t.output_ref::int end as number
        from json_to_recordset($7::json) as t (step text, index int, output_from text, output_ref text)
        where t.output_from is not null
    ) m
-- end
), given as materialized (
    select r.*, json_array_length($9::json) as events
    from json_to_record($5::json) as r (
        kind text, namespace text, name text, generation bigint, phase text, reason text, message text,
        spec json, checkpoints_per_task int, outputs json, outputs_size bigint, outputs_digest text,
        payload_bytes bigint, created_at timestamptz, started_at timestamptz, finished_at timestamptz,
        stop text, deadline_at timestamptz, paused_at timestamptz, expires_at timestamptz
        -- with extras
        , consumed json
        -- end
    ), fence
    -- with extras
    -- A body that is no longer where it was is no reason to write a task without it.
    where not exists (select from moved where moved.output is null)
    -- end
), made as (
    insert into perdure.workflow (
        uid, kind, namespace, name, generation, shard, phase, reason, message, spec, checkpoints_per_task,
        outputs, outputs_size, outputs_digest, payload_bytes, version, last_sequence, created_at, started_at,
        finished_at, stop, deadline_at, paused_at, expires_at
    )
    select
        $1::uuid, g.kind, g.namespace, g.name, g.generation, $2, g.phase, g.reason, g.message, g.spec,
        g.checkpoints_per_task, g.outputs, g.outputs_size, g.outputs_digest, g.payload_bytes, 1, g.events, g.created_at, g.started_at, g.finished_at, g.stop,
        g.deadline_at, g.paused_at, g.expires_at
    from given g
    where $4::bigint = 0
    on conflict (uid) do nothing
    returning version, last_sequence
), changed as (
    update perdure.workflow w set
        generation = g.generation, phase = g.phase, reason = g.reason, message = g.message,
        -- A body that is not sent is here already.
        outputs = case when g.outputs_size is not null then coalesce(g.outputs, w.outputs) end,
        outputs_size = g.outputs_size, outputs_digest = g.outputs_digest,
        payload_bytes = g.payload_bytes, version = w.version + 1,
        last_sequence = w.last_sequence + g.events, started_at = g.started_at,
        finished_at = g.finished_at, stop = g.stop, deadline_at = g.deadline_at,
        paused_at = g.paused_at, expires_at = g.expires_at
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
    insert into perdure.task as k (
        workflow_uid, step, index, name, phase, reason, message, input, input_size, input_digest, attempt,
        retries, disruptions, retry_at, last_failure, cache_key, cache_until, output, output_size,
        output_digest, exit_code, started_at, finished_at
    )
    select
        $1::uuid, t.step, t.index, t.name, t.phase, t.reason, t.message, t.input, t.input_size,
        t.input_digest, t.attempt, t.retries, t.disruptions, t.retry_at, t.last_failure, t.cache_key,
        t.cache_until,
        coalesce(
            t.output
            -- with extras
            , (select m.output from moved m where m.step = t.step and m.index = t.index)
            -- end
        ),
        t.output_size, t.output_digest, t.exit_code, t.started_at, t.finished_at
    from run, json_to_recordset($7::json) as t (
        step text, index int, name text, phase text, reason text, message text, input json, input_size bigint,
        input_digest text, attempt int, retries int, disruptions int, retry_at timestamptz, last_failure json,
        cache_key text, cache_until timestamptz, output json, output_size bigint, output_digest text,
        exit_code int, started_at timestamptz, finished_at timestamptz
    )
    on conflict (workflow_uid, step, index) do update set
        name = excluded.name, phase = excluded.phase, reason = excluded.reason,
        -- A body that is not sent is here already.
        message = excluded.message,
        input = case when excluded.input_size is not null then coalesce(excluded.input, k.input) end,
        input_size = excluded.input_size, input_digest = excluded.input_digest, attempt = excluded.attempt,
        retries = excluded.retries, disruptions = excluded.disruptions, retry_at = excluded.retry_at,
        last_failure = excluded.last_failure, cache_key = excluded.cache_key,
        cache_until = excluded.cache_until,
        output = case when excluded.output_size is not null then coalesce(excluded.output, k.output) end,
        output_size = excluded.output_size, output_digest = excluded.output_digest,
        exit_code = excluded.exit_code,
        started_at = excluded.started_at, finished_at = excluded.finished_at
    -- with extras
    returning step, index, name, phase, reason, cache_key, cache_until, finished_at, output_size,
        output_digest, case when cache_key is not null then output end as output
    -- end
-- with extras
), cached as (
    insert into perdure.cache as c (
        namespace, key, output, output_size, output_digest, workflow_uid, workflow, task, created_at,
        expires_at
    )
    -- Of equal keys in one commit only one can be written: the newest result, or else the first by step.
    select distinct on (t.cache_key)
        g.namespace, t.cache_key, t.output, t.output_size, t.output_digest, $1::uuid, g.name, t.name,
        t.finished_at, t.cache_until
    from tasks t, given g
    where t.cache_key is not null and t.phase = 'Succeeded' and t.reason is distinct from 'Cached'
        and t.finished_at is not null and t.cache_until is not null
    order by t.cache_key, t.finished_at desc, t.step, t.index
    on conflict (namespace, key) do update set
        output = excluded.output, output_size = excluded.output_size,
        output_digest = excluded.output_digest, workflow_uid = excluded.workflow_uid,
        workflow = excluded.workflow, task = excluded.task, created_at = excluded.created_at, expires_at = excluded.expires_at
    where c.created_at <= excluded.created_at
), consumed as (
    update perdure.signal s set consumed_version = r.version
    from run r, given g, json_array_elements_text(g.consumed) as c (id)
    where s.workflow_uid = $1::uuid and s.id = c.id and s.consumed_version is null
-- end
), attempts as (
    insert into perdure.attempt as a (
        workflow_uid, step, index, number, pod_name, pod_uid, created_at, started_at, stopping, closed_at,
        outcome, reason, message, exit_code
    )
    select
        $1::uuid, n.step, n.index, n.number, n.pod_name, n.pod_uid, n.created_at, n.started_at, n.stopping,
        n.closed_at, n.outcome, n.reason, n.message, n.exit_code
    from run, json_to_recordset($8::json) as n (
        step text, index int, number int, pod_name text, pod_uid text, created_at timestamptz,
        started_at timestamptz, stopping text, closed_at timestamptz, outcome text, reason text,
        message text, exit_code int
    )
    -- Other statements write the pod's uid, which a decision that has not seen it keeps, and the report.
    on conflict (workflow_uid, step, index, number) do update set
        pod_name = excluded.pod_name, pod_uid = coalesce(excluded.pod_uid, a.pod_uid),
        created_at = excluded.created_at, started_at = excluded.started_at,
        stopping = excluded.stopping, closed_at = excluded.closed_at, outcome = excluded.outcome,
        reason = excluded.reason, message = excluded.message, exit_code = excluded.exit_code
        -- with extras
        -- The task has the output now, and the report need not keep it as well.
        , report = case
            when exists (
                select from moved m where m.step = a.step and m.index = a.index and m.number = a.number
            )
            then coalesce(a.report_head, a.report)
            else a.report
        end
        -- end
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


-- name: fence_commits
-- $1 uid, $2 shard, $3 epoch. Waits for a commit that holds the run's row; a later commit finds another version
-- than its decision saw.
with fence as materialized (
    select 1 from perdure.shard where id = $2 and epoch = $3 for share
), changed as (
    update perdure.workflow w set version = w.version + 1
    from fence
    where w.uid = $1::uuid
)
select exists (select from fence) as fenced


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


-- name: claim_child
-- $1 uid of the parent, $2 step, $3 index and $4 number of the attempt, $5 most descendants of one root,
-- $6 uid of the parent's owner or null, $7 name and $8 namespace of the parent.
--
-- The Workflows above follow from the attempts whose object a run is: annotations and owner references can be
-- edited. The owner is used besides them, since a parent records the uid of a child a moment after its creation.
with recursive above (uid, depth) as (
    (
        select $1::uuid, 0
        union all
        select a.workflow_uid, 1
        from perdure.attempt a join perdure.workflow w on w.uid = a.workflow_uid
        where a.workflow_uid = $6::uuid and a.pod_name = $7 and w.namespace = $8
    )
    union all
    select a.workflow_uid, above.depth + 1
    from above join perdure.attempt a on a.pod_uid = above.uid::text
    where above.depth < 32
), top as (
    select uid, depth from above order by depth desc limit 1
), root as materialized (
    select w.uid, w.descendants from perdure.workflow w join top on top.uid = w.uid for no key update of w
), mine as materialized (
    select a.counted from perdure.attempt a, root
    where a.workflow_uid = $1::uuid and a.step = $2 and a.index = $3 and a.number = $4 and a.closed_at is null
), counted as (
    update perdure.attempt a set counted = true
    from root, mine
    where a.workflow_uid = $1::uuid and a.step = $2 and a.index = $3 and a.number = $4
        and not mine.counted and root.descendants < $5
    returning 1
), added as (
    update perdure.workflow w set descendants = w.descendants + 1
    from root, counted
    where w.uid = root.uid
)
select
    exists (select from mine) as open,
    exists (select from counted) or exists (select from mine where counted) as granted,
    (select depth from top) as depth


-- name: suspects
select uid, kind, namespace, name, fingerprint, deaths, life from perdure.suspect order by uid


-- name: keep_suspect
-- Not fenced: the death of a process counts, whichever process leads now.
insert into perdure.suspect (uid, kind, namespace, name, fingerprint, deaths, life)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (uid) do update set
    fingerprint = excluded.fingerprint, deaths = excluded.deaths, life = excluded.life, noted_at = now()
returning uid


-- name: drop_suspect
with gone as (
    delete from perdure.suspect where uid = $1 returning 1
)
select count(*) as gone from gone


-- fragment: report of attempt
-- The head of a report, without an output that is large. An earlier version left it to be computed.
coalesce(a.report_head, json_build_object(
    'outcome', a.report -> 'outcome', 'message', a.report -> 'message', 'retryable', a.report -> 'retryable',
    'at', a.report -> 'at', 'output_size', octet_length(nullif((a.report -> 'output')::text, 'null')),
    'output_digest', encode(sha256(convert_to(nullif((a.report -> 'output')::text, 'null'), 'UTF8')), 'hex'),
    'output', case
        when octet_length((a.report -> 'output')::text) <= 1024
        then nullif((a.report -> 'output')::text, 'null')
    end
))


-- name: updates
-- $1 uid, $2 since, $3 how many reports. One statement, so that the version goes with the reports and the signals.
select
    w.version,
    (
        select json_agg(json_build_array(r.step, r.index, r.number, r.report) order by r.step, r.index)
        from (
            select a.step, a.index, a.number,
                -- report of attempt
                as report
            from perdure.attempt a
            where a.workflow_uid = w.uid and a.closed_at is null and a.report is not null
            order by a.step, a.index
            limit $3
        ) r
    ) as reports,
    (
        select json_agg(
            json_build_array(s.id, s.step, s.index, s.name, s.payload, s.sender, s.at) order by s.version
        )
        from perdure.signal s
        where s.workflow_uid = w.uid and s.consumed_version is null
    ) as signals,
    (
        select json_agg(
            json_build_array(
                t.step, t.index, t.vitals_attempt, t.vitals_at, c.sequence, c.label, c.created_at, t.percent,
                t.progress_message
            )
            order by t.step, t.index
        )
        from perdure.task t
        -- The checkpoint from which a new attempt would go on, which is not always the newest.
        left join lateral (
            select k.sequence, k.label, k.created_at
            from perdure.checkpoint k
            where k.workflow_uid = t.workflow_uid and k.step = t.step and k.index = t.index and k.recoverable
            order by k.sequence desc
            limit 1
        ) c on true
        where t.workflow_uid = w.uid and t.vitals_at is not null
            and ($2::timestamptz is null or t.vitals_at > $2)
    ) as vitals
from perdure.workflow w
where w.uid = $1::uuid


-- name: more_reports
-- $1 uid, $2 step and $3 index of the last report that was read, $4 how many
select a.step, a.index, a.number,
    -- report of attempt
    as report
from perdure.attempt a
where a.workflow_uid = $1::uuid and a.closed_at is null and a.report is not null
    and (a.step, a.index) > ($2, $3::int)
order by a.step, a.index
limit $4


-- name: task_payloads
-- $1 uid, $2 steps, $3 indexes, $4 input or output: the bodies as they were written
select t.step, t.index, convert_to((case $4 when 'input' then t.input else t.output end)::text, 'UTF8') as body
from unnest($2::text[], $3::int[]) as w (step, index)
join perdure.task t on t.workflow_uid = $1::uuid and t.step = w.step and t.index = w.index


-- name: run_outputs
select convert_to(outputs::text, 'UTF8') as body from perdure.workflow where uid = $1::uuid


-- fragment: columns of run
-- All but `spec`, which may be long. Of outputs, the body only if it is small.
uid, kind, namespace, name, generation, shard, phase, reason, message,
case
    when coalesce(outputs_size, octet_length(outputs::text)) <= 1024 then convert_to(outputs::text, 'UTF8')
end as outputs,
coalesce(outputs_size, octet_length(outputs::text)) as outputs_size,
coalesce(outputs_digest, encode(sha256(convert_to(outputs::text, 'UTF8')), 'hex')) as outputs_digest,
version, last_sequence,
created_at, started_at, finished_at, stop, deadline_at, paused_at, expires_at


-- name: runs_by_uid
select spec,
    -- columns of run
from perdure.workflow
where uid = any ($1::uuid[])


-- name: outcomes
-- Runs without what they do.
select '{}'::json as spec,
    -- columns of run
from perdure.workflow
where uid = any ($1::uuid[])


-- name: live_index
-- Live runs without their state, oldest first: a parent comes before its children. Two selects, since each has its
-- own index; a run that neither finds has ended. The size is an estimate: the snapshot as stored, and what the
-- records of an ordinary task take.
with live as (
    select uid, kind, namespace, name, created_at, pg_column_size(spec) as spec_size
    from perdure.workflow
    where phase in ('Pending', 'Running')
    union all
    select uid, kind, namespace, name, created_at, pg_column_size(spec)
    from perdure.workflow
    where phase = 'Paused'
)
select l.uid, l.kind, l.namespace, l.name, a.open, l.spec_size + 1024 * t.total as size
from live l
cross join lateral (
    select count(*) as open from perdure.attempt a where a.workflow_uid = l.uid and a.closed_at is null
) a
cross join lateral (
    select count(*) as total from perdure.task t where t.workflow_uid = l.uid
) t
order by l.created_at, l.uid


-- name: steps_of
select workflow_uid, name, phase, reason, message, total, for_each, started_at, finished_at
from perdure.step
where workflow_uid = any ($1::uuid[])


-- name: tasks_of
-- Of payloads, the body only if it is small.
select workflow_uid, step, index, name, phase, reason, message, attempt, retries, disruptions, retry_at,
    last_failure, cache_key, cache_until, exit_code, started_at, finished_at,
    case
        when coalesce(input_size, octet_length(input::text)) <= 1024 then convert_to(input::text, 'UTF8')
    end as input,
    coalesce(input_size, octet_length(input::text)) as input_size,
    coalesce(input_digest, encode(sha256(convert_to(input::text, 'UTF8')), 'hex')) as input_digest,
    case
        when coalesce(output_size, octet_length(output::text)) <= 1024 then convert_to(output::text, 'UTF8')
    end as output,
    coalesce(output_size, octet_length(output::text)) as output_size,
    coalesce(output_digest, encode(sha256(convert_to(output::text, 'UTF8')), 'hex')) as output_digest
from perdure.task
where workflow_uid = any ($1::uuid[])


-- name: newest_attempts_of
select distinct on (workflow_uid, step, index)
    workflow_uid, step, index, number, pod_name, pod_uid, created_at, started_at, stopping, closed_at,
    outcome, reason, message, exit_code, case
        when a.report is not null then
        -- report of attempt
    end as report
from perdure.attempt a
where workflow_uid = any ($1::uuid[])
order by workflow_uid, step, index, number desc


-- name: expired
select uid, kind, namespace, name
from perdure.workflow
where phase not in ('Pending', 'Running') and phase <> 'Paused' and expires_at <= $1
order by expires_at
limit $2


-- name: forget
-- $1 uids, $2 epoch. Deletes nothing unless the epoch holds for every one of the runs.
with named as materialized (
    select uid, shard from perdure.workflow
    where uid = any ($1::uuid[]) and phase not in ('Pending', 'Running', 'Paused')
), fence as materialized (
    select id from perdure.shard
    where id in (select shard from named) and epoch = $2
    order by id
    for share
), whole as materialized (
    select not exists (select from named where shard not in (select id from fence)) as ok
), locked as materialized (
    select w.uid from perdure.workflow w
    where w.uid in (select uid from named where (select ok from whole))
    order by w.shard, w.uid
    for update
), checkpoints as (
    delete from perdure.checkpoint c using locked where c.workflow_uid = locked.uid
), events as (
    delete from perdure.event e using locked where e.workflow_uid = locked.uid
), gone as (
    -- Deletes steps, tasks, attempts and signals, too.
    delete from perdure.workflow w using locked where w.uid = locked.uid
)
select ok as fenced from whole


-- name: cached
-- $1 namespace, $2 keys, $3 now
select key, workflow, task,
    case
        when coalesce(output_size, octet_length(output::text)) <= 1024 then convert_to(output::text, 'UTF8')
    end as output,
    coalesce(output_size, octet_length(output::text)) as output_size,
    coalesce(output_digest, encode(sha256(convert_to(output::text, 'UTF8')), 'hex')) as output_digest
from perdure.cache
where namespace = $1 and key = any ($2::text[]) and expires_at > $3


-- name: forget_cache
-- $1 now, $2 limit, $3 epoch
-- Results belong to no shard, and take_epoch updates all shards: the row of the first fences the statement.
with fence as materialized (
    select 1 from perdure.shard where id = 0 and epoch = $3 for share
), old as materialized (
    select c.namespace, c.key
    from perdure.cache c, fence
    where c.expires_at <= $1
    order by c.expires_at
    limit $2
    -- A commit that renews a result holds its lock.
    for update of c skip locked
), gone as (
    delete from perdure.cache c using old where c.namespace = old.namespace and c.key = old.key
    returning 1
)
select exists (select from fence) as fenced, (select count(*) from gone) as gone


-- name: attempt_for_pod
select w.uid as workflow_uid, w.kind, w.namespace, w.name as run_name, w.shard, a.step, a.index,
    a.number as attempt, a.pod_name,
    a.closed_at is null and t.attempt = a.number as open, t.name as task_name, t.input, t.last_failure,
    c.sequence as checkpoint_sequence, c.label as checkpoint_label, c.created_at as checkpoint_at,
    w.checkpoints_per_task
from perdure.attempt a
join perdure.workflow w on w.uid = a.workflow_uid
join perdure.task t on t.workflow_uid = a.workflow_uid and t.step = a.step and t.index = a.index
left join lateral (
    select k.sequence, k.label, k.created_at
    from perdure.checkpoint k
    where k.workflow_uid = t.workflow_uid and k.step = t.step and k.index = t.index and k.recoverable
    order by k.sequence desc
    limit 1
) c on true
where a.pod_uid = $2 and w.namespace = $1
order by a.number desc
limit 1


-- fragment: run and open attempt
-- $1 uid, $2 step, $3 index, $4 attempt. Locks the run, and finds nothing if the attempt was closed.
with run as materialized (
    select uid from perdure.workflow where uid = $1::uuid for no key update
), fence as materialized (
    select 1
    from run, perdure.attempt a
    where a.workflow_uid = run.uid and a.step = $2 and a.index = $3 and a.number = $4
        and a.closed_at is null
    for share of a


-- fragment: event of a checkpoint
-- $1 uid, $4 attempt, $5 time; `numbered` has the number and the facts of the event.
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


-- name: write_checkpoint
-- $1 uid, $2 step, $3 index, $4 attempt, $5 now, $6 content type, $7 label, $8 size, $9 stored size,
-- $10 encoding, $11 sha256, $12 data, $13 how many to keep, $14 recoverable, $15 order, $16 upload,
-- $17 whether the checkpoint has an event
-- Nothing is written if the attempt is closed, or has written a checkpoint of the same or a newer order:
-- `refused_checkpoint` finds out which.
-- run and open attempt
), task as (
    update perdure.task t set
        checkpoint_sequence = coalesce(t.checkpoint_sequence, 0) + 1, checkpoint_label = $7,
        checkpoint_at = $5, vitals_at = $5, vitals_attempt = $4,
        percent = case when t.vitals_attempt = $4 then t.percent end,
        progress_message = case when t.vitals_attempt = $4 then t.progress_message end,
        checkpoint_order = coalesce($15::bigint, t.checkpoint_order),
        checkpoint_order_attempt = case when $15::bigint is null then t.checkpoint_order_attempt else $4 end
    from fence
    where t.workflow_uid = $1::uuid and t.step = $2 and t.index = $3 and t.attempt = $4
        and (
            $15::bigint is null or t.checkpoint_order_attempt is distinct from $4
            or t.checkpoint_order < $15::bigint
        )
    returning t.name, t.checkpoint_sequence
), numbered as (
    update perdure.workflow w set last_sequence = w.last_sequence + 1
    from task
    where w.uid = $1::uuid and $17::boolean
    returning w.last_sequence, w.kind, w.namespace, w.name as workflow, task.name as task,
        json_build_object(
            'sequence', task.checkpoint_sequence, 'label', $7::text, 'size', $8::bigint,
            'recoverable', $14::boolean
        ) as data
), written as (
    insert into perdure.checkpoint (
        workflow_uid, step, index, sequence, attempt, created_at, content_type, label, size, stored_size,
        encoding, sha256, data, recoverable, write_order, upload
    )
    select
        $1::uuid, $2, $3, task.checkpoint_sequence, $4, $5, $6::text, $7, $8, $9::bigint, $10::text,
        $11::bytea, $12::bytea, $14, $15, $16::uuid
    from task
), pruned as (
    delete from perdure.checkpoint c
    using task
    where c.workflow_uid = $1::uuid and c.step = $2 and c.index = $3
        and c.sequence <= task.checkpoint_sequence - $13::bigint
        -- The newest recoverable checkpoint stays, however many follow from which no attempt can go on.
        and (
            $14
            or c.sequence is distinct from (
                select max(k.sequence) from perdure.checkpoint k
                where k.workflow_uid = $1::uuid and k.step = $2 and k.index = $3 and k.recoverable
            )
        )
-- event of a checkpoint
)
select
    (select checkpoint_sequence from task) as sequence,
    (select pg_notify('perdure_wake', 'sign ' || $1::uuid::text) from task) as woken,
    (select pg_notify('perdure_wake', 'outbox') from numbered) as relay_woken


-- name: announce_checkpoint
-- $1 uid, $2 step, $3 index, $4 attempt, $5 now
-- The event of the attempt's newest checkpoint, which was stored without one.
-- run and open attempt
), newest as (
    select t.name as task, c.sequence, c.label, c.size, c.recoverable
    from fence, perdure.task t, perdure.checkpoint c
    where t.workflow_uid = $1::uuid and t.step = $2 and t.index = $3 and t.attempt = $4
        and c.workflow_uid = $1::uuid and c.step = $2 and c.index = $3 and c.attempt = $4
    order by c.sequence desc
    limit 1
), numbered as (
    update perdure.workflow w set last_sequence = w.last_sequence + 1
    from newest
    where w.uid = $1::uuid
    returning w.last_sequence, w.kind, w.namespace, w.name as workflow, newest.task,
        json_build_object(
            'sequence', newest.sequence, 'label', newest.label, 'size', newest.size,
            'recoverable', newest.recoverable
        ) as data
-- event of a checkpoint
)
select
    exists (select from newest) as written,
    (select pg_notify('perdure_wake', 'outbox') from numbered) as relay_woken


-- name: progress
-- $1 uid, $2 step, $3 index, $4 attempt, $5 now, $6 percent, $7 message, $8 the event's data
-- run and open attempt
), task as (
    update perdure.task t set
        percent = coalesce($6, case when t.vitals_attempt = $4 then t.percent end),
        progress_message = coalesce($7, case when t.vitals_attempt = $4 then t.progress_message end),
        vitals_at = $5, vitals_attempt = $4
    from fence
    where t.workflow_uid = $1::uuid and t.step = $2 and t.index = $3 and t.attempt = $4
    returning t.name
), numbered as (
    update perdure.workflow w set last_sequence = w.last_sequence + 1
    from task
    where w.uid = $1::uuid
    returning w.last_sequence, w.kind, w.namespace, w.name as workflow, task.name as task
), events as (
    insert into perdure.event (workflow_uid, sequence, type, time, task, attempt, data)
    select $1::uuid, n.last_sequence, 'task.progress', $5, n.task, $4, $8::json from numbered n
), outbox as (
    insert into perdure.outbox (
        workflow_uid, sequence, kind, namespace, workflow, type, time, task, attempt, data
    )
    select $1::uuid, n.last_sequence, n.kind, n.namespace, n.workflow, 'task.progress', $5, n.task, $4, $8::json
    from numbered n
)
select
    exists (select from task) as written,
    (select pg_notify('perdure_wake', 'sign ' || $1::uuid::text) from task) as woken,
    (select pg_notify('perdure_wake', 'outbox') from task) as relay_woken


-- name: heartbeat
-- $1 uid, $2 step, $3 index, $4 attempt, $5 now
-- run and open attempt
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
-- $1 uid, $2 step, $3 index, $4 attempt, $5 report, $6 its head: all that an operator reads
-- A report that is known is acknowledged even if the attempt is closed: the first answer may have been lost.
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
    update perdure.attempt a set report = $5, report_head = $6
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


-- name: send_signal
-- $1 uid, $2 id, $3 step, $4 index, $5 name, $6 payload, $7 sender, $8 at, $9 how many may be unconsumed before
-- this one, $10 how many bytes their payloads may have
-- The run's row is locked first, so the version that a signal raises its run to is the signal's own. Nothing is
-- written if the run has ended, its inbox is full, or the id is known: `signal_is_known` finds out which.
with run as materialized (
    select uid, version, phase from perdure.workflow where uid = $1::uuid for no key update
), sent as (
    insert into perdure.signal (workflow_uid, id, step, index, name, payload, sender, at, version)
    select run.uid, $2, $3, $4, $5, $6, $7, $8, run.version + 1
    from run
    where run.phase in ('Pending', 'Running', 'Paused') and (
        select count(*) < $9::bigint and coalesce(sum(octet_length(s.payload::text)), 0) <= $10::bigint
        from perdure.signal s
        where s.workflow_uid = $1::uuid and s.consumed_version is null
    )
    on conflict (workflow_uid, id) do nothing
    returning 1
), bumped as (
    update perdure.workflow w set version = w.version + 1 from sent where w.uid = $1::uuid returning 1
)
select
    (select phase from run) as phase,
    exists (select from sent) as sent,
    (select pg_notify('perdure_wake', $1::uuid::text) from bumped) as woken


-- name: signal_is_known
-- $1 uid, $2 id. A statement of its own: the snapshot of `send_signal` may be older than the signal that the
-- statement waited for.
select exists (select from perdure.signal where workflow_uid = $1::uuid and id = $2) as known


-- name: refused_checkpoint
-- $1 uid, $2 step, $3 index, $4 attempt, $5 order, $6 sha256
-- Why `write_checkpoint` wrote nothing. A statement of its own: the snapshot of `write_checkpoint` may be older
-- than the write that made it redundant.
select a.closed_at is null and t.attempt = a.number as open, (
    select c.sequence
    from perdure.checkpoint c
    where c.workflow_uid = $1::uuid and c.step = $2 and c.index = $3 and c.attempt = $4
        and c.write_order = $5::bigint and c.sha256 = $6
) as sequence
from perdure.attempt a
join perdure.task t on t.workflow_uid = a.workflow_uid and t.step = a.step and t.index = a.index
where a.workflow_uid = $1::uuid and a.step = $2 and a.index = $3 and a.number = $4


-- name: attempt_is_open
select a.closed_at is null and t.attempt = a.number as open
from perdure.attempt a
join perdure.task t on t.workflow_uid = a.workflow_uid and t.step = a.step and t.index = a.index
where a.workflow_uid = $1::uuid and a.step = $2 and a.index = $3 and a.number = $4


-- name: write_piece
-- $1 upload, $2 number, $3 packed, $4 data. Followed, in the same transaction, by `write_checkpoint`.
insert into perdure.checkpoint_piece (upload, number, packed, data) values ($1, $2, $3, $4)


-- name: read_piece
select packed, data from perdure.checkpoint_piece where upload = $1 and number = $2


-- name: latest_checkpoint
-- $1 uid, $2 step, $3 index, $4 label or null
select sequence, attempt, created_at, content_type, label, size, encoding, sha256, data, recoverable, upload
from perdure.checkpoint
where workflow_uid = $1::uuid and step = $2 and index = $3 and recoverable
    and ($4::text is null or label = $4)
order by sequence desc
limit 1


-- name: one_checkpoint
select sequence, attempt, created_at, content_type, label, size, encoding, sha256, data, recoverable, upload
from perdure.checkpoint
where workflow_uid = $1::uuid and step = $2 and index = $3 and sequence = $4


-- name: checkpoints
-- $1 uid, $2 step, $3 index, $4 label or null, $5 below which sequence or null, $6 limit
select sequence, attempt, created_at, content_type, label, size, sha256, recoverable
from perdure.checkpoint
where workflow_uid = $1::uuid and step = $2 and index = $3
    and ($4::text is null or label = $4) and ($5::bigint is null or sequence < $5)
order by sequence desc
limit $6


-- name: outbox_batch
-- $1 limit, $2 ids that are not to be among them
select id, workflow_uid, sequence, kind, namespace, workflow, type, time, task, attempt, data
from perdure.outbox
where id <> all ($2::bigint[])
order by id
limit $1


-- name: outbox_turns
-- $1 limit, $2 ids that are not to be among them, $3 limit of each namespace, $4 namespaces to leave out.
-- One probe of the index for each namespace, however many events each has.
with recursive namespaces as (
    (select namespace from perdure.outbox order by namespace limit 1)
    union all
    select (select o.namespace from perdure.outbox o where o.namespace > n.namespace order by o.namespace limit 1)
    from namespaces n
    where n.namespace is not null
), turns as (
    select o.id, row_number() over (partition by n.namespace order by o.id) as turn
    from namespaces n
    cross join lateral (
        select id from perdure.outbox
        where namespace = n.namespace and id <> all ($2::bigint[])
        order by id
        limit $3
    ) o
    where n.namespace <> all ($4::text[])
)
select o.id, o.workflow_uid, o.sequence, o.kind, o.namespace, o.workflow, o.type, o.time, o.task, o.attempt,
    o.data
from turns t
join perdure.outbox o on o.id = t.id
order by t.turn, t.id
limit $1


-- name: outbox_done
delete from perdure.outbox where id = any ($1::bigint[])


-- name: events
select e.workflow_uid, e.sequence, w.kind, w.namespace, w.name as workflow, e.type, e.time, e.task,
    e.attempt, e.data
from perdure.event e
join perdure.workflow w on w.uid = e.workflow_uid
where e.workflow_uid = $1::uuid and e.sequence > $2
order by e.sequence
limit $3


-- name: published
-- Events that are still in the outbox are published from there.
select w.uid, coalesce(o.first - 1, w.last_sequence) as sequence
from perdure.workflow w
left join (select workflow_uid, min(sequence) as first from perdure.outbox group by workflow_uid) o
    on o.workflow_uid = w.uid
where w.uid > $1::uuid
order by w.uid
limit $2


-- name: find_run
select spec,
    -- columns of run
from perdure.workflow
where namespace = $1 and name = $2 and ($3::text is null or kind = $3)
order by kind = 'Workflow' desc, created_at desc
limit 1


-- name: applied
select name from perdure.migration


-- name: server_facts
-- What a server is, with the settings that role and database give to a session.
select
    current_setting('server_encoding') as encoding,
    current_setting('synchronous_commit') as synchronous_commit,
    current_setting('synchronous_standby_names') as synchronous_standby_names,
    current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('default_transaction_isolation') as isolation,
    current_setting('default_transaction_read_only') = 'on' as read_only,
    pg_is_in_recovery() as in_recovery,
    (select count(*) from pg_stat_replication) as standbys


-- name: end_stuck
-- $1 name of our sessions, $2 seconds
-- Ends sessions that wait in the middle of a batch for a client that may be gone. They hold the locks of the
-- batch, and no timeout of Postgres runs between its statements. A role may end sessions of its own.
select count(*) filter (where pg_terminate_backend(a.pid)) as ended
from pg_stat_activity a
where a.datname = current_database() and a.usename = current_user and a.application_name = $1
    and a.backend_type = 'client backend' and a.state = 'active' and a.wait_event_type = 'Client'
    and a.query_start < clock_timestamp() - $2::float8 * interval '1 second'
