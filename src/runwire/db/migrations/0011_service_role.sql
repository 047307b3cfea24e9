-- A role that owns nothing may serve: it reads and writes rows, has new days made, and changes nothing else of the schema.
-- serves: 0002

-- Makes the days from yesterday on that the log lacks, and asks for nothing when it lacks none: so who may not make days
-- goes on while somebody else does. Returns how many there were.
CREATE OR REPLACE FUNCTION ensure_event_partitions(days_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    made  integer := 0;
    d     date;
BEGIN
    FOR d IN SELECT today + n FROM generate_series(-1, days_ahead) AS n LOOP
        IF NOT EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'run_events'::regclass
                       AND inhrelid = to_regclass('run_events_' || to_char(d, 'YYYYMMDD'))) THEN
            IF make_event_partition(d) THEN
                made := made + 1;
            END IF;
        END IF;
    END LOOP;
    RETURN made;
END $$;

-- Run by the owner of the tables, once for each role that serves, and again after migrations. It is about all tables that
-- the owner has in their schema. Not for archivers: they detach and drop days, which their owner alone may.
CREATE FUNCTION runwire_let_serve(service name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    home  oid;
    owner oid;
    t     record;
BEGIN
    SELECT c.relnamespace, c.relowner INTO home, owner FROM pg_class AS c WHERE c.oid = 'runs'::regclass;
    EXECUTE format('GRANT USAGE ON SCHEMA %s TO %I', home::regnamespace, service);
    FOR t IN SELECT c.oid::regclass AS name, c.relname, c.relrowsecurity FROM pg_class AS c
             WHERE c.relnamespace = home AND c.relowner = owner AND c.relkind IN ('r', 'p') AND NOT c.relispartition LOOP
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO %I', t.name, service);
        IF t.relrowsecurity AND NOT EXISTS (
            SELECT FROM pg_policy AS p WHERE p.polrelid = t.name AND p.polname = left('serves ' || service, 63)::name
        ) THEN
            EXECUTE format('CREATE POLICY %I ON %s TO %I USING (true) WITH CHECK (true)',
                           left('serves ' || service, 63), t.name, service);
        END IF;
    END LOOP;
    EXECUTE format('GRANT EXECUTE ON FUNCTION make_event_partition(date) TO %I', service);
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'runwire_tenant') THEN
        BEGIN
            EXECUTE format('GRANT runwire_tenant TO %I', service);
        EXCEPTION WHEN insufficient_privilege THEN
            RAISE NOTICE 'an administrator runs: GRANT runwire_tenant TO %', service;  -- needed once there are tenants
        END;
    END IF;
END $$;
REVOKE EXECUTE ON FUNCTION runwire_let_serve(name) FROM PUBLIC;
