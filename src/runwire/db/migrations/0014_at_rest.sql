-- Runs in nobody's hands: a cancelled one ends at once, whoever takes the request; signals live no longer than their run,
-- are bounded, and cost a claim nothing while nobody waits for them.
-- serves: 0002

ALTER TABLE runs ADD COLUMN woken boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN runs.woken IS 'The run waits, and the signal it waits for is there.';
CREATE INDEX runs_woken ON runs (agent) WHERE state = 'waiting' AND (woken OR cancel_requested_at IS NOT NULL);
CREATE INDEX runs_cancel_open ON runs (cancel_requested_at)
    WHERE cancel_requested_at IS NOT NULL AND state IN ('pending', 'started', 'waiting');

-- Held here, where every signal and every change of state comes by, whoever makes it.

-- A signal is for a run that is open. The run's row lock decides between it and the append by which the run begins to wait,
-- or ends: whichever is second sees the other.
CREATE FUNCTION run_signals_arrive() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    r record;
BEGIN
    SELECT state, waiting_for INTO r FROM runs WHERE run_id = NEW.run_id FOR NO KEY UPDATE;
    IF NOT FOUND OR r.state IN ('finished', 'failed', 'cancelled') THEN
        RETURN NULL;
    END IF;
    IF NOT EXISTS (SELECT FROM run_signals WHERE run_id = NEW.run_id AND name = NEW.name)
       AND (SELECT count(*) FROM run_signals WHERE run_id = NEW.run_id) >= 100 THEN
        RAISE EXCEPTION 'too many signals wait for run %', NEW.run_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'run_signals_bounded';
    END IF;
    IF r.state = 'waiting' AND r.waiting_for = NEW.name THEN
        UPDATE runs SET woken = true WHERE run_id = NEW.run_id;
    END IF;
    RETURN NEW;
END $$;
-- With the rights of the owner: who signals on behalf of a tenant may not write the run.
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION run_signals_arrive() SET search_path = %I, pg_temp',
                   (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'runs'::regclass));
END $$;
CREATE TRIGGER run_signals_arrive BEFORE INSERT ON run_signals FOR EACH ROW EXECUTE FUNCTION run_signals_arrive();

CREATE OR REPLACE FUNCTION runs_note_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'waiting' THEN
        NEW.waited_s := OLD.waited_s + greatest(extract(epoch FROM clock_timestamp() - OLD.waiting_since), 0);
    END IF;
    NEW.waiting_since := CASE WHEN NEW.state = 'waiting' THEN clock_timestamp() END;
    NEW.woken := NEW.state = 'waiting'
        AND EXISTS (SELECT FROM run_signals AS s WHERE s.run_id = NEW.run_id AND s.name = NEW.waiting_for);
    RETURN NEW;
END $$;

CREATE FUNCTION runs_forget_signals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM run_signals WHERE run_id = NEW.run_id;
    RETURN NULL;
END $$;
CREATE TRIGGER runs_ended AFTER UPDATE ON runs FOR EACH ROW
    WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL) EXECUTE FUNCTION runs_forget_signals();

DELETE FROM run_signals AS s USING runs AS r
WHERE r.run_id = s.run_id AND r.state IN ('finished', 'failed', 'cancelled');
UPDATE runs AS r SET woken = true
WHERE r.state = 'waiting' AND EXISTS (SELECT FROM run_signals AS s WHERE s.run_id = r.run_id AND s.name = r.waiting_for);

-- Ends a run whose cancellation was requested and that nobody walks: one that waits, one that is pending and in nobody's
-- hands (an external one has begun only with its first append), one whose worker let go of it or let its lease end. Its
-- last events, its state and its fence change together; who believed to have the run is fenced out. Returns no row, and
-- changes nothing, for any other run. `was` is the state before; `took_s` leaves out what it waited for signals.
CREATE FUNCTION cancel_at_rest(id text)
RETURNS TABLE (agent text, external boolean, was run_state, took_s double precision)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r      runs;
    now_us bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
    base   bigint;
BEGIN
    SELECT * INTO r FROM runs
    WHERE run_id = id AND cancel_requested_at IS NOT NULL
      AND (state = 'waiting'
           OR state = 'pending' AND (external OR lease_until IS NULL OR lease_until < now())
           OR state = 'started' AND NOT external AND lease_until < now())
    FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    base := r.last_seq;
    IF r.state = 'pending' THEN
        UPDATE runs SET state = 'started', started_at = now(), last_seq = 1 WHERE run_id = id;
        INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source)
        VALUES (r.run_day, id, 1, now_us, 'RunStarted', 'api');
        base := 1;
    ELSIF r.state = 'waiting' THEN
        UPDATE runs SET state = 'started', waiting_for = NULL WHERE run_id = id;
    END IF;
    INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, fn) VALUES
        (r.run_day, id, base + 1, now_us, 'DebugTrace', 'api', 'cancelRequested'),
        (r.run_day, id, base + 2, now_us, 'RunFinished', 'api', NULL);
    UPDATE runs SET state = 'cancelled', last_seq = base + 2, fence = fence + 1, finished_at = clock_timestamp(),
                    lease_owner = NULL, lease_until = NULL
    WHERE run_id = id;
    RETURN QUERY SELECT r.agent, r.external, r.state, greatest(
        extract(epoch FROM clock_timestamp() - r.created_at)::float8 - (SELECT waited_s FROM runs WHERE run_id = id), 0);
END $$;
