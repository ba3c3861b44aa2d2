-- Finds paused runs, which are live. An index of its own beside `workflow_live`: that one serves code that
-- does not know of pauses, and a run that is never paused costs nothing here.

create index workflow_paused on perdure.workflow (phase) where phase = 'Paused';
