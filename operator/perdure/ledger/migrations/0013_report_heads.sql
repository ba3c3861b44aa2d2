-- What an operator reads of a report: all but an output that is large. Null: from code that does not know of it.

alter table perdure.attempt add column report_head json;
