-- name: holder
-- The session that has held a lock on one of our tables for longest. A migration waits for it.
SELECT a.pid, coalesce(nullif(a.application_name, ''), a.usename::text) AS name, coalesce(a.state, 'unknown') AS state,
       extract(epoch FROM now() - a.xact_start)::int AS age_s
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'relation' AND l.granted AND a.datname = current_database()
  AND l.relation IN (SELECT oid FROM pg_class WHERE relnamespace = current_schema()::regnamespace)
  AND a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL
ORDER BY a.xact_start LIMIT 1

-- name: migrator
-- The session that migrates this database.
SELECT a.pid, coalesce(nullif(a.application_name, ''), a.usename::text) AS name
FROM pg_locks AS l JOIN pg_stat_activity AS a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.datname = current_database()
  AND ((l.classid::bigint << 32) | l.objid::bigint) = $1

-- name: applied
-- The applied migrations; by way of JSON, since the newest column may not exist yet.
SELECT name, sha256, serves, coalesce((to_jsonb(m) ->> 'indexes_missing')::boolean, false) AS indexes_missing
FROM runwire_migrations AS m

-- name: record
INSERT INTO runwire_migrations (name, sha256, serves, indexes_missing) VALUES ($1, $2, $3, $4)

-- name: indexes_built
UPDATE runwire_migrations SET indexes_missing = false WHERE name = $1

-- name: is_invalid
-- Whether an index is a leftover of a building that was cut off.
SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid)

-- name: is_big
SELECT EXISTS (SELECT FROM pg_class WHERE oid = to_regclass($1) AND relkind = 'r' AND pg_relation_size(oid) >= $2)

-- name: writes
-- Whether this session can write nothing, and why.
SELECT pg_is_in_recovery() AS standby, current_setting('transaction_read_only') = 'on' AS read_only
