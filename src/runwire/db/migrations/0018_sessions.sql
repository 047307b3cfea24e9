-- Runs have a session and labels, and lists of runs are found by them, by error code and by end.
-- serves: 0002

ALTER TABLE runs ADD COLUMN session run_identifier, ADD COLUMN labels jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN runs.session IS 'The conversation the run belongs to, as its caller named it. It never changes.';
COMMENT ON COLUMN runs.labels IS 'Texts by key, as the start gave them. They never change; run_labels has them for look-ups.';

-- One row for each label of a run, kept by the triggers below. A run without labels costs a comparison.
CREATE TABLE run_labels (
    run_id      text        NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    key         text        NOT NULL CHECK (octet_length(key) BETWEEN 1 AND 63),
    value       text        NOT NULL CHECK (octet_length(value) <= 256),
    tenant      text        NOT NULL,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz,
    PRIMARY KEY (run_id, key)
);
ALTER TABLE run_labels ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON run_labels
    USING (tenant = current_setting('runwire.tenant', true) AND tenant <> '')
    WITH CHECK (tenant = current_setting('runwire.tenant', true) AND tenant <> '');

CREATE FUNCTION runs_label() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        UPDATE run_labels SET finished_at = NEW.finished_at WHERE run_id = NEW.run_id;
    ELSE
        IF (SELECT count(*) FROM jsonb_object_keys(NEW.labels)) > 16 THEN
            RAISE EXCEPTION 'run % has more than 16 labels', NEW.run_id
                USING ERRCODE = 'check_violation', CONSTRAINT = 'runs_labels_bounded';
        END IF;
        INSERT INTO run_labels (run_id, key, value, tenant, created_at, finished_at)
        SELECT NEW.run_id, l.key, l.value, NEW.tenant, NEW.created_at, NEW.finished_at
        FROM jsonb_each_text(NEW.labels) AS l;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER runs_label AFTER INSERT ON runs FOR EACH ROW
    WHEN (NEW.labels <> '{}') EXECUTE FUNCTION runs_label();
CREATE TRIGGER runs_label_end AFTER UPDATE OF finished_at ON runs FOR EACH ROW
    WHEN (NEW.labels <> '{}' AND OLD.finished_at IS DISTINCT FROM NEW.finished_at) EXECUTE FUNCTION runs_label();

CREATE INDEX run_labels_listed ON run_labels (tenant, key, value, created_at DESC, run_id DESC);
CREATE INDEX run_labels_ended ON run_labels (tenant, key, value, finished_at DESC, run_id DESC)
    WHERE finished_at IS NOT NULL;
CREATE INDEX runs_listed_by_session ON runs (tenant, session, created_at DESC, run_id DESC) WHERE session IS NOT NULL;
CREATE INDEX runs_ended_by_session ON runs (tenant, session, finished_at DESC, run_id DESC)
    WHERE session IS NOT NULL AND finished_at IS NOT NULL;
CREATE INDEX runs_listed_by_error ON runs (tenant, error_code, created_at DESC, run_id DESC)
    WHERE error_code IS NOT NULL;
CREATE INDEX runs_ended_by_error ON runs (tenant, error_code, finished_at DESC, run_id DESC)
    WHERE error_code IS NOT NULL AND finished_at IS NOT NULL;
CREATE INDEX runs_ended ON runs (tenant, finished_at DESC, run_id DESC) WHERE finished_at IS NOT NULL;

-- The ids of the runs `t` has that match, the latest created or ended (`by_end`) first, after (`before`, `before_id`).
-- It walks one index, that of the narrowest filter, and looks at `scan_max` runs at most. When it stops there, its last
-- row is not `matched`: the list goes on after it. As the owner of the tables, and never for another tenant than the one
-- its caller acts for: see list_runs. A plan is made for each call, and may neither sort nor read a whole table.
CREATE FUNCTION find_runs(
    t text, by_end boolean, of_session text, of_labels jsonb, of_agent text, wanted run_state, of_error text,
    since timestamptz, until timestamptz, before timestamptz, before_id text, at_most integer, scan_max integer
) RETURNS TABLE (id text, at timestamptz, matched boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 50
SET enable_sort = off SET enable_incremental_sort = off SET enable_bitmapscan = off SET enable_seqscan = off
SET search_path FROM CURRENT AS $$
DECLARE
    acting  text := nullif(current_setting('runwire.tenant', true), '');
    moment  text := CASE WHEN by_end THEN 'finished_at' ELSE 'created_at' END;
    scanned integer := 0;
    given   integer := 0;
    k       text;
    v       text;
    source  text;
BEGIN
    IF acting IS NOT NULL AND acting <> t OR NOT has_table_privilege(session_user, 'runs', 'SELECT') THEN
        RETURN;
    END IF;
    IF until IS NOT NULL AND NOT by_end AND until <= before THEN
        before := until;
        before_id := '';
    END IF;
    IF NOT by_end AND of_session IS NULL AND of_labels = '{}' AND of_error IS NULL THEN
        RETURN QUERY
            SELECT r.run_id::text, r.created_at, true FROM runs AS r
            WHERE r.run_id = ANY (ARRAY(SELECT list_runs(t, wanted, of_agent, before, before_id, at_most)))
              AND (since IS NULL OR r.created_at >= since);
        RETURN;
    END IF;
    IF of_session IS NOT NULL THEN
        source := 'runs AS d WHERE d.tenant = $1 AND d.session = $2';
    ELSIF of_labels <> '{}' THEN
        -- The rarest of the labels, as far as a thousand runs tell.
        SELECT l.key, l.value INTO k, v FROM jsonb_each_text(of_labels) AS l
        ORDER BY (SELECT count(*) FROM (SELECT FROM run_labels AS few
                                        WHERE few.tenant = t AND few.key = l.key AND few.value = l.value
                                        LIMIT 1000) AS counted), l.key
        LIMIT 1;
        source := 'run_labels AS d WHERE d.tenant = $1 AND d.key = $3 AND d.value = $4';
    ELSIF of_error IS NOT NULL THEN
        source := 'runs AS d WHERE d.tenant = $1 AND d.error_code = $5';
    ELSE
        source := 'runs AS d WHERE d.tenant = $1';
    END IF;
    FOR id, at, matched IN EXECUTE format(
        'SELECT d.run_id::text, d.%1$I,
                (SELECT ($2 IS NULL OR r.session = $2) AND r.labels @> $6 AND ($7 IS NULL OR r.agent = $7)
                        AND ($8 IS NULL OR r.state = $8) AND ($5 IS NULL OR r.error_code = $5)
                        AND ($9 IS NULL OR r.created_at >= $9) AND ($10 IS NULL OR r.created_at < $10)
                 FROM runs AS r WHERE r.run_id = d.run_id)
         FROM %2$s AND d.%1$I IS NOT NULL AND ($9 IS NULL OR d.%1$I >= $9) AND (d.%1$I, d.run_id) < ($11, $12)
         ORDER BY d.%1$I DESC, d.run_id DESC LIMIT $13', moment, source)
        USING t, of_session, k, v, of_error, of_labels, of_agent, wanted, since, until, before, before_id, scan_max
    LOOP
        scanned := scanned + 1;
        IF matched THEN
            given := given + 1;
            RETURN NEXT;
            EXIT WHEN given = at_most;
        END IF;
        IF scanned = scan_max THEN
            matched := false;
            RETURN NEXT;
        END IF;
    END LOOP;
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
    GRANT INSERT (run_id, name), UPDATE (sent_at) ON run_signals TO runwire_tenant;
END $$;

-- A server that refuses roles is no obstacle to those who have one tenant: `serve` says so when there are more.
DO $$ BEGIN
    PERFORM runwire_isolate_tenants();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the role runwire_tenant cannot be made by this user; it is needed once there are tenants';
END $$;
