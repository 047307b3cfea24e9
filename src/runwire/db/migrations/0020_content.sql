-- Content of runs, beside their payload-free log: artifacts, and the bytes that they name.
-- serves: 0002

ALTER TABLE runs ADD COLUMN artifacts integer NOT NULL DEFAULT 0;
COMMENT ON COLUMN runs.artifacts IS 'Number of the run''s newest artifact, minted under this row''s lock by an append.';

-- Bytes, once for each tenant: no tenant shares a row with another, so none can learn of another''s content.
CREATE TABLE content_blobs (
    tenant  text        NOT NULL,
    sha256  bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    size    bigint      NOT NULL CHECK (size >= 0),
    data    bytea,
    object  text        UNIQUE,
    used_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, sha256),
    CONSTRAINT content_blobs_in_one_place CHECK ((data IS NULL) <> (object IS NULL)),
    CONSTRAINT content_blobs_inline CHECK (data IS NULL OR (octet_length(data) = size AND size <= 262144))
);
COMMENT ON COLUMN content_blobs.object IS 'Path below the content store''s URL, never used twice. NULL: the bytes are in data.';
COMMENT ON COLUMN content_blobs.used_at IS 'When an artifact was last made of it. The collector''s grace counts from here.';
CREATE INDEX content_blobs_unused ON content_blobs (used_at);

-- Objects in the store that no blob has: an upload under way or left behind, or one to be deleted. The row comes before
-- the object and goes after it, so a crash loses neither.
CREATE TABLE content_objects (
    object    text        PRIMARY KEY,
    tenant    text        NOT NULL,
    size      bigint      NOT NULL,
    begun_at  timestamptz NOT NULL DEFAULT now(),
    condemned boolean     NOT NULL DEFAULT false
);
COMMENT ON COLUMN content_objects.condemned IS 'No artifact can be made of it any more: the collector deletes it.';
CREATE INDEX content_objects_by_age ON content_objects (condemned, begun_at);

-- The foreign key is the promise that no reference dangles: a blob goes only when nothing refers to it.
CREATE TABLE artifacts (
    run_id     text        NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    n          integer     NOT NULL CHECK (n >= 1),
    tenant     text        NOT NULL,
    name       text        NOT NULL CHECK (octet_length(name) <= 128),
    media_type text        NOT NULL CHECK (octet_length(media_type) <= 128),
    size       bigint      NOT NULL CHECK (size >= 0),
    sha256     bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    seq        bigint      NOT NULL CHECK (seq >= 1),
    erased_at  timestamptz,
    PRIMARY KEY (run_id, n),
    CONSTRAINT artifacts_blob FOREIGN KEY (tenant, sha256) REFERENCES content_blobs (tenant, sha256),
    CONSTRAINT artifacts_erased CHECK ((erased_at IS NULL) = (sha256 IS NOT NULL))
);
COMMENT ON COLUMN artifacts.seq IS 'Of the event artifact:<name>:<n>, which was stored in the same transaction.';
COMMENT ON COLUMN artifacts.erased_at IS 'A tombstone from here on: the number stays taken, and the bytes are gone.';
CREATE INDEX artifacts_of_blob ON artifacts (tenant, sha256) WHERE sha256 IS NOT NULL;
CREATE INDEX artifacts_by_age ON artifacts (created_at) WHERE sha256 IS NOT NULL;

-- Bytes of each tenant, in slots, so that two sessions seldom write the same row. The sum of the slots is exact.
CREATE TABLE content_usage (
    tenant text     NOT NULL,
    slot   smallint NOT NULL,
    bytes  bigint   NOT NULL,
    PRIMARY KEY (tenant, slot)
) WITH (fillfactor = 50);

CREATE FUNCTION content_blobs_added() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO content_usage AS u (tenant, slot, bytes)
    SELECT tenant, pg_backend_pid() % 16, sum(size) FROM changed GROUP BY tenant ORDER BY tenant
    ON CONFLICT (tenant, slot) DO UPDATE SET bytes = u.bytes + excluded.bytes;
    RETURN NULL;
END $$;
CREATE TRIGGER content_blobs_added AFTER INSERT ON content_blobs REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION content_blobs_added();

CREATE FUNCTION content_blobs_removed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO content_usage AS u (tenant, slot, bytes)
    SELECT tenant, pg_backend_pid() % 16, -sum(size) FROM changed GROUP BY tenant ORDER BY tenant
    ON CONFLICT (tenant, slot) DO UPDATE SET bytes = u.bytes + excluded.bytes;
    RETURN NULL;
END $$;
CREATE TRIGGER content_blobs_removed AFTER DELETE ON content_blobs REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION content_blobs_removed();

ALTER TABLE content_blobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE content_objects ENABLE ROW LEVEL SECURITY;
ALTER TABLE artifacts ENABLE ROW LEVEL SECURITY;
ALTER TABLE content_usage ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_tenant ON content_blobs
    USING (tenant = current_setting('runwire.tenant', true) AND tenant <> '');
CREATE POLICY of_tenant ON content_objects
    USING (tenant = current_setting('runwire.tenant', true) AND tenant <> '');
CREATE POLICY of_tenant ON artifacts
    USING (tenant = current_setting('runwire.tenant', true) AND tenant <> '');
CREATE POLICY of_tenant ON content_usage
    USING (tenant = current_setting('runwire.tenant', true) AND tenant <> '');

-- What the API does with content for tenants: look, and erase. It stores on behalf of a run, whose tenant the run has.
CREATE FUNCTION runwire_isolate_content() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    GRANT SELECT ON artifacts, content_blobs TO runwire_tenant;
    GRANT UPDATE (sha256, erased_at) ON artifacts TO runwire_tenant;
END $$;

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'runwire_tenant') THEN
        PERFORM runwire_isolate_content();
    END IF;
END $$;
