-- name: hold
-- This session proves that the worker is alive, while it lasts. False: an earlier session of the worker still has the
-- lock, or another worker is checking it.
SELECT pg_try_advisory_lock(hashtext('runwire.workers'), hashtext($1::text)) AS held

-- name: enlist
-- `anew`: the row was not there, because the worker has just started, or because others took it for dead.
INSERT INTO workers (worker_id, host, pid, agents, slots) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (worker_id) DO UPDATE SET seen_at = now()
RETURNING xmax = 0 AS anew

-- name: acquit
-- The worker was taken for dead and lives: nothing that it walked has killed it.
WITH back AS (
    UPDATE run_losses SET losses = greatest(losses - 1, 0), alone_s = 0, parked = false, not_before = now()
    WHERE worker_id = $1
    RETURNING run_id, fence
)
UPDATE runs AS r SET lease_until = now() + r.lease_s * interval '1 second'
FROM back WHERE r.run_id = back.run_id AND r.fence = back.fence AND r.state IN ('pending', 'started')

-- name: leave
DELETE FROM workers WHERE worker_id = $1

-- name: look
-- Workers among the next eight, in the circle of all ids, whose session is gone. The shared lock is given back at once;
-- the owner's keeps it from being had. A server that has just started (`settling`) has none of the sessions there were.
SELECT near.worker_id, clock_timestamp() - pg_postmaster_start_time() <= $2::real * interval '1 second' AS settling FROM (
    SELECT * FROM (SELECT worker_id, 0 AS lap FROM workers WHERE worker_id > $1 ORDER BY worker_id LIMIT 8) AS further
    UNION ALL
    SELECT * FROM (SELECT worker_id, 1 AS lap FROM workers WHERE worker_id < $1 ORDER BY worker_id LIMIT 8) AS again
    ORDER BY lap, worker_id LIMIT 8
) AS near
WHERE pg_try_advisory_xact_lock_shared(hashtext('runwire.workers'), hashtext(near.worker_id))

-- name: bury
-- Ends the leases of workers whose session is gone, exactly once among all callers, and judges the runs that they held.
-- A loss counts against every run in the worker's hands that has finished no node since its loss before. With one loss
-- to go a run is a suspect: it is held back for an hour (code that knows nothing of this takes it then), and `claim`
-- gives a worker half of the suspects that were lost together. When a worker dies with one suspect, that one has done
-- it, and the others are acquitted. With several it is not known: the next worker takes half of them, for twice as
-- long.
WITH gone AS (
    DELETE FROM workers AS w
    WHERE w.worker_id = ANY ($1::text[])
      AND pg_try_advisory_xact_lock_shared(hashtext('runwire.workers'), hashtext(w.worker_id))
    RETURNING w.worker_id
), pending AS MATERIALIZED (
    SELECT run_id, agent, lease_owner, last_seq, fence FROM runs
    WHERE state = 'pending' AND NOT external AND lease_owner IN (SELECT worker_id FROM gone) FOR UPDATE
), started AS MATERIALIZED (
    SELECT run_id, agent, lease_owner, last_seq, fence FROM runs
    WHERE state = 'started' AND NOT external AND lease_owner IN (SELECT worker_id FROM gone) FOR UPDATE
), held AS (
    SELECT h.*, coalesce(l.losses, 0) AS losses, coalesce(l.alone_s, 0) AS alone_s,
           coalesce(c.seq, 0) > coalesce(l.seq, 0) AS went_on
    FROM (SELECT * FROM pending UNION ALL SELECT * FROM started) AS h
    LEFT JOIN run_losses AS l ON l.run_id = h.run_id
    LEFT JOIN run_checkpoints AS c ON c.run_id = h.run_id
), tried AS (
    SELECT held.*, alone_s > 0 AND NOT went_on AS suspect,
           count(*) FILTER (WHERE alone_s > 0 AND NOT went_on) OVER (PARTITION BY lease_owner) AS suspects
    FROM held
), judged AS (
    SELECT tried.*,
           CASE WHEN suspects = 0 THEN CASE WHEN went_on THEN 1 ELSE losses + 1 END
                WHEN suspect AND suspects = 1 THEN losses + 1
                WHEN suspect THEN losses END AS counts
    FROM tried
), grouped AS (
    SELECT judged.*,
           CASE WHEN suspects > 0 THEN suspects
                ELSE count(*) FILTER (WHERE counts = $2 - 1) OVER (PARTITION BY lease_owner) END AS together
    FROM judged
), noted AS (
    INSERT INTO run_losses AS l (run_id, losses, seq, fence, worker_id, not_before, alone_s, company, parked)
    SELECT run_id, counts, last_seq, fence, lease_owner,
           now() + CASE WHEN counts < 2 THEN 0 ELSE least($3::real * 2.0 ^ (counts - 2), 60) END * interval '1 second',
           CASE WHEN counts < $2 - 1 THEN 0 WHEN suspects > 1 THEN least(2 * alone_s, 3600) ELSE 60 END,
           greatest((together + 1) / 2, 1),
           counts >= $2
    FROM grouped WHERE counts IS NOT NULL
    ON CONFLICT (run_id) DO UPDATE SET
        losses = excluded.losses, seq = excluded.seq, fence = excluded.fence, worker_id = excluded.worker_id,
        lost_at = now(), not_before = excluded.not_before, alone_s = excluded.alone_s, company = excluded.company,
        taken_at = NULL, parked = excluded.parked
    RETURNING l.run_id, l.not_before, l.alone_s > 0 AND NOT l.parked AS suspect, l.parked
), freed AS (
    UPDATE runs AS r SET lease_until = CASE
        WHEN n.suspect THEN now() + interval '1 hour'
        WHEN n.not_before > now() AND NOT n.parked THEN n.not_before
        ELSE now() - interval '1 millisecond' END
    FROM judged AS j LEFT JOIN noted AS n ON n.run_id = j.run_id
    WHERE r.run_id = j.run_id
), forgotten AS (
    DELETE FROM run_losses AS l USING runs AS r
    WHERE r.run_id = l.run_id AND r.finished_at IS NOT NULL AND EXISTS (SELECT FROM gone)
)
SELECT gone.worker_id, j.run_id, j.agent, j.counts AS losses
FROM gone LEFT JOIN judged AS j ON j.lease_owner = gone.worker_id

-- name: seen
UPDATE workers SET seen_at = now() WHERE worker_id = $1 RETURNING worker_id

-- name: block
-- The run's node makes the event loop of this worker stand.
INSERT INTO run_blocks (run_id, worker_id, node, at, blocked_s)
SELECT run_id, $2, left($3, 128), left($4, 256), $5 FROM runs WHERE run_id = $1
ON CONFLICT (run_id) DO UPDATE SET
    worker_id = excluded.worker_id, node = excluded.node, at = excluded.at, blocked_s = excluded.blocked_s, seen_at = now()

-- name: own_up
-- Before a worker ends because of one run: the others are given back, so that the loss counts against that one alone.
UPDATE runs SET lease_until = now() - interval '1 millisecond', lease_owner = NULL
WHERE run_id = ANY ($1::text[]) AND run_id <> $2 AND lease_owner = $3 AND state IN ('pending', 'started')
RETURNING agent
