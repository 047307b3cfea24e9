-- What a claim has to know of the attempt before it.
-- serves: 0002

-- Of sampled runs only, so the others pay nothing.
ALTER TABLE runs ADD COLUMN attempt_span text, ADD COLUMN attempt_at timestamptz;
COMMENT ON COLUMN runs.attempt_span IS 'Span id of the newest claim''s turn: the next one links to it, or tells of it when it was lost.';
COMMENT ON COLUMN runs.attempt_at IS 'When that claim was made.';

-- VOLATILE, so it reads with a snapshot of its own, newer than that of the statement that calls it. A claim waits for
-- nobody, but it may lock a run right after its old owner appended: read with the claim's own snapshot, the checkpoint
-- would be older than the log, and a finished node would be run again.
CREATE FUNCTION newest_checkpoint(id text) RETURNS TABLE (next_node text, state bytea)
LANGUAGE plpgsql VOLATILE STRICT ROWS 1 AS $$
BEGIN
    RETURN QUERY SELECT c.next_node, c.state FROM run_checkpoints AS c WHERE c.run_id = id;
END $$;
