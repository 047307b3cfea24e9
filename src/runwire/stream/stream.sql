-- name: positions
-- Both seqs come from one snapshot: an append or a publish step shows in both or in neither. A run without an outbox row
-- is published to its terminal event.
SELECT r.run_id, r.run_day, r.state::text AS state, r.last_seq, coalesce(o.next_seq - 1, r.last_seq) AS published,
       r.traceparent
FROM runs AS r LEFT JOIN run_outbox AS o USING (run_id)
WHERE r.run_id = ANY ($1::text[])

-- name: events
-- A stretch of one run's log, in seq order. Events up to a published seq never change.
SELECT seq, ts_us, type::text AS type, name, fn
FROM run_events
WHERE run_day = $1 AND run_id = $2 AND seq > $3 AND seq <= $4
ORDER BY seq
LIMIT $5

-- name: tails
-- The same for many runs: `i` is the index of the stretch, and each stretch gets at most $6 events.
SELECT w.i, e.*
FROM unnest($1::int[], $2::date[], $3::text[], $4::bigint[], $5::bigint[]) AS w (i, run_day, run_id, after, upto),
     LATERAL (SELECT seq, ts_us, type::text AS type, name, fn
              FROM run_events
              WHERE run_day = w.run_day AND run_id = w.run_id AND seq > w.after AND seq <= w.upto
              ORDER BY seq
              LIMIT $6) AS e
ORDER BY w.i, e.seq
