-- name: append
-- All or nothing per run. A row that is not returned was refused and left no trace. It does not affect the others.
-- seq is minted under the run's row lock, so it is dense, and a rollback leaves no gap. So is the number of an artifact,
-- which takes the place of the `+` in its event.
-- (`= ANY(ARRAY[..])` keeps the look-up of runs an index look-up per request, whatever the planner thinks of sizes.)
WITH request AS (
    SELECT * FROM unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
                         $8::text[], $9::text[], $10::text[], $11::text[], $12::text[], $13::bytea[], $14::bigint[],
                         $15::text[], $16::text[], $17::int[])
        AS r (i, run_id, fence, if_seq, n, events, source, state, waiting_for, error_code,
              checkpoint_node, checkpoint_next, checkpoint_state, followed_by, due, on_timeout, artifacts)
), clock AS (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us
), minted AS (
    UPDATE runs SET
        last_seq = runs.last_seq + r.n,
        artifacts = runs.artifacts + coalesce(r.artifacts, 0),
        state = coalesce(r.state::run_state, runs.state),
        waiting_for = CASE WHEN r.state IS NULL THEN runs.waiting_for ELSE r.waiting_for END,
        wake_at = CASE WHEN r.due IS NULL THEN runs.wake_at
                       WHEN r.due LIKE '+%' THEN clock_timestamp() + substr(r.due, 2)::float8 * interval '1 second'
                       ELSE to_timestamp(r.due::float8) END,
        error_code = coalesce(r.error_code, runs.error_code),
        started_at = CASE WHEN r.state = 'started' AND runs.started_at IS NULL THEN now() ELSE runs.started_at END,
        finished_at = CASE WHEN r.state IN ('finished', 'failed', 'cancelled') THEN clock_timestamp()
                           ELSE runs.finished_at END,
        lease_owner = CASE WHEN r.state IS NULL OR r.state = 'started' THEN runs.lease_owner END,
        lease_until = CASE WHEN r.state IS NOT NULL AND r.state <> 'started' THEN NULL
                           -- A process that appends in place of a lost orchestrator keeps its own lease.
                           WHEN r.source = 'api' AND runs.lease_until < now() + runs.lease_s * 0.9 * interval '1 second'
                               THEN now() + runs.lease_s * interval '1 second'
                           ELSE runs.lease_until END
    FROM request AS r
    WHERE runs.run_id = ANY (ARRAY[r.run_id])
      AND runs.fence = r.fence
      AND (runs.external OR r.source <> 'api')
      AND runs.state NOT IN ('finished', 'failed', 'cancelled')
      AND (r.if_seq IS NULL OR runs.last_seq = r.if_seq)
    RETURNING r.i, runs.run_id, runs.run_day, runs.last_seq - r.n AS base, runs.cancel_requested_at IS NOT NULL AS cancel,
              runs.woken AS signals,
              r.n, r.events, r.source, r.checkpoint_node, r.checkpoint_next, r.checkpoint_state, r.followed_by, r.on_timeout,
              runs.artifacts - coalesce(r.artifacts, 0) AS number
), written AS (
    INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)
    SELECT m.run_day, m.run_id, m.base + e.k, clock.us, e.type::event_type, m.source::event_source,
           CASE WHEN e.type <> 'DebugTrace' THEN e.label END,
           CASE WHEN e.type <> 'DebugTrace' THEN NULL WHEN e.numbered = '' THEN e.label
                ELSE left(e.label, -1) || (m.number + e.numbered::int) END
    FROM minted AS m, clock,
         LATERAL (SELECT k, split_part(body, ' ', 1) AS type, nullif(split_part(body, ' ', 2), '') AS label,
                         split_part(body, ' ', 3) AS numbered
                  FROM string_to_table(m.events, ',') WITH ORDINALITY AS t (body, k)) AS e
), checkpointed AS (
    INSERT INTO run_checkpoints AS c (run_id, seq, node, next_node, state, on_timeout)
    SELECT run_id, base + n - followed_by, checkpoint_node, checkpoint_next, coalesce(checkpoint_state, ''), on_timeout
    FROM minted WHERE checkpoint_next IS NOT NULL
    ON CONFLICT (run_id) DO UPDATE SET
        seq = excluded.seq, node = excluded.node, next_node = excluded.next_node, on_timeout = excluded.on_timeout,
        state = CASE WHEN excluded.state = '' THEN c.state ELSE excluded.state END
)
SELECT i, base, cancel, signals, number FROM minted

-- name: append_plain
-- As `append`, for batches in which no request changes a state or stores a checkpoint: most of them.
WITH clock AS (
    SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us
), minted AS (
    UPDATE runs SET
        last_seq = runs.last_seq + r.n,
        lease_until = CASE WHEN runs.external AND runs.lease_until < now() + runs.lease_s * 0.9 * interval '1 second'
                               THEN now() + runs.lease_s * interval '1 second'
                           ELSE runs.lease_until END
    FROM unnest($1::int[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::text[])
        AS r (i, run_id, fence, if_seq, n, events, source)
    WHERE runs.run_id = ANY (ARRAY[r.run_id])
      AND runs.fence = r.fence
      AND (runs.external OR r.source <> 'api')
      AND runs.state NOT IN ('finished', 'failed', 'cancelled')
      AND (r.if_seq IS NULL OR runs.last_seq = r.if_seq)
    RETURNING r.i, runs.run_id, runs.run_day, runs.last_seq - r.n AS base, runs.cancel_requested_at IS NOT NULL AS cancel,
              runs.woken AS signals, r.events, r.source
), written AS (
    INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)
    SELECT m.run_day, m.run_id, m.base + e.k, clock.us, e.type::event_type, m.source::event_source,
           CASE WHEN e.type <> 'DebugTrace' THEN e.label END,
           CASE WHEN e.type = 'DebugTrace' THEN e.label END
    FROM minted AS m, clock,
         LATERAL (SELECT k, split_part(body, ' ', 1) AS type, nullif(split_part(body, ' ', 2), '') AS label
                  FROM string_to_table(m.events, ',') WITH ORDINALITY AS t (body, k)) AS e
)
SELECT i, base, cancel, signals FROM minted

-- name: append_one
-- As `append_plain`, for one event of one run: what a caller gets who is alone.
WITH minted AS (
    UPDATE runs SET
        last_seq = last_seq + 1,
        lease_until = CASE WHEN external AND lease_until < now() + lease_s * 0.9 * interval '1 second'
                               THEN now() + lease_s * interval '1 second'
                           ELSE lease_until END
    WHERE run_id = $1 AND fence = $2 AND (external OR $4::text <> 'api')
      AND state NOT IN ('finished', 'failed', 'cancelled')
      AND ($3::bigint IS NULL OR last_seq = $3)
    RETURNING run_id, run_day, last_seq, cancel_requested_at IS NOT NULL AS cancel, woken AS signals
), written AS (
    INSERT INTO run_events (run_day, run_id, seq, ts_us, type, source, name, fn)
    SELECT run_day, run_id, last_seq, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint,
           $5::text::event_type, $4::text::event_source, $6::text, $7::text
    FROM minted
)
SELECT 0 AS i, last_seq - 1 AS base, cancel, signals FROM minted

-- name: refused
-- Why appends were refused: the runs as they are now.
SELECT run_id, state::text AS state, last_seq, fence, external FROM runs WHERE run_id = ANY ($1::text[])

-- name: run_day
-- The day of the log that a run's events belong to.
SELECT run_day FROM runs WHERE run_id = $1

-- name: cancel_at_rest
-- Ends a cancelled run that no worker walks, with its events, in one transaction; no row if a worker does.
SELECT agent, external, was::text AS was, took_s FROM cancel_at_rest($1)
