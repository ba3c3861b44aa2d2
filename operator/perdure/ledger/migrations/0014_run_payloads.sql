-- Size and digest of a run's outputs (see 0012), and what the run keeps here in all.

alter table perdure.workflow
    add column outputs_size bigint,
    add column outputs_digest text,
    -- Bytes of inputs and outputs, and of checkpoints as stored. Null: not counted yet.
    add column payload_bytes bigint,
    add column checkpoint_bytes bigint;
