-- Tenants see their own rows only. What runs on behalf of a tenant takes the role runwire_tenant and sets
-- runwire.tenant, both for one transaction. The owner of the tables, as whom everything internal runs, is not subject to
-- the policies; any other role that may read the tables at all sees nothing without naming a tenant.
-- serves: 0002

CREATE TABLE service_secrets (
    name  text  PRIMARY KEY,
    value bytea NOT NULL
);
COMMENT ON TABLE service_secrets IS 'Keys that processes share, of stream tickets among them: not for any other role.';

ALTER TABLE runs ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_events ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_outbox ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE run_signals ENABLE ROW LEVEL SECURITY;
ALTER TABLE service_secrets ENABLE ROW LEVEL SECURITY;

-- Without the setting current_setting is NULL and no row passes; an empty one is nobody's.
CREATE POLICY of_tenant ON runs
    USING (tenant = current_setting('runwire.tenant', true) AND tenant <> '')
    WITH CHECK (tenant = current_setting('runwire.tenant', true) AND tenant <> '');

-- The run is looked up as the same role, so what a tenant sees of a run is what it sees of its rows here.
CREATE POLICY of_visible_run ON run_events
    USING (EXISTS (SELECT FROM runs AS r WHERE r.run_id = run_events.run_id));
CREATE POLICY of_visible_run ON run_outbox
    USING (EXISTS (SELECT FROM runs AS r WHERE r.run_id = run_outbox.run_id));
CREATE POLICY of_visible_run ON run_checkpoints
    USING (EXISTS (SELECT FROM runs AS r WHERE r.run_id = run_checkpoints.run_id));
CREATE POLICY of_visible_run ON run_signals
    USING (EXISTS (SELECT FROM runs AS r WHERE r.run_id = run_signals.run_id));

-- Makes the role if it is missing, lets the current user take it, and gives it what the API does for tenants: start,
-- look, ask to cancel, signal. Fails with insufficient_privilege where an administrator has to do the first two.
CREATE FUNCTION runwire_isolate_tenants() RETURNS void LANGUAGE plpgsql AS $$
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
    GRANT SELECT ON runs, run_events, run_outbox, run_checkpoints, run_signals TO runwire_tenant;
    GRANT INSERT (run_id, tenant, agent, external, fence, lease_owner, lease_until, lease_s, traceparent,
                  idempotency_key, request_hash, input) ON runs TO runwire_tenant;
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
