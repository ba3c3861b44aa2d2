-- Sizes and digests of payloads, so that an operator can hold those and leave the bodies here.
--
-- Null next to a body: written by code that does not know of the columns. Then both follow from the body.

alter table perdure.task
    add column input_size bigint,
    add column input_digest text,
    add column output_size bigint,
    add column output_digest text;
