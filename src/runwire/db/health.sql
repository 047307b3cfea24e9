-- name: server
-- The server as it runs for this connection: what durability rests on.
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::int AS version_num,
       current_setting('fsync') AS fsync, current_setting('full_page_writes') AS full_page_writes,
       current_setting('synchronous_commit') AS synchronous_commit

-- name: missing_tables
-- Tables of the pipeline that cannot be found on this connection's search path.
SELECT t FROM unnest(ARRAY['runs', 'run_events', 'run_outbox', 'run_checkpoints', 'run_signals']) AS t
WHERE to_regclass(t) IS NULL

-- name: invalid_indexes
-- Indexes the planner does not use and uniqueness cannot rest on, partitions included.
SELECT i.indexrelid::regclass::text AS name FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('runs'))
  AND c.relname ~ '^run(s$|_)' AND NOT (i.indisvalid AND i.indisready)
ORDER BY 1

-- name: partitions_ahead
-- How many days in a row have their partition, counted from today by UTC; 0 means that appends fail now.
SELECT coalesce(min(n) FILTER (WHERE to_regclass('run_events_' || to_char(today + n, 'YYYYMMDD')) IS NULL), 91)
FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS today) AS t, generate_series(0, 90) AS n
