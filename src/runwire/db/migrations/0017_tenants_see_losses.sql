-- The diagnosis of a run tells its tenant of workers that died with it, and of a node that blocks.
-- serves: 0002

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
