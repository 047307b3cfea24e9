-- Open runs in which nothing happens cost nothing: they are parked in the outbox, where nobody looks at them, until
-- something is appended. Code that knows nothing of it sees an outbox as it always was.
-- serves: 0002

ALTER TABLE run_outbox ADD COLUMN parked boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN run_outbox.parked IS 'The run is published to its end and silent: sweeps and the observer pass it over.';
CREATE INDEX run_outbox_live ON run_outbox (run_id) WHERE NOT parked;

ALTER TABLE runs ADD COLUMN parked_seq bigint;
COMMENT ON COLUMN runs.parked_seq IS 'While equal to last_seq the run is parked: what is appended next wakes it.';

-- Held here, where every append comes by, whoever makes it; but for parked runs it costs a comparison.
CREATE FUNCTION runs_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE run_outbox SET parked = false WHERE run_id = NEW.run_id AND parked;
    RETURN NULL;
END $$;
CREATE TRIGGER runs_wake AFTER UPDATE ON runs FOR EACH ROW
    WHEN (OLD.parked_seq = OLD.last_seq AND NEW.last_seq > OLD.last_seq)
    EXECUTE FUNCTION runs_wake();

-- Waiting runs are looked at when there is a reason to, however many wait.
CREATE INDEX runs_waiting_cancelled ON runs (run_id) WHERE state = 'waiting' AND cancel_requested_at IS NOT NULL;

-- The oldest of each state, for the observer.
CREATE INDEX runs_oldest_started
    ON runs ((started_at - timestamptz '2000-01-01 00:00:00+00' + waited_s * interval '1 second'))
    WHERE state = 'started';
CREATE INDEX runs_oldest_waiting ON runs (waiting_since) WHERE state = 'waiting';
