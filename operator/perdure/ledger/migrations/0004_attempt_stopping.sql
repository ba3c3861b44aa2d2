-- An open attempt that was asked to leave.

alter table perdure.attempt add column stopping text;
