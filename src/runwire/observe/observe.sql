-- name: backlog
-- Events beyond their run's cursor, and the age of the oldest: one look-up in the log per run that has any.
SELECT coalesce(sum(b.events), 0)::bigint AS events,
       coalesce(extract(epoch FROM clock_timestamp()) - min(e.ts_us) / 1e6, 0)::float8 AS oldest_s
FROM (SELECT o.run_id, o.run_day, o.next_seq, r.last_seq - o.next_seq + 1 AS events
      FROM run_outbox AS o JOIN runs AS r USING (run_id)
      WHERE r.last_seq >= o.next_seq) AS b
LEFT JOIN LATERAL (SELECT ts_us FROM run_events
                   WHERE run_day = b.run_day AND run_id = b.run_id AND seq >= b.next_seq
                   ORDER BY seq LIMIT 1) AS e ON true

-- name: active
-- Open runs by state, from the partial indexes: closed runs cost nothing.
SELECT 'pending' AS state, count(*) AS runs,
       coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
FROM runs WHERE state = 'pending'
UNION ALL
SELECT 'started', count(*), coalesce(extract(epoch FROM now() - min(started_at)), 0)::float8
FROM runs WHERE state = 'started'
UNION ALL
SELECT 'waiting', count(*), coalesce(extract(epoch FROM now() - min(started_at)), 0)::float8
FROM runs WHERE state = 'waiting'

-- name: publishers
-- The time since the freshest heartbeat, NULL when no publisher ever ran; and how many are alive.
SELECT extract(epoch FROM clock_timestamp() - max(heartbeat_at))::float8 AS age_s,
       count(*) FILTER (WHERE heartbeat_at > now() - $1::real * interval '1 second') AS alive
FROM publishers

-- name: forget_publishers
DELETE FROM publishers WHERE heartbeat_at < now() - interval '1 day'

-- name: open_runs
-- A page of the runs that are not over or ended within the last minutes, to be audited: by id, from where the last
-- page ended.
SELECT run_id, last_seq FROM runs
WHERE run_id IN (SELECT run_id FROM run_outbox
                 UNION SELECT run_id FROM runs WHERE finished_at > now() - interval '10 minutes')
  AND run_id > $1
ORDER BY run_id LIMIT $2

-- name: all_runs
-- A page of all runs, in the order of their ids.
SELECT run_id, last_seq FROM runs WHERE run_id > $1 ORDER BY run_id LIMIT $2

-- name: audit
-- For each run the invariants it breaks, in one snapshot: an append shows in its run, log and cursor or in none.
SELECT s.run_id, v.invariant
FROM (
    SELECT r.run_id, r.state, r.last_seq, r.state IN ('finished', 'failed', 'cancelled') AS closed,
           e.events, e.first_seq, e.newest_seq, e.terminals, e.terminal_seq, o.next_seq
    FROM unnest($1::text[]) AS asked (run_id)
    JOIN runs AS r ON r.run_id = ANY (ARRAY[asked.run_id])
    LEFT JOIN run_outbox AS o ON o.run_id = r.run_id
    CROSS JOIN LATERAL (
        SELECT count(*) AS events, min(seq) AS first_seq, max(seq) AS newest_seq,
               count(*) FILTER (WHERE type = 'RunFinished') AS terminals,
               max(seq) FILTER (WHERE type = 'RunFinished') AS terminal_seq
        FROM run_events WHERE run_day = r.run_day AND run_id = r.run_id
    ) AS e
) AS s,
LATERAL (VALUES
    ('density', s.events <> s.last_seq OR coalesce(s.newest_seq, 0) <> s.last_seq
                OR (s.last_seq > 0 AND s.first_seq <> 1)),
    ('single_terminal', s.terminals <> s.closed::int OR (s.closed AND s.terminal_seq IS DISTINCT FROM s.last_seq)),
    ('published_prefix', NOT s.closed AND s.next_seq IS NULL),
    ('cursor_within_log', s.next_seq > s.last_seq + 1 OR (s.closed AND s.next_seq > s.last_seq))
) AS v (invariant, broken)
WHERE v.broken
