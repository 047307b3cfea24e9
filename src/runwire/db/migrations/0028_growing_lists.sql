-- A stream of many runs stores the runs that join, and no longer all of its runs again for each.
-- serves: 0002

ALTER TABLE stream_checkpoints ADD COLUMN joined text[], ADD COLUMN past text[];
COMMENT ON COLUMN stream_checkpoints.joined IS 'Runs after those of the list of the checkpoint roster.';
COMMENT ON COLUMN stream_checkpoints.past IS 'Beside a list of runs: others of which everything was told.';
