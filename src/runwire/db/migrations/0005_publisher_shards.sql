-- Several publishers share the runs: each run falls into one of 128 shards by its id, and a shard is leased to one
-- publisher. The lock of the run's outbox row stays what makes two at once impossible.
-- serves: 0002

-- The first byte of SHA-256, modulo 128; src/runwire/publish/assignment.py counts the same.
ALTER TABLE run_outbox ADD COLUMN shard smallint NOT NULL
    GENERATED ALWAYS AS ((get_byte(sha256(run_id::bytea), 0) % 128)::smallint) STORED;

CREATE TABLE publisher_shards (
    shard        smallint    PRIMARY KEY CHECK (shard BETWEEN 0 AND 127),
    publisher_id text,
    taken_at     timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
INSERT INTO publisher_shards (shard) SELECT generate_series(0, 127);

ALTER TABLE publishers
    ADD COLUMN lock_key    integer,
    ADD COLUMN lease_until timestamptz,
    ADD COLUMN shards      smallint[];
COMMENT ON COLUMN publishers.lock_key IS 'Its session holds this advisory lock: who can take it knows that the session is gone.';
COMMENT ON COLUMN publishers.shards IS 'What it says it publishes; NULL of one that knows no shards and publishes every run.';
