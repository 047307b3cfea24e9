-- Parts: content of a run while it is made. A part is an append-only sequence of bytes that one fence holder writes.
-- serves: 0002

CREATE TYPE part_state AS ENUM ('open', 'sealed', 'abandoned');

CREATE TABLE parts (
    run_id     run_identifier NOT NULL REFERENCES runs (run_id) ON DELETE CASCADE,
    n          integer    NOT NULL CHECK (n >= 1),
    part_id    bigint     NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    attempt    integer    NOT NULL DEFAULT 1 CHECK (attempt >= 1),
    name       text       NOT NULL CHECK (octet_length(name) BETWEEN 1 AND 64),
    media_type text       NOT NULL CHECK (octet_length(media_type) <= 128),
    state      part_state NOT NULL DEFAULT 'open',
    size       bigint     NOT NULL DEFAULT 0 CHECK (size >= 0),
    row_at     bigint     NOT NULL DEFAULT 0,
    opened_seq bigint     NOT NULL,
    ended_seq  bigint,
    written_us bigint,
    PRIMARY KEY (run_id, n),
    CONSTRAINT parts_ended CHECK ((state = 'open') = (ended_seq IS NULL))
) WITH (fillfactor = 50);
COMMENT ON COLUMN parts.part_id IS 'Of the attempt: a new attempt has a new one, so that what the last one writes finds no part.';
COMMENT ON COLUMN parts.row_at IS 'Offset of the newest row of chunks, which grows until it is full.';
COMMENT ON COLUMN parts.opened_seq IS 'Seq of the event that opened this attempt; ended_seq, of the one that sealed or abandoned it.';

-- The bytes, in rows of about a KiB: the newest row of a part grows in place, and the WAL has what is new of it.
CREATE TABLE part_chunks (
    part_id bigint NOT NULL REFERENCES parts (part_id) ON DELETE CASCADE,
    at      bigint NOT NULL,
    bytes   bytea  NOT NULL,
    PRIMARY KEY (part_id, at)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_insert_scale_factor = 0.2);
-- What does not fit a page goes out as it is: compressing it again for every row that grows would cost more.
ALTER TABLE part_chunks ALTER COLUMN bytes SET STORAGE EXTERNAL;

ALTER TABLE parts ENABLE ROW LEVEL SECURITY;
ALTER TABLE part_chunks ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_visible_run ON parts
    USING (EXISTS (SELECT FROM runs AS r WHERE r.run_id = parts.run_id));
CREATE POLICY of_visible_part ON part_chunks
    USING (EXISTS (SELECT FROM parts AS p WHERE p.part_id = part_chunks.part_id));

-- What the API does with parts for tenants: look.
CREATE FUNCTION runwire_isolate_parts() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    GRANT SELECT ON parts, part_chunks TO runwire_tenant;
END $$;

DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'runwire_tenant') THEN
        PERFORM runwire_isolate_parts();
    END IF;
END $$;
