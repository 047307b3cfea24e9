-- name: beat
-- This process lives. Rows of processes that have not for an hour go, so there are few however often processes start.
WITH forgotten AS (
    DELETE FROM processes WHERE seen_at < now() - interval '1 hour' AND process_id <> $1
)
INSERT INTO processes AS p (process_id, host, pid, version, roles, agents, slots, walking, streams)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (process_id) DO UPDATE SET
    seen_at = now(), walking = excluded.walking, streams = excluded.streams, slots = excluded.slots

-- name: leave
DELETE FROM processes WHERE process_id = $1
