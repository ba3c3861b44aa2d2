-- Runs that can be paused, and stopped at a deadline.
--
-- Each of these files takes the lock of one table only: a reader that joins tables could otherwise hold the
-- next one and wait for the first. New columns are null, so that no row is written anew.

-- Not valid: every value that is there has passed the narrower check, and looking again would read all tables.
alter domain perdure.phase drop constraint phase_check;
alter domain perdure.phase add constraint phase_check
    check (value in ('Pending', 'Running', 'Paused', 'Succeeded', 'Failed', 'Cancelled', 'Skipped'))
    not valid;

alter table perdure.workflow
    -- Why everything in it is being stopped.
    add column stop text,
    add column deadline_at timestamptz,
    add column paused_at timestamptz,
    -- From the spec, which may be long and is not parsed for each call of an agent. Null: the default.
    add column checkpoints_per_task int;
