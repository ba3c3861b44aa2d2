-- The newest order number that an attempt gave one of its checkpoints: what was sent before it and arrives
-- after it must not become current. The attempt stands beside it, so that a new one starts anew.

alter table perdure.task
    add column checkpoint_order bigint,
    add column checkpoint_order_attempt int;
