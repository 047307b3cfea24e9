-- A sealed part is an artifact: its bytes are there, and its rows of chunks are gone.
-- serves: 0002

ALTER TABLE parts ADD COLUMN artifact integer;
COMMENT ON COLUMN parts.artifact IS 'Number of the artifact that a sealed part became. NULL: its bytes are in part_chunks.';
