-- The events of one namespace in the outbox, so that the relay can read namespaces in turns.
--
-- Old code does not need the index, and keeps it.

create index outbox_namespace on perdure.outbox (namespace, id);
