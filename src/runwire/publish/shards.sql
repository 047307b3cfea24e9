-- name: hold_lock
-- Held by the session until it ends, however it ends.
SELECT pg_advisory_lock($1, $2)

-- name: renew
-- Says that this publisher lives, by which lock to see it, and what it publishes.
INSERT INTO publishers (publisher_id, lock_key, lease_until, shards)
VALUES ($1, $2, clock_timestamp() + $3::float8 * interval '1 second', $4::smallint[])
ON CONFLICT (publisher_id) DO UPDATE SET
    lock_key = excluded.lock_key, lease_until = excluded.lease_until, shards = excluded.shards

-- name: members
-- The other publishers. A publisher whose session has ended is dead at once, since its lock is free. A publisher that
-- hangs with its connection open is dead when its lease ends.
SELECT publisher_id,
       CASE WHEN lease_until <= clock_timestamp() THEN false
            ELSE NOT pg_try_advisory_xact_lock($2, lock_key) END AS alive
FROM publishers WHERE publisher_id <> $1 AND lease_until IS NOT NULL AND lock_key IS NOT NULL

-- name: owners
SELECT publisher_id FROM publisher_shards ORDER BY shard

-- name: take
-- Only what still belongs to whom it was seen to belong to: of two that reach for a shard one gets it.
UPDATE publisher_shards AS s SET publisher_id = $1, taken_at = clock_timestamp()
FROM unnest($2::smallint[], $3::text[]) AS wanted (shard, owner)
WHERE s.shard = wanted.shard AND s.publisher_id IS NOT DISTINCT FROM wanted.owner
RETURNING s.shard

-- name: release
UPDATE publisher_shards SET publisher_id = NULL, taken_at = clock_timestamp()
WHERE publisher_id = $1 AND shard = ANY ($2::smallint[])

-- name: bury
-- Dead publishers have nothing any more; their rows stay for those who want to know what happened.
UPDATE publishers SET lease_until = NULL, shards = '{}' WHERE publisher_id = ANY ($1::text[])
