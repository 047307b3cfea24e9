-- Runs, their event log, the outbox and checkpoints. The invariants of the pipeline are held here.

CREATE TYPE run_state AS ENUM ('pending', 'started', 'waiting', 'finished', 'failed', 'cancelled');
CREATE TYPE event_type AS ENUM ('RunStarted', 'NodeStarted', 'DebugTrace', 'NodeFinished', 'RunFinished');
CREATE TYPE event_source AS ENUM ('api', 'worker');

-- A domain, not a CHECK of the table: it is looked at when an id is stored, not at every append to its run.
CREATE DOMAIN run_identifier AS text CHECK (VALUE ~ '^[A-Za-z0-9._:-]{1,128}$');

CREATE TABLE runs (
    run_id              run_identifier PRIMARY KEY,
    run_day             date        NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    tenant              text        NOT NULL DEFAULT 'default',
    agent               text        NOT NULL,
    state               run_state   NOT NULL DEFAULT 'pending',
    external            boolean     NOT NULL DEFAULT false,
    last_seq            bigint      NOT NULL DEFAULT 0 CHECK (last_seq >= 0),
    attempt             integer     NOT NULL DEFAULT 0,
    fence               bigint      NOT NULL DEFAULT 0,
    lease_owner         text,
    lease_until         timestamptz,
    lease_s             real        NOT NULL DEFAULT 30,
    waiting_for         text,
    cancel_requested_at timestamptz,
    created_at          timestamptz NOT NULL DEFAULT now(),
    started_at          timestamptz,
    finished_at         timestamptz,
    error_code          text,
    traceparent         text,
    idempotency_key     text,
    request_hash        bytea       NOT NULL,
    input               bytea       NOT NULL,
    -- A log has events exactly when its run has started, and a closed run says when it ended.
    CHECK ((state = 'pending') = (last_seq = 0)),
    CHECK ((state = 'pending') = (started_at IS NULL)),
    CHECK ((state IN ('finished', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
    CHECK ((state = 'waiting') = (waiting_for IS NOT NULL))
) WITH (fillfactor = 60);
COMMENT ON COLUMN runs.last_seq IS 'Newest seq of the log; every append moves it under this row''s lock, so seq is dense.';
COMMENT ON COLUMN runs.fence IS 'Raised by every claim; an append with a lower one is refused.';

CREATE UNIQUE INDEX runs_idempotency ON runs (tenant, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX runs_listed ON runs (tenant, created_at DESC, run_id DESC);
CREATE INDEX runs_pending ON runs (created_at) WHERE state = 'pending';
CREATE INDEX runs_leased ON runs (lease_until) WHERE state = 'started';
CREATE INDEX runs_external_pending ON runs (lease_until) WHERE state = 'pending' AND external;
CREATE INDEX runs_waiting ON runs (run_id) WHERE state = 'waiting';

-- A terminal state is set once, and no state is reached but by a legal transition.
CREATE FUNCTION runs_check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT ((OLD.state = 'pending' AND NEW.state = 'started')
         OR (OLD.state = 'started' AND NEW.state IN ('waiting', 'finished', 'failed', 'cancelled'))
         OR (OLD.state = 'waiting' AND NEW.state = 'started')) THEN
        RAISE EXCEPTION 'illegal transition of run %: % -> %', OLD.run_id, OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'runs_transition';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER runs_transition BEFORE UPDATE ON runs FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION runs_check_transition();

-- Append-only. Partitioned by the day the run was created, which never changes, so that a run's events live in one
-- partition, (run, seq) is unique, and retention drops partitions.
CREATE TABLE run_events (
    run_day date         NOT NULL,
    seq     bigint       NOT NULL CHECK (seq >= 1),
    ts_us   bigint       NOT NULL,
    type    event_type   NOT NULL,
    source  event_source NOT NULL,
    v       smallint     NOT NULL DEFAULT 1 CHECK (v = 1),
    run_id  text         NOT NULL,
    name    text         CHECK (octet_length(name) <= 128),
    fn      text         CHECK (octet_length(fn) <= 256),
    PRIMARY KEY (run_day, run_id, seq),
    CONSTRAINT run_events_started_first CHECK ((seq = 1) = (type = 'RunStarted')),
    CONSTRAINT run_events_name CHECK ((name IS NOT NULL) = (type IN ('NodeStarted', 'NodeFinished'))),
    CONSTRAINT run_events_fn CHECK ((fn IS NOT NULL) = (type = 'DebugTrace'))
) PARTITION BY RANGE (run_day);
COMMENT ON COLUMN run_events.ts_us IS 'Microseconds since the Unix epoch by this database''s clock, at the append.';
CREATE UNIQUE INDEX run_events_one_terminal ON run_events (run_day, run_id) WHERE type = 'RunFinished';

-- Makes the partitions for today and the days that follow; returns how many were missing.
CREATE FUNCTION ensure_event_partitions(days_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    made  integer := 0;
    d     date;
BEGIN
    FOR d IN SELECT today + n FROM generate_series(-1, days_ahead) AS n LOOP
        IF to_regclass('run_events_' || to_char(d, 'YYYYMMDD')) IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtext('runwire.partitions'));
            EXECUTE format('CREATE TABLE IF NOT EXISTS %I PARTITION OF run_events FOR VALUES FROM (%L) TO (%L)
                            WITH (autovacuum_vacuum_insert_scale_factor = 0.1)',
                           'run_events_' || to_char(d, 'YYYYMMDD'), d, d + 1);
            made := made + 1;
        END IF;
    END LOOP;
    RETURN made;
END $$;
SELECT ensure_event_partitions(7);

-- How far each open run is published. The row goes when the terminal event is published, so finished runs cost nothing.
CREATE TABLE run_outbox (
    run_id      text        PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    run_day     date        NOT NULL,
    next_seq    bigint      NOT NULL DEFAULT 1 CHECK (next_seq >= 1),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    traceparent text
) WITH (fillfactor = 60);

COMMENT ON COLUMN run_outbox.traceparent IS 'Of sampled runs only: who publishes them makes a span.';

-- Where a run goes on after a crash: written in the transaction of NodeFinished.
CREATE TABLE run_checkpoints (
    run_id    text   PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    seq       bigint NOT NULL,
    node      text,
    next_node text   NOT NULL,
    state     bytea  NOT NULL
) WITH (fillfactor = 60);
COMMENT ON COLUMN run_checkpoints.state IS 'JSON, UTF-8: convert_from(state, ''UTF8'')::json shows it.';

-- Signals outlive the moment they are sent: one that comes before its run waits is kept.
CREATE TABLE run_signals (
    run_id  text        NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    name    text        NOT NULL CHECK (octet_length(name) <= 128),
    sent_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (run_id, name)
);
