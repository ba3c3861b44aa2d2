-- Size and digest of a cached output (see 0012).

alter table perdure.cache
    add column output_size bigint,
    add column output_digest text;
