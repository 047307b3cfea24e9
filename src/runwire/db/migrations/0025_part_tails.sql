-- The end of a part is in the part's own row, which each write updates anyway. Rows of chunks are written once, full.
-- serves: 0002

ALTER TABLE parts ADD COLUMN tail bytea;
ALTER TABLE parts ALTER COLUMN tail SET STORAGE EXTERNAL;
-- Code that knows no tails fails at such a part, and loses nothing. Not valid, because no row has a tail yet.
ALTER TABLE parts ADD CONSTRAINT parts_tail CHECK (tail IS NULL OR row_at + octet_length(tail) = size) NOT VALID;
COMMENT ON COLUMN parts.tail IS 'The bytes that do not fill a row of chunks yet. NULL: the newest row of chunks has them.';
COMMENT ON COLUMN parts.row_at IS 'Offset of the tail.';

ALTER TABLE part_chunks RESET (fillfactor, autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_scale_factor);
