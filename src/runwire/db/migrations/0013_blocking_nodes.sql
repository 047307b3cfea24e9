-- Where a node has made the event loop of its worker stand: told by the watch, for the diagnosis of the run.
-- serves: 0002

CREATE TABLE run_blocks (
    run_id    text        PRIMARY KEY REFERENCES runs (run_id) ON DELETE CASCADE,
    worker_id text        NOT NULL,
    node      text        NOT NULL CHECK (octet_length(node) <= 128),
    at        text        NOT NULL CHECK (octet_length(at) <= 1024),
    blocked_s real        NOT NULL,
    seen_at   timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN run_blocks.at IS 'File, line and function of the innermost line that is no library''s.';
COMMENT ON COLUMN run_blocks.blocked_s IS 'How long the event loop had stood when it was last seen standing.';

ALTER TABLE run_blocks ENABLE ROW LEVEL SECURITY;
CREATE POLICY of_visible_run ON run_blocks
    USING (EXISTS (SELECT FROM runs AS r WHERE r.run_id = run_blocks.run_id));
