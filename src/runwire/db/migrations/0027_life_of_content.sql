-- The life of content: all of it is counted, ends with its time, and is found without reading whole tables.
-- serves: 0002

-- Parts that have their own bytes: open ones, abandoned ones, and those that were sealed without an artifact.
ALTER TABLE parts
    ADD COLUMN tenant    text,
    ADD COLUMN opened_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN erased_at timestamptz;
COMMENT ON COLUMN parts.opened_at IS 'Of the first attempt.';
COMMENT ON COLUMN parts.erased_at IS 'The bytes of a part without an artifact are gone from here on; its size stays.';
UPDATE parts AS p SET tenant = r.tenant FROM runs AS r WHERE r.run_id = p.run_id;
ALTER TABLE parts
    ALTER COLUMN tenant SET NOT NULL,
    ADD CONSTRAINT parts_erased CHECK (
        erased_at IS NULL OR (state <> 'open' AND artifact IS NULL AND octet_length(coalesce(tail, '')) = 0));

-- No column of these indexes or of their conditions changes when a part grows: its row still grows in place (HOT).
CREATE INDEX parts_kept ON parts (opened_at) WHERE artifact IS NULL AND erased_at IS NULL;
CREATE INDEX parts_open ON parts (tenant) WHERE state = 'open';

CREATE FUNCTION parts_of_tenant() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT r.tenant INTO NEW.tenant FROM runs AS r WHERE r.run_id = NEW.run_id;
    RETURN NEW;
END $$;
CREATE TRIGGER parts_of_tenant BEFORE INSERT ON parts FOR EACH ROW EXECUTE FUNCTION parts_of_tenant();

-- The usage of a tenant has the bytes of its parts from their end on. A part that grows writes no usage.
CREATE FUNCTION parts_counted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change bigint := 0;
BEGIN
    IF OLD.state <> 'open' AND OLD.artifact IS NULL AND OLD.erased_at IS NULL THEN
        change := -OLD.size;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.state <> 'open' AND NEW.artifact IS NULL AND NEW.erased_at IS NULL THEN
        change := change + NEW.size;
    END IF;
    IF change <> 0 THEN
        INSERT INTO content_usage AS u (tenant, slot, bytes) VALUES (OLD.tenant, pg_backend_pid() % 16, change)
        ON CONFLICT (tenant, slot) DO UPDATE SET bytes = u.bytes + excluded.bytes;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER parts_counted AFTER UPDATE OF state, artifact, erased_at OR DELETE ON parts
    FOR EACH ROW EXECUTE FUNCTION parts_counted();
INSERT INTO content_usage AS u (tenant, slot, bytes)
SELECT tenant, 0, sum(size) FROM parts WHERE state <> 'open' AND artifact IS NULL GROUP BY tenant ORDER BY tenant
ON CONFLICT (tenant, slot) DO UPDATE SET bytes = u.bytes + excluded.bytes;

-- Bytes that may have lost their last artifact. The collector looks at these, and at no others.
ALTER TABLE content_blobs ADD COLUMN released_at timestamptz;
COMMENT ON COLUMN content_blobs.released_at IS
    'When an artifact of these bytes last went; NULL again when one was made since. The collector''s grace counts from here.';
COMMENT ON COLUMN content_blobs.used_at IS 'When an artifact was last made of it.';
UPDATE content_blobs AS b SET released_at = now()
WHERE NOT EXISTS (SELECT FROM artifacts AS a WHERE a.tenant = b.tenant AND a.sha256 = b.sha256);
CREATE INDEX content_blobs_released ON content_blobs (released_at) WHERE released_at IS NOT NULL;
DROP INDEX content_blobs_unused;

-- As the owner of the tables: tenants erase artifacts, and may not write to the bytes. By the clock, so that two releases
-- never leave the same time: what was looked at before the second is looked at again.
CREATE FUNCTION artifacts_released() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE content_blobs AS b SET released_at = clock_timestamp() WHERE b.tenant = OLD.tenant AND b.sha256 = OLD.sha256;
    RETURN NULL;
END $$;
DO $$ BEGIN
    EXECUTE format('ALTER FUNCTION artifacts_released() SET search_path = %I, pg_temp', current_schema());
END $$;
CREATE TRIGGER artifacts_erased AFTER UPDATE OF sha256 ON artifacts
    FOR EACH ROW WHEN (OLD.sha256 IS NOT NULL AND NEW.sha256 IS DISTINCT FROM OLD.sha256)
    EXECUTE FUNCTION artifacts_released();
CREATE TRIGGER artifacts_deleted AFTER DELETE ON artifacts
    FOR EACH ROW WHEN (OLD.sha256 IS NOT NULL) EXECUTE FUNCTION artifacts_released();

-- Archived runs whose content may be in PostgreSQL still.
ALTER TABLE archive_batches ADD COLUMN content_left boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN archive_batches.content_left IS
    'Artifacts of its runs may be in PostgreSQL still: the collector looks once the batch is dropped.';
CREATE INDEX archive_batches_with_content ON archive_batches (dropped_at) WHERE state = 'dropped' AND content_left;
