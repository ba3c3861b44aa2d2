-- How many Workflows the Workflows of a run have created, kept at the run that is above all.
--
-- A constant default rewrites no row. Old code neither reads nor writes the column.

alter table perdure.workflow add column descendants int not null default 0;
