-- name: claim
-- The events each of these runs has beyond its cursor, with the cursor moved past them when this transaction commits.
-- One publisher per run: this row lock keeps publishing in seq order. Skips a run that another publisher has locked, or
-- whose shard another publisher owns now. The row of a run goes with its terminal event, which comes with the state
-- that it was stored with.
WITH asked AS (
    SELECT run_id, ord FROM unnest($1::text[]) WITH ORDINALITY AS a (run_id, ord)
), locked AS MATERIALIZED (
    SELECT o.run_id, o.run_day, o.next_seq, o.traceparent, a.ord
    FROM asked AS a JOIN run_outbox AS o ON o.run_id = ANY (ARRAY[a.run_id])
    WHERE $3::text IS NULL
       OR o.shard = ANY (ARRAY(SELECT shard FROM publisher_shards WHERE publisher_id = $3))
    ORDER BY o.run_id
    FOR UPDATE OF o SKIP LOCKED
), taken AS MATERIALIZED (
    SELECT l.ord, l.run_id, l.traceparent, e.seq, e.ts_us, e.type::text AS type, e.name, e.fn
    FROM locked AS l,
         LATERAL (SELECT seq, ts_us, type, name, fn FROM run_events
                  WHERE run_day = l.run_day AND run_id = l.run_id AND seq >= l.next_seq
                  ORDER BY seq LIMIT $2) AS e
), reached AS (
    SELECT run_id, max(seq) AS seq, bool_or(type = 'RunFinished') AS closed FROM taken GROUP BY run_id
), moved AS (
    UPDATE run_outbox AS o SET next_seq = r.seq + 1, updated_at = clock_timestamp()
    FROM reached AS r WHERE o.run_id = ANY (ARRAY[r.run_id]) AND NOT r.closed
), gone AS (
    DELETE FROM run_outbox AS o USING reached AS r WHERE o.run_id = ANY (ARRAY[r.run_id]) AND r.closed
)
SELECT run_id, seq, ts_us, type, name, fn, traceparent,
       (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now_us,
       CASE WHEN type = 'RunFinished' THEN (SELECT r.state::text FROM runs AS r WHERE r.run_id = taken.run_id) END AS outcome
FROM taken ORDER BY ord, seq

-- name: unpublished
-- Runs with events beyond their cursor, those that wait longest first. The safety sweep: whatever hint was lost, this
-- finds it. Only those of this publisher's shards, where it has some.
SELECT o.run_id FROM run_outbox AS o JOIN runs AS r ON r.run_id = ANY (ARRAY[o.run_id])
WHERE NOT o.parked AND r.last_seq >= o.next_seq
  AND ($2::text IS NULL OR o.shard = ANY (ARRAY(SELECT shard FROM publisher_shards WHERE publisher_id = $2)))
ORDER BY o.updated_at LIMIT $1

-- name: park
-- Parks open runs, at most $2 of them, that have been silent for $1 seconds and are published to their end. The row lock
-- on the run keeps appends out meanwhile, and what was read before it is read again under it; the next append wakes them.
WITH idle AS MATERIALIZED (
    SELECT o.run_id, r.last_seq
    FROM run_outbox AS o JOIN runs AS r ON r.run_id = ANY (ARRAY[o.run_id])
    WHERE NOT o.parked AND o.updated_at < now() - $1::real * interval '1 second'
      AND r.last_seq = o.next_seq - 1 AND r.state NOT IN ('finished', 'failed', 'cancelled')
    LIMIT $2
    FOR UPDATE OF r, o SKIP LOCKED
), noted AS (
    UPDATE runs AS r SET parked_seq = i.last_seq FROM idle AS i WHERE r.run_id = ANY (ARRAY[i.run_id])
)
UPDATE run_outbox AS o SET parked = true FROM idle AS i WHERE o.run_id = ANY (ARRAY[i.run_id])
RETURNING o.run_id

-- name: heartbeat
-- Records this publisher's heartbeat, its current error and since when. The observer alerts when no publisher is alive.
INSERT INTO publishers (publisher_id, failing_since, failing_code)
VALUES ($1, CASE WHEN $2::text IS NOT NULL THEN clock_timestamp() END, $2)
ON CONFLICT (publisher_id) DO UPDATE SET
    heartbeat_at = clock_timestamp(),
    failing_since = CASE WHEN $2 IS NOT NULL THEN coalesce(publishers.failing_since, clock_timestamp()) END,
    failing_code = $2

-- name: retire
-- It has stopped on purpose: its shards are free at once.
WITH freed AS (
    UPDATE publisher_shards SET publisher_id = NULL, taken_at = clock_timestamp() WHERE publisher_id = $1
)
DELETE FROM publishers WHERE publisher_id = $1
