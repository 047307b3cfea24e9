-- name: ensure
SELECT ensure_event_partitions($1)

-- name: make
SELECT make_event_partition($1)

-- name: shrink
-- Looks for the rows that stay under the lock, so that no concurrent write is lost.
SELECT shrink_event_day($1, $2)

-- name: drop
-- Nothing goes with the table that is not in cold storage, whenever it was written.
SELECT drop_event_partition($1)

-- name: attached
-- The days the log has a partition for, oldest first; one that is being detached has left it.
SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day
FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
WHERE i.inhparent = to_regclass('run_events') AND NOT i.inhdetachpending
ORDER BY 1

-- name: status
-- Where a day's partition is on its way out: `attached`, `detaching`, `detached`, or `gone`.
SELECT CASE WHEN p.oid IS NULL THEN 'gone'
            WHEN i.inhrelid IS NULL THEN 'detached'
            WHEN i.inhdetachpending THEN 'detaching'
            ELSE 'attached' END
FROM (SELECT to_regclass($1) AS oid) AS p
LEFT JOIN pg_inherits AS i ON i.inhrelid = p.oid AND i.inhparent = to_regclass('run_events')
