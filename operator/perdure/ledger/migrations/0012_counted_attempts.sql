-- Whether the child of an attempt is counted among the descendants of its root run.
--
-- A constant default rewrites no row. Old code neither reads nor writes the column.

alter table perdure.attempt add column counted boolean not null default false;
