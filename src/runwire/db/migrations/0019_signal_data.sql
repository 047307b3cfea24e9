-- Signals may carry data and an id, a run may wait for one of several, and timers end waits. All of it is content or
-- durable time: data stands beside the state, due times are on the clock of this database.
-- serves: 0002

ALTER TABLE runs ADD COLUMN wake_at timestamptz;
COMMENT ON COLUMN runs.wake_at IS 'While the run waits: when its timer is due, by this database''s clock.';
COMMENT ON COLUMN runs.waiting_for IS 'Names of signals, separated by blanks; empty for a run that only sleeps.';
COMMENT ON COLUMN runs.woken IS 'The run waits, and a signal it waits for is there. Of an external run: it has signals.';
CREATE INDEX runs_timers ON runs (agent, wake_at) WHERE state = 'waiting' AND wake_at IS NOT NULL;
CREATE INDEX runs_timers_due ON runs (wake_at) WHERE state = 'waiting' AND wake_at IS NOT NULL;

ALTER TABLE run_checkpoints ADD COLUMN on_timeout text;
COMMENT ON COLUMN run_checkpoints.on_timeout IS 'Where the run goes on when its timer is due before a signal.';

ALTER TABLE run_signals
    ADD COLUMN n         bigint,
    ADD COLUMN signal    text,
    ADD COLUMN signal_id text CHECK (octet_length(signal_id) <= 128),
    ADD COLUMN data      bytea CHECK (octet_length(data) <= 65536),
    ADD COLUMN digest    bytea,
    ADD COLUMN taken_at  timestamptz,
    ADD COLUMN taken_for bigint;
COMMENT ON COLUMN run_signals.name IS 'Of a signal without id that nobody has taken: its name, so that it counts once.';
COMMENT ON COLUMN run_signals.n IS 'Order of arrival at the run, from 1.';
COMMENT ON COLUMN run_signals.data IS 'JSON, UTF-8. Content: it goes when the run waits again or is over.';
COMMENT ON COLUMN run_signals.digest IS 'Of name and data, so that a repeat of an id is known.';
COMMENT ON COLUMN run_signals.taken_for IS 'Seq of the checkpoint from which the run went on with it.';
UPDATE run_signals AS s SET signal = s.name, n = o.n
FROM (SELECT run_id, name, row_number() OVER (PARTITION BY run_id ORDER BY sent_at, name) AS n FROM run_signals) AS o
WHERE o.run_id = s.run_id AND o.name = s.name;
CREATE INDEX run_signals_order ON run_signals (run_id, n);
CREATE UNIQUE INDEX run_signals_ids ON run_signals (run_id, signal_id) WHERE signal_id IS NOT NULL;
CREATE INDEX run_signals_waiting ON run_signals (sent_at) WHERE taken_at IS NULL;

-- As before; a signal with an id has a row of its own, and is known by its id until its run is gone.
CREATE OR REPLACE FUNCTION run_signals_arrive() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    r     record;
    known record;
BEGIN
    SELECT state, external, waiting_for INTO r FROM runs WHERE run_id = NEW.run_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    NEW.signal := NEW.name;
    IF NEW.signal_id IS NOT NULL THEN
        SELECT digest INTO known FROM run_signals WHERE run_id = NEW.run_id AND signal_id = NEW.signal_id;
        IF FOUND THEN
            IF known.digest IS DISTINCT FROM NEW.digest THEN
                RAISE EXCEPTION 'run % has another signal with this id', NEW.run_id
                    USING ERRCODE = 'check_violation', CONSTRAINT = 'run_signals_id';
            END IF;
            RETURN NULL;
        END IF;
    END IF;
    IF r.state IN ('finished', 'failed', 'cancelled') THEN
        RETURN NULL;
    END IF;
    IF (NEW.signal_id IS NOT NULL
        OR NOT EXISTS (SELECT FROM run_signals WHERE run_id = NEW.run_id AND name = NEW.name))
       AND (SELECT count(*) FROM run_signals WHERE run_id = NEW.run_id AND taken_at IS NULL) >= 100 THEN
        RAISE EXCEPTION 'too many signals wait for run %', NEW.run_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'run_signals_bounded';
    END IF;
    NEW.n := coalesce((SELECT max(n) FROM run_signals WHERE run_id = NEW.run_id), 0) + 1;
    IF NEW.signal_id IS NOT NULL THEN
        NEW.name := '#' || NEW.n;  -- no signal has such a name
    END IF;
    IF r.external OR (r.state = 'waiting' AND NEW.signal = ANY (string_to_array(r.waiting_for, ' '))) THEN
        UPDATE runs SET woken = true WHERE run_id = NEW.run_id AND NOT woken;
    END IF;
    RETURN NEW;
END $$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION run_signals_arrive() SET search_path = %I, pg_temp',
                   (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'runs'::regclass));
END $$;

CREATE OR REPLACE FUNCTION runs_note_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'waiting' THEN
        NEW.waited_s := OLD.waited_s + greatest(extract(epoch FROM clock_timestamp() - OLD.waiting_since), 0);
        NEW.wake_at := NULL;
    END IF;
    NEW.waiting_since := CASE WHEN NEW.state = 'waiting' THEN clock_timestamp() END;
    NEW.woken := NEW.state = 'waiting'
        AND EXISTS (SELECT FROM run_signals AS s WHERE s.run_id = NEW.run_id AND s.taken_at IS NULL
                    AND s.signal = ANY (string_to_array(NEW.waiting_for, ' ')));
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION runs_forget_signals() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM run_signals WHERE run_id = NEW.run_id AND signal_id IS NULL;
    UPDATE run_signals SET data = NULL, taken_at = coalesce(taken_at, now())
    WHERE run_id = NEW.run_id AND (data IS NOT NULL OR taken_at IS NULL);
    RETURN NULL;
END $$;

-- Forgets what a run took before: those without an id, the data of the others, and ids but for the last thousand. The newest
-- row stays, without data: the next number follows from it.
CREATE FUNCTION forget_taken_signals(id text) RETURNS void LANGUAGE sql AS $$
    DELETE FROM run_signals AS s USING (SELECT max(n) AS n FROM run_signals WHERE run_id = id) AS newest
    WHERE s.run_id = id AND s.taken_at IS NOT NULL
      AND s.n < CASE WHEN s.signal_id IS NULL THEN newest.n ELSE newest.n - 1000 END;
    UPDATE run_signals SET data = NULL WHERE run_id = id AND taken_at IS NOT NULL AND data IS NOT NULL;
$$;

-- Where a run that was just claimed goes on: its checkpoint, and the signal that it went on with. For one that waited
-- (`waited_for` is not NULL) it decides, under the lock of the run's row that its caller holds: the oldest signal it waited
-- for, or else its timer. A volatile function sees what was committed before it got that lock. The decision is stored, so
-- a worker that resumes the run goes on from the same.
CREATE FUNCTION resume_point(id text, waited_for text, due timestamptz)
RETURNS TABLE (next_node text, state bytea, signal text, signal_data bytea, signal_id text)
LANGUAGE plpgsql VOLATILE ROWS 1 AS $$
#variable_conflict use_column
DECLARE
    came bigint;
BEGIN
    IF id IS NULL THEN
        RETURN;
    END IF;
    IF waited_for IS NOT NULL THEN
        PERFORM forget_taken_signals(id);
        SELECT s.n INTO came FROM run_signals AS s
        WHERE s.run_id = id AND s.taken_at IS NULL AND s.signal = ANY (string_to_array(waited_for, ' '))
        ORDER BY s.n LIMIT 1;
        IF FOUND THEN
            UPDATE run_signals AS s SET name = '#' || s.n, taken_at = clock_timestamp(),
                taken_for = (SELECT c.seq FROM run_checkpoints AS c WHERE c.run_id = id)
            WHERE s.run_id = id AND s.n = came;
        ELSIF due IS NOT NULL THEN
            UPDATE run_checkpoints AS c SET next_node = c.on_timeout WHERE c.run_id = id AND c.on_timeout IS NOT NULL;
        END IF;
    END IF;
    RETURN QUERY SELECT c.next_node, c.state, s.signal, s.data, s.signal_id
        FROM run_checkpoints AS c LEFT JOIN run_signals AS s ON s.run_id = c.run_id AND s.taken_for = c.seq
        WHERE c.run_id = id;
END $$;

-- The signals of an external run that its orchestrator has not acknowledged, oldest first, at most 256 KiB of data but at
-- least one; those up to number `taken` are acknowledged first. Its row's lock is held, so none is missed.
CREATE FUNCTION external_signals(id text, taken bigint)
RETURNS TABLE (n bigint, signal text, data bytea, signal_id text)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
BEGIN
    PERFORM FROM runs WHERE run_id = id AND external FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    UPDATE run_signals AS s SET name = '#' || s.n, taken_at = clock_timestamp()
    WHERE s.run_id = id AND s.taken_at IS NULL AND s.n <= taken;
    IF FOUND THEN
        PERFORM forget_taken_signals(id);
        UPDATE runs SET woken = EXISTS (SELECT FROM run_signals AS s WHERE s.run_id = id AND s.taken_at IS NULL)
        WHERE run_id = id AND woken;
    END IF;
    RETURN QUERY SELECT w.n, w.signal, w.data, w.signal_id
        FROM (SELECT s.*, sum(coalesce(octet_length(s.data), 0)) OVER (ORDER BY s.n) - coalesce(octet_length(s.data), 0)
                  AS before
              FROM run_signals AS s WHERE s.run_id = id AND s.taken_at IS NULL) AS w
        WHERE w.before <= 196608 ORDER BY w.n;
END $$;

CREATE OR REPLACE FUNCTION runwire_isolate_tenants() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    me text := current_setting('role');
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('runwire.tenants'));
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'runwire_tenant') THEN
        BEGIN
            CREATE ROLE runwire_tenant NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;  -- roles belong to the whole server: another database's migration was first
        END;
    END IF;
    BEGIN
        PERFORM set_config('role', 'runwire_tenant', true);
        PERFORM set_config('role', me, true);
    EXCEPTION WHEN insufficient_privilege THEN
        GRANT runwire_tenant TO CURRENT_USER;
    END;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO runwire_tenant',
                   (SELECT n.nspname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
                    WHERE c.oid = 'runs'::regclass));
    GRANT SELECT ON runs, run_events, run_outbox, run_checkpoints, run_signals, run_losses, run_blocks
        TO runwire_tenant;
    GRANT INSERT (run_id, tenant, agent, external, fence, lease_owner, lease_until, lease_s, traceparent,
                  idempotency_key, request_hash, input, session, labels) ON runs TO runwire_tenant;
    GRANT UPDATE (cancel_requested_at) ON runs TO runwire_tenant;
    GRANT INSERT (run_id, run_day, traceparent) ON run_outbox TO runwire_tenant;
    GRANT INSERT (run_id, name, signal_id, data, digest), UPDATE (sent_at, data) ON run_signals
        TO runwire_tenant;
END $$;

-- A server that refuses roles is no obstacle to those who have one tenant: `serve` says so when there are more.
DO $$ BEGIN
    PERFORM runwire_isolate_tenants();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the role runwire_tenant cannot be made by this user; it is needed once there are tenants';
END $$;
