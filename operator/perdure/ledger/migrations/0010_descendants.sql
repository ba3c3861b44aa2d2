-- How many Workflows the Workflows of a run have created, and which attempts are counted already.
--
-- Constant defaults rewrite no row. Old code neither reads nor writes the columns.

alter table perdure.workflow add column descendants int not null default 0;
alter table perdure.attempt add column counted boolean not null default false;
