-- name: finished_runs
-- Runs that ended within the last hours, 48 events each, in today's partition: the one that everything new goes to,
-- so the indexes that appends touch are as deep as they get.
INSERT INTO runs (run_id, agent, state, last_seq, attempt, fence, created_at, started_at, finished_at, request_hash, input)
SELECT to_char(n, 'FM00000000-') || substr(md5(n::text), 1, 27), 'golden', 'finished', 48, 1, 1,
       at, at + interval '5 ms', at + interval '2 min', '\x00', '{}'
FROM generate_series($1::bigint, $2::bigint) AS n,
     LATERAL (SELECT now() - interval '20 hours' + n * interval '100 ms' AS at) AS t

-- name: their_events
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)
SELECT r.run_day, r.run_id, k, (extract(epoch FROM r.created_at) * 1000000)::bigint + k * 2500000,
       (CASE WHEN k = 1 THEN 'RunStarted' WHEN k = 48 THEN 'RunFinished'
             WHEN k % 3 = 2 THEN 'NodeStarted' WHEN k % 3 = 0 THEN 'DebugTrace' ELSE 'NodeFinished' END)::event_type,
       'worker',
       CASE WHEN k > 1 AND k < 48 AND k % 3 <> 0 THEN 'OpenApp' END,
       CASE WHEN k > 1 AND k < 48 AND k % 3 = 0 THEN 'openApp.tap' END
FROM generate_series($1::bigint, $2::bigint) AS n
JOIN runs AS r ON r.run_id = to_char(n, 'FM00000000-') || substr(md5(n::text), 1, 27),
     generate_series(1, 48) AS k

-- name: idle_runs
-- Open runs in which nothing happens: half wait for a signal, half belong to an orchestrator elsewhere.
WITH made AS (
    INSERT INTO runs (run_id, agent, state, external, last_seq, attempt, fence, lease_owner, lease_until, lease_s,
                      waiting_for, created_at, started_at, request_hash, input)
    SELECT 'idle-' || md5(n::text), 'triage', (CASE WHEN n % 2 = 0 THEN 'waiting' ELSE 'started' END)::run_state,
           n % 2 = 1, 4, 1, 1, CASE WHEN n % 2 = 1 THEN 'external' END,
           CASE WHEN n % 2 = 1 THEN now() + interval '1 hour' END, 3600,
           CASE WHEN n % 2 = 0 THEN 'approval' END, now() - interval '1 hour', now() - interval '1 hour', '\x00', '{}'
    FROM generate_series(1, $1::bigint) AS n
    RETURNING run_id, run_day
), marked AS (
    INSERT INTO run_outbox (run_id, run_day, next_seq, updated_at)
    SELECT run_id, run_day, 5, now() - interval '1 hour' FROM made
)
INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)
SELECT run_day, run_id, k, (extract(epoch FROM now()) * 1000000)::bigint - 3600000000 + k,
       (ARRAY['RunStarted', 'NodeStarted', 'DebugTrace', 'NodeFinished'])[k]::event_type, 'worker',
       CASE WHEN k IN (2, 4) THEN 'Approve' END, CASE WHEN k = 3 THEN 'approve.ask' END
FROM made, generate_series(1, 4) AS k
