-- name: start
-- A run and its outbox row, or nothing when the id or the idempotency key is taken. With an owner ($13) it is that
-- worker's from the beginning, as after `claim`; $14 is the span of its attempt. $15 is its first fence.
WITH made AS (
    INSERT INTO runs (run_id, tenant, agent, external, fence, lease_owner, lease_until, lease_s, traceparent,
                      idempotency_key, request_hash, input, session, labels, attempt, attempt_span, attempt_at)
    VALUES ($1, $2, $3, $4, $15,
            CASE WHEN $4 THEN 'external' ELSE $13::text END,
            CASE WHEN $4 OR $13 IS NOT NULL THEN now() + $5::real * interval '1 second' END, $5::real, $6, $7, $8, $9,
            $10, $11::jsonb,
            CASE WHEN $13 IS NOT NULL THEN 1 ELSE 0 END, $14, CASE WHEN $14::text IS NOT NULL THEN now() END)
    ON CONFLICT DO NOTHING
    RETURNING run_id, run_day
)
INSERT INTO run_outbox (run_id, run_day, traceparent) SELECT run_id, run_day, $12 FROM made RETURNING run_id

-- name: open_runs
-- Runs that are not over, or not published to their end; counted no further than needed.
SELECT count(*) FROM (SELECT FROM run_outbox LIMIT $1) AS open_run

-- name: start_run
-- As `start`, the first half, on behalf of a tenant. $12 is the run's first fence.
INSERT INTO runs (run_id, tenant, agent, external, fence, lease_owner, lease_until, lease_s, traceparent,
                  idempotency_key, request_hash, input, session, labels)
VALUES ($1, $2, $3, $4, $12, CASE WHEN $4 THEN 'external' END,
        CASE WHEN $4 THEN now() + $5::real * interval '1 second' END, $5::real, $6, $7, $8, $9,
        $10, $11::jsonb)
ON CONFLICT DO NOTHING
RETURNING run_id, run_day

-- name: start_outbox
-- The second half, in the same transaction.
INSERT INTO run_outbox (run_id, run_day, traceparent) VALUES ($1, $2, $3)

-- name: taken_by
-- The runs a start collides with: by its id, or by its idempotency key.
-- The fence is that of the external orchestrator, until another owner takes the run.
SELECT run_id, request_hash, CASE WHEN external AND lease_owner = 'external' THEN fence END AS fence FROM runs
WHERE run_id = $1 OR (tenant = $2 AND idempotency_key = $3)

-- name: view
SELECT r.run_id, r.tenant, r.agent, r.state::text AS state, r.external, r.last_seq, r.attempt, r.error_code, r.waiting_for,
       r.cancel_requested_at IS NOT NULL AS cancel_requested, r.traceparent,
       r.session, r.labels, coalesce(o.next_seq - 1, r.last_seq) AS published_seq,
       floor(extract(epoch FROM r.created_at) * 1000)::bigint AS created_at,
       floor(extract(epoch FROM r.started_at) * 1000)::bigint AS started_at,
       floor(extract(epoch FROM r.finished_at) * 1000)::bigint AS finished_at,
       floor(extract(epoch FROM r.waiting_since) * 1000)::bigint AS waiting_since,
       floor(extract(epoch FROM r.wake_at) * 1000)::bigint AS waiting_until
FROM runs AS r LEFT JOIN run_outbox AS o USING (run_id)
WHERE r.run_id = $1

-- name: page
-- The latest first; the key of the last row of a page is where the next one begins, so pages never shift. `find_runs` walks
-- one index and looks at no more than $13 runs: a row that did not match says where it stopped.
SELECT f.matched, (extract(epoch FROM f.at) * 1000000)::bigint AS at_us, f.id, r.*
FROM find_runs($1, $2, $3, $4::jsonb, $5, $6::text::run_state, $7,
               to_timestamp(0) + $8::bigint * interval '1 millisecond',
               to_timestamp(0) + $9::bigint * interval '1 millisecond',
               to_timestamp(0) + $10::bigint * interval '1 microsecond', $11::text, $12, $13) AS f
LEFT JOIN LATERAL (
    SELECT r.run_id, r.tenant, r.agent, r.state::text AS state, r.external, r.last_seq, r.attempt, r.error_code,
           r.waiting_for, r.cancel_requested_at IS NOT NULL AS cancel_requested, r.traceparent, r.session, r.labels,
           coalesce((SELECT o.next_seq - 1 FROM run_outbox AS o WHERE o.run_id = r.run_id), r.last_seq) AS published_seq,
           floor(extract(epoch FROM r.created_at) * 1000)::bigint AS created_at,
           floor(extract(epoch FROM r.started_at) * 1000)::bigint AS started_at,
           floor(extract(epoch FROM r.finished_at) * 1000)::bigint AS finished_at,
           floor(extract(epoch FROM r.waiting_since) * 1000)::bigint AS waiting_since,
           floor(extract(epoch FROM r.wake_at) * 1000)::bigint AS waiting_until
    FROM runs AS r
    WHERE f.matched AND r.run_id = ANY (ARRAY[f.id])
) AS r ON true
ORDER BY f.at DESC, f.id DESC, f.matched DESC

-- name: state
-- A run's state as of its last checkpoint, or the one that it begins with. The input of an external run is no state.
SELECT r.run_id, c.seq, c.node, c.next_node, CASE WHEN c.seq IS NULL AND NOT r.external THEN r.input ELSE c.state END AS state
FROM runs AS r LEFT JOIN run_checkpoints AS c USING (run_id)
WHERE r.run_id = $1

-- name: erase_state
-- Of a run that has ended: the state of its last checkpoint, and the input that it began with. Nobody needs them any more.
WITH ended AS (
    UPDATE runs SET input = '' WHERE run_id = $1 AND state IN ('finished', 'failed', 'cancelled') RETURNING run_id
)
UPDATE run_checkpoints AS c SET state = 'null' FROM ended WHERE c.run_id = ended.run_id

-- name: cancel
-- Durable and idempotent: the first request's time stays, and a closed run is left as it is.
UPDATE runs SET cancel_requested_at = now()
WHERE run_id = $1 AND cancel_requested_at IS NULL AND state NOT IN ('finished', 'failed', 'cancelled')

-- name: cancelled_at_rest
-- Runs to be ended: their cancellation was requested, and no worker walks them.
SELECT run_id FROM runs
WHERE cancel_requested_at IS NOT NULL AND state IN ('pending', 'started', 'waiting')
  AND (state = 'waiting'
       OR state = 'pending' AND (external OR lease_until IS NULL OR lease_until < now())
       OR state = 'started' AND NOT external AND lease_until < now())
ORDER BY cancel_requested_at LIMIT $1

-- name: signal
-- Kept until a run that waits for it takes it, or until its run is over. Sent twice before that without an id ($3), it
-- counts once, with the data of the second. No row for a repeated id, and for a run that is over.
INSERT INTO run_signals (run_id, name, signal_id, data, digest)
SELECT run_id, $2, $3, $4, $5 FROM runs WHERE run_id = $1
ON CONFLICT (run_id, name) DO UPDATE SET sent_at = now(), data = excluded.data
RETURNING run_id

-- name: signal_known
-- A row if the run has had a signal with this id.
SELECT run_id FROM run_signals WHERE run_id = $1 AND signal_id = $2

-- name: signals_not_taken
-- The signals of a run that it has not taken, oldest first: at most a hundred. With $2 their data, up to 256 KiB of it.
SELECT n, signal, signal_id, floor(extract(epoch FROM sent_at) * 1000)::bigint AS sent_at, data IS NOT NULL AS has_data,
       CASE WHEN $2 AND sum(coalesce(octet_length(data), 0)) OVER (ORDER BY n) <= 262144 THEN data END AS data
FROM run_signals WHERE run_id = $1 AND taken_at IS NULL ORDER BY n

-- name: external_signals
-- Acknowledges the signals of an external run up to a number, and returns those that are not.
SELECT n, signal, data, signal_id FROM external_signals($1, $2)

-- name: claim
-- Each run goes to one worker, with a fence higher than any before: new ones, and those whose owner's lease ended (`bury`
-- in sessions.sql ends that of a dead one). So do waiting ones that were signalled or cancelled, or whose timer is due. A
-- locked row is another worker's claim in progress. With the run come its newest checkpoint and the signal with which it
-- goes on. With a sampled run comes the span of the attempt before. The span of this one is named here, so that who comes
-- after can link to it whatever becomes of this worker.
WITH shares AS MATERIALIZED (
    -- How many of the oldest pending runs are of which agent. Each agent is looked up by itself, so that runs of agents
    -- that no worker serves are not read; and no more are locked below than may be claimed. BETWEEN, and the order by
    -- agent, leave the planner one index: it takes one by time alone for cheaper, and reads every older run with it.
    SELECT agent, count(*) AS n FROM (
        SELECT r.agent FROM unnest($1::text[]) AS a (agent) CROSS JOIN LATERAL (
            SELECT agent, created_at FROM runs
            WHERE state = 'pending' AND NOT external AND agent BETWEEN a.agent AND a.agent
              AND (lease_until IS NULL OR lease_until < now())
            ORDER BY agent, created_at LIMIT $2) AS r
        ORDER BY r.created_at LIMIT $2) AS oldest
    GROUP BY agent
), fresh AS MATERIALIZED (
    SELECT r.* FROM shares AS s CROSS JOIN LATERAL (
        SELECT run_id, state AS was, waiting_for, wake_at, lease_owner, lease_until, attempt_span, attempt_at, created_at
        FROM runs
        WHERE state = 'pending' AND NOT external AND agent BETWEEN s.agent AND s.agent
          AND (lease_until IS NULL OR lease_until < now())
        ORDER BY agent, created_at LIMIT s.n FOR UPDATE SKIP LOCKED) AS r
), orphaned AS MATERIALIZED (
    SELECT run_id, state AS was, waiting_for, wake_at, lease_owner, lease_until, attempt_span, attempt_at FROM runs
    WHERE state = 'started' AND NOT external AND agent = ANY ($1::text[]) AND lease_until < now()
    ORDER BY lease_until LIMIT $2 FOR UPDATE SKIP LOCKED
), woken AS MATERIALIZED (
    SELECT run_id, state AS was, waiting_for, wake_at, lease_owner, lease_until, attempt_span, attempt_at FROM runs AS r
    WHERE state = 'waiting' AND NOT external AND agent = ANY ($1::text[])
      -- Finds them by flags, without reading all waiting runs or signals that no run waits for.
      AND (woken OR cancel_requested_at IS NOT NULL)
    LIMIT $2 FOR UPDATE SKIP LOCKED
), due AS MATERIALIZED (
    -- For each agent those that are due first, by the database's clock. One that was signalled as well is in `woken`, too.
    SELECT r.* FROM unnest($1::text[]) AS a (agent) CROSS JOIN LATERAL (
        SELECT run_id, state AS was, waiting_for, wake_at, lease_owner, lease_until, attempt_span, attempt_at FROM runs
        WHERE state = 'waiting' AND NOT external AND agent BETWEEN a.agent AND a.agent AND wake_at <= now()
          AND NOT (woken OR cancel_requested_at IS NOT NULL)
        ORDER BY agent, wake_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS r
), awaited AS MATERIALIZED (
    -- Those that may be what kills their workers.
    SELECT l.run_id, l.lost_at, l.worker_id, l.company
    FROM run_losses AS l JOIN runs AS r ON r.run_id = ANY (ARRAY[l.run_id])
    WHERE l.alone_s > 0 AND NOT l.parked AND l.not_before <= now() AND r.fence = l.fence
      AND r.state IN ('pending', 'started') AND NOT r.external AND r.agent = ANY ($1::text[])
), on_trial AS MATERIALIZED (
    -- Those of this worker that have yet to show that they do not.
    SELECT count(*) AS n FROM run_losses AS l JOIN runs AS r ON r.run_id = ANY (ARRAY[l.run_id])
    LEFT JOIN run_checkpoints AS c ON c.run_id = r.run_id
    WHERE l.alone_s > 0 AND l.taken_at > now() - l.alone_s * interval '1 second'
      AND r.lease_owner = $3 AND r.state IN ('pending', 'started') AND coalesce(c.seq, 0) <= l.seq
), suspect AS MATERIALIZED (
    -- Half of those that were lost together, none beside others that are on trial.
    SELECT r.run_id, r.state AS was, r.waiting_for, r.wake_at, r.lease_owner, r.lease_until, r.attempt_span, r.attempt_at
    FROM awaited AS a JOIN runs AS r ON r.run_id = ANY (ARRAY[a.run_id])
    WHERE a.worker_id = (SELECT worker_id FROM awaited ORDER BY lost_at, run_id LIMIT 1)
    ORDER BY a.lost_at, a.run_id
    LIMIT coalesce((SELECT CASE WHEN n > 0 THEN 0 ELSE least(a.company, $2) END
                    FROM on_trial, awaited AS a ORDER BY a.lost_at, a.run_id LIMIT 1), 0)
    FOR UPDATE OF r SKIP LOCKED
), tried AS (
    UPDATE run_losses AS l SET taken_at = now() FROM suspect AS s WHERE l.run_id = s.run_id
), chosen AS (
    SELECT * FROM suspect
    UNION ALL SELECT * FROM orphaned UNION ALL SELECT * FROM woken UNION ALL SELECT * FROM due
    UNION ALL (
        SELECT run_id, was, waiting_for, wake_at, lease_owner, lease_until, attempt_span, attempt_at FROM fresh
        ORDER BY created_at
    ) LIMIT $2
), claimed AS (
    UPDATE runs AS r SET
        fence = r.fence + 1,
        attempt = r.attempt + CASE WHEN c.was = 'waiting' THEN 0 ELSE 1 END,
        lease_owner = $3,
        lease_until = now() + $4::real * interval '1 second',
        lease_s = $4::real,
        state = CASE WHEN c.was = 'waiting' THEN 'started' ELSE r.state END,
        waiting_for = NULL,
        attempt_span = CASE WHEN right(r.traceparent, 1) IN ('1', '3')
                            THEN left(replace(gen_random_uuid()::text, '-', ''), 16) END,
        attempt_at = CASE WHEN right(r.traceparent, 1) IN ('1', '3') THEN now() END
    FROM chosen AS c
    WHERE r.run_id = c.run_id
    RETURNING r.run_id, r.agent, r.input, r.last_seq, r.fence, r.attempt, r.traceparent, r.session, c.was::text AS was,
              r.cancel_requested_at IS NOT NULL AS cancel_requested,
              extract(epoch FROM clock_timestamp() - r.created_at)::float8 AS age_s, r.waited_s,
              r.lease_owner AS worker_id, r.attempt_span AS span_id, c.attempt_span AS earlier_span_id,
              -- A worker that released the run has no lease on it. A worker that still had one was lost.
              CASE WHEN c.attempt_span IS NOT NULL THEN c.lease_owner END AS lost_worker_id,
              (extract(epoch FROM c.attempt_at) * 1000000)::bigint AS earlier_from_us,
              (extract(epoch FROM least(c.lease_until, now())) * 1000000)::bigint AS earlier_until_us,
              CASE WHEN r.cancel_requested_at IS NULL THEN c.waiting_for END AS waited_for, c.wake_at
)
SELECT run_id, agent, input, last_seq, fence, attempt, traceparent, session, was, cancel_requested, age_s, waited_s,
       worker_id, span_id, earlier_span_id, lost_worker_id, earlier_from_us, earlier_until_us,
       saved.next_node, saved.state, saved.signal, saved.signal_data, saved.signal_id,
       CASE WHEN waited_for IS NOT NULL AND saved.signal IS NULL
            THEN extract(epoch FROM clock_timestamp() - wake_at)::float8 END AS timer_late_s,
       EXISTS (SELECT FROM run_losses AS l WHERE l.run_id = claimed.run_id AND l.parked) AS parked
FROM claimed LEFT JOIN LATERAL resume_point(
    CASE WHEN claimed.last_seq > 0 THEN claimed.run_id END, claimed.waited_for, claimed.wake_at) AS saved ON true

-- name: next_timer
-- Seconds until the first timer of a run of these agents is due, by the database's clock; NULL without one.
SELECT extract(epoch FROM min(t.wake_at) - clock_timestamp())::float8 AS left_s
FROM unnest($1::text[]) AS a (agent) CROSS JOIN LATERAL (
    SELECT wake_at FROM runs WHERE state = 'waiting' AND NOT external AND agent = a.agent AND wake_at IS NOT NULL
    ORDER BY wake_at LIMIT 1) AS t

-- name: heartbeat
-- Renews the leases this owner still holds, and returns the runs that another owner has now.
WITH held AS (
    SELECT * FROM unnest($1::text[], $2::bigint[]) AS h (run_id, fence)
), renewed AS (
    UPDATE runs AS r SET lease_until = now() + $3::real * interval '1 second'
    FROM held WHERE r.run_id = held.run_id AND r.fence = held.fence AND r.state IN ('pending', 'started')
    RETURNING r.run_id
)
SELECT r.run_id, r.cancel_requested_at IS NOT NULL AS cancel_requested, r.fence > held.fence AS lost
FROM held JOIN runs AS r USING (run_id)

-- name: release
-- Hands a run over: the next claim may take it at once.
UPDATE runs SET lease_until = now() - interval '1 millisecond', lease_owner = NULL
WHERE run_id = $1 AND fence = $2 AND state IN ('pending', 'started')

-- name: disown
-- As `release`, of runs that were started for a worker, which does not know whether they were.
UPDATE runs SET lease_until = now() - interval '1 millisecond', lease_owner = NULL
WHERE run_id = ANY ($1::text[]) AND lease_owner = $2 AND fence = 1 AND state = 'pending'

-- name: trace
SELECT traceparent FROM runs WHERE run_id = $1

-- name: duration
-- How long a run took that is over, from its start call; one that an external orchestrator walks never waits.
SELECT extract(epoch FROM finished_at - created_at)::float8 AS took_s, traceparent FROM runs
WHERE run_id = $1 AND finished_at IS NOT NULL

-- name: take_expired_external
-- Fences the external orchestrators whose lease has ended out, so that their runs can be failed. If the process that
-- took one dies, another takes it when this lease ends. The fence rises by a step that the one who had the run cannot
-- guess.
WITH started AS MATERIALIZED (
    SELECT run_id FROM runs WHERE external AND state = 'started' AND lease_until < now()
    ORDER BY lease_until LIMIT $2 FOR UPDATE SKIP LOCKED
), pending AS MATERIALIZED (
    SELECT run_id FROM runs WHERE external AND state = 'pending' AND lease_until < now()
    ORDER BY lease_until LIMIT $2 FOR UPDATE SKIP LOCKED
)
UPDATE runs AS r
SET fence = r.fence + 1 + ('x' || right(gen_random_uuid()::text, 10))::bit(40)::bigint,
    lease_owner = $1, lease_until = now() + interval '30 seconds'
FROM (SELECT run_id FROM started UNION ALL SELECT run_id FROM pending) AS expired
WHERE r.run_id = expired.run_id
RETURNING r.run_id, r.agent, r.fence, r.last_seq, r.state::text AS state,
          extract(epoch FROM clock_timestamp() - r.created_at)::float8 AS age_s
