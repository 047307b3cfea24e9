-- Retention: which runs' events are in cold storage, and where. Nothing that was there is changed by it.
-- serves: 0002
-- serves: 0002

-- A batch is written, then read back and verified, and only then may its day's partition be dropped. Restoring
-- sends it back to verified: its rows are in the log again, and its copy in cold storage is as good as before.
CREATE TYPE archive_state AS ENUM ('writing', 'written', 'verified', 'dropped');

CREATE TABLE archive_batches (
    batch_id    text          PRIMARY KEY,
    run_day     date          NOT NULL,
    state       archive_state NOT NULL DEFAULT 'writing',
    path        text          NOT NULL,
    format      text          NOT NULL,
    runs        integer       NOT NULL DEFAULT 0,
    events      bigint        NOT NULL DEFAULT 0,
    bytes       bigint        NOT NULL DEFAULT 0,
    sha256      bytea,
    begun_at    timestamptz   NOT NULL DEFAULT now(),
    verified_at timestamptz,
    dropped_at  timestamptz,
    keep_until  timestamptz,
    -- Nothing is dropped that was not read back, and nothing is read back that has no checksum.
    CHECK ((state = 'writing') = (sha256 IS NULL)),
    CHECK ((state IN ('verified', 'dropped')) = (verified_at IS NOT NULL)),
    CHECK (state <> 'dropped' OR dropped_at IS NOT NULL)
);
COMMENT ON COLUMN archive_batches.path IS 'Of the data below the archive''s URL; the manifest lies beside it.';
COMMENT ON COLUMN archive_batches.keep_until IS 'Restored rows are not dropped again before.';
CREATE INDEX archive_batches_by_day ON archive_batches (run_day);
CREATE INDEX archive_batches_unfinished ON archive_batches (batch_id) WHERE state IN ('writing', 'written');

-- One row for each run that is in cold storage: where, how its log is proven, and its terminal event, which stays.
CREATE TABLE archived_runs (
    run_id          text     PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    batch_id        text     NOT NULL REFERENCES archive_batches (batch_id) ON DELETE CASCADE,
    begins          bigint   NOT NULL CHECK (begins >= 0),
    frames          integer[] NOT NULL CHECK (cardinality(frames) >= 1),
    events          bigint   NOT NULL CHECK (events >= 1),
    chain           bytea    NOT NULL CHECK (octet_length(chain) = 32),
    terminal_ts_us  bigint   NOT NULL,
    terminal_source event_source NOT NULL
);
COMMENT ON COLUMN archived_runs.begins IS 'First byte of the run''s first frame in the batch; the others follow it.';
COMMENT ON COLUMN archived_runs.frames IS 'Bytes of each compressed frame, in order.';
COMMENT ON COLUMN archived_runs.chain IS 'Last link of the hash chain over the run''s events.';
COMMENT ON COLUMN archived_runs.terminal_ts_us IS 'Of RunFinished, whose seq is `events`: it outlives the archive.';
CREATE INDEX archived_runs_by_batch ON archived_runs (batch_id);

-- Every run that finished before this moment is in cold storage: what is pending is looked for from here on.
CREATE TABLE archive_progress (
    one          boolean     PRIMARY KEY DEFAULT true CHECK (one),
    archived_all timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO archive_progress DEFAULT VALUES;

-- The partition of a day, made beside the log and then attached: ATTACH lets appends and reads go on, where CREATE TABLE
-- ... PARTITION OF would wait for every reader and hold up all who come after. Gives up after two seconds behind other
-- DDL. Returns whether it was missing.
CREATE FUNCTION make_event_partition(d date) RETURNS boolean LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
DECLARE
    partition text := 'run_events_' || to_char(d, 'YYYYMMDD');
BEGIN
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(hashtext('runwire.partitions'));
    -- Asked of the table: to_regclass may still know nothing of what was made while this waited.
    IF EXISTS (SELECT FROM pg_class AS c JOIN pg_class AS log ON log.oid = 'run_events'::regclass
               WHERE c.relname = partition AND c.relnamespace = log.relnamespace) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE run_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)
                    WITH (autovacuum_vacuum_insert_scale_factor = 0.1)', partition);
    EXECUTE format('ALTER TABLE run_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, d, d + 1);
    RETURN true;
END $$;

CREATE OR REPLACE FUNCTION ensure_event_partitions(days_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    made  integer := 0;
    d     date;
BEGIN
    FOR d IN SELECT today + n FROM generate_series(-1, days_ahead) AS n LOOP
        IF make_event_partition(d) THEN
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;

-- Takes the rows of archived runs out of a day that still has others: those of `keep` are copied over, the rest goes with
-- the old file, without a DELETE and its bloat. Locks this one old partition for the time of the copy, and gives up at
-- once (100 ms) when somebody reads it. Returns how many events were kept.
CREATE FUNCTION shrink_event_partition(d date, keep text[]) RETURNS bigint LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
DECLARE
    partition text := 'run_events_' || to_char(d, 'YYYYMMDD');
    kept      bigint;
BEGIN
    EXECUTE format('LOCK TABLE ONLY %I IN ACCESS EXCLUSIVE MODE', partition);
    EXECUTE format('CREATE TEMPORARY TABLE carried_events ON COMMIT DROP AS
                    SELECT * FROM %I WHERE run_id = ANY ($1)', partition) USING keep;
    EXECUTE format('TRUNCATE ONLY %I', partition);
    EXECUTE format('INSERT INTO %I SELECT * FROM carried_events', partition);
    GET DIAGNOSTICS kept = ROW_COUNT;
    DROP TABLE carried_events;
    RETURN kept;
END $$;
