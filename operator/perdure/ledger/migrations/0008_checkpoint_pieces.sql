-- Large checkpoints in pieces, so that whoever writes or reads one holds a piece of it and not the whole.

create table perdure.checkpoint_piece (
    upload uuid not null,
    -- 0, 1, 2 …
    number int not null,
    -- Each is compressed by itself, if that makes it shorter.
    packed boolean not null,
    data bytea not null,
    primary key (upload, number)
);

alter table perdure.checkpoint_piece alter column data set storage external;

alter table perdure.checkpoint
    -- Null: whole, in `data`, which is empty otherwise.
    add column upload uuid,
    -- What the agent sent it as: see task.checkpoint_order.
    add column write_order bigint;

-- Whoever deletes a checkpoint deletes its pieces, also code that does not know of them.
create function perdure.forget_pieces() returns trigger language plpgsql as $$
begin
    delete from perdure.checkpoint_piece where upload = old.upload;
    return null;
end
$$;

create trigger forget_pieces after delete on perdure.checkpoint
    for each row when (old.upload is not null) execute function perdure.forget_pieces();
