-- Positions of clients in streams of many runs: an id of such a stream names one, and the steps since.
-- serves: 0002

CREATE TABLE stream_checkpoints (
    key       bigint PRIMARY KEY,
    tenant    text   NOT NULL,
    selector  bytea  NOT NULL,
    since_us  bigint NOT NULL,
    roster    bigint,
    runs      text[],
    positions bytea  NOT NULL,
    CONSTRAINT stream_checkpoints_runs CHECK ((roster IS NULL) = (runs IS NOT NULL))
);
COMMENT ON TABLE stream_checkpoints IS 'Written once, read when a client comes back, collected by age: keys begin with their time.';
COMMENT ON COLUMN stream_checkpoints.tenant IS 'Empty where tenants are off.';
COMMENT ON COLUMN stream_checkpoints.roster IS 'The checkpoint that has the list of the same runs.';

ALTER TABLE stream_checkpoints ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON stream_checkpoints
    USING (tenant = current_setting('runwire.tenant', true) AND tenant <> '')
    WITH CHECK (tenant = current_setting('runwire.tenant', true) AND tenant <> '');

CREATE FUNCTION runwire_isolate_streams() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    GRANT SELECT ON stream_checkpoints TO runwire_tenant;
END $$;
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'runwire_tenant') THEN
        PERFORM runwire_isolate_streams();
    END IF;
END $$;
